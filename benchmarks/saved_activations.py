"""Counts what a forward pass keeps for its backward, to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import chain

import torch
from torch import Tensor, nn


class SavedActivations(torch.autograd.graph.saved_tensors_hooks):
    """Within the ``with`` block, counts the bytes that autograd saves.

    Each storage counts once and as a whole, however many saved tensors view it: it is what stays allocated. The
    model's parameters and buffers do not count; its input does, where it is saved. Fake tensors count as real ones.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(self._pack, lambda tensor: tensor)
        self._state = {_identity(tensor) for tensor in chain(model.parameters(), model.buffers())}
        # Held, not only measured: a storage freed meanwhile would leave its place to another one.
        self._storages: dict[int, torch.UntypedStorage] = {}

    @property
    def nbytes(self) -> int:
        """Bytes saved so far."""
        return sum(storage.nbytes() for storage in self._storages.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        if _identity(tensor) not in self._state:
            self._storages[_identity(tensor)] = tensor.untyped_storage()
        return tensor


def _identity(tensor: Tensor) -> int:
    """What names the tensor's storage: not its address, for fake tensors have none."""
    identity: int = tensor.untyped_storage()._cdata
    return identity


def saved_bytes(model: nn.Module, x: Tensor, forward: Callable[[Tensor], object] | None = None) -> int:
    """Bytes saved by ``model(x)``, parameters and buffers aside; `forward` computes that in another way."""
    saved = SavedActivations(model)
    with saved:
        (model if forward is None else forward)(x)
    return saved.nbytes


def saved_bytes_by_module(model: nn.Module, x: Tensor, names: Iterable[str]) -> dict[str, int]:
    """Bytes that each named submodule is the first to save in ``model(x)``.

    A block's output is saved by the block itself and by whatever reads it next; it counts for the block. So the
    numbers of submodules that do not contain one another add up to at most `saved_bytes`.
    """
    saved = SavedActivations(model)
    before: dict[str, int] = {}
    after: dict[str, int] = {}

    def note(into: dict[str, int], name: str) -> Callable[..., None]:
        return lambda *_: into.update({name: saved.nbytes})

    with ExitStack() as hooks:
        for name in names:
            module = model.get_submodule(name)
            hooks.enter_context(module.register_forward_pre_hook(note(before, name)))
            hooks.enter_context(module.register_forward_hook(note(after, name)))
        with saved:
            model(x)
    return {name: after[name] - before[name] for name in after}
