"""The compiled kernels under test: which can be used here, one call of them, and what tests choose of the emulator."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from samples import Tail
from torch import Tensor

import fused_resnet
from benchmarks.emulator import library, missing
from fused_resnet.backends.kernels import loading
from fused_resnet.backends.kernels.computation import KernelComputation
from fused_resnet.backends.kernels.computation import backward_call as backward_call_of
from fused_resnet.backends.kernels.computation import forward_call as forward_call_of
from fused_resnet.operation.branches import Branch, output_shape
from fused_resnet.operation.computation import Gradients, Needs, is_identity, operands_of
from fused_resnet.operation.computation import Tail as CheckedTail
from fused_resnet.operation.layouts import empty_gradients
from fused_resnet.operation.relu_mask import empty_mask

_MISSING = missing()
# Of tests that cannot do without the emulator.
needs_emulator = [pytest.mark.emulated, pytest.mark.skipif(_MISSING is not None, reason=f"_emulated: {_MISSING}")]
_ON_GPU = [] if fused_resnet.available_backends()["cuda"] is not None else ["cuda"]
_EMULATED = pytest.param("emulated", marks=needs_emulator)
# Of tests that take `backend`: the kernels' backends in place of all, on a GPU where there is one.
on_kernels = pytest.mark.parametrize("backend", [_EMULATED, *_ON_GPU], indirect=True)
only_emulated = pytest.mark.parametrize("backend", [_EMULATED], indirect=True)


@contextmanager
def _set(choose: Callable[[int], object], value: int, otherwise: int) -> Iterator[None]:
    choose(value)
    try:
        yield
    finally:
        choose(otherwise)


def thread_order(seed: int) -> AbstractContextManager[None]:
    """Lets the emulator run threads in the order that the seed gives."""
    return _set(library().emulator_set_seed, seed, 0)


def multiprocessors(count: int) -> AbstractContextManager[None]:
    """Lets the emulator be a GPU of that size: grids are as large as fits."""
    return _set(library().emulator_set_multiprocessors, count, 4)


def shared_memory(kib: int) -> AbstractContextManager[None]:
    """Lets a multiprocessor of the emulator's GPU have so much shared memory."""
    return _set(library().emulator_set_shared_kib, kib, 228)


def module_of(backend: str) -> Any:
    """The extension module behind "cuda" or "emulated"."""
    return loading.load("_C" if backend == "cuda" else "_emulated")[0]


def forward_call(
    backend: str,
    main: Branch,
    shortcut: Branch | None,
    activation: str | None = "relu",
    y: Tensor | None = None,
    *,
    keep: bool = False,
) -> tuple[Any, Tensor]:
    """The module's call that computes the tail, not yet run, and the output that it will write (channels_last).

    `keep`: the call leaves what backward needs.
    """
    if y is None:
        y = torch.empty(output_shape(main), dtype=main.x.dtype, device=main.x.device)
        y = y.to(memory_format=torch.channels_last)
    tail = _checked(main, shortcut, activation)
    return forward_call_of(module_of(backend), tail, y, keep, _empty_mask(backend, tail) if keep else None), y


def _empty_mask(backend: str, tail: CheckedTail) -> Tensor | None:
    packs = KernelComputation(module_of(backend)).packs_mask(tail)
    return empty_mask(tail.branches) if packs else None


def _checked(main: Branch, shortcut: Branch | None, activation: str | None) -> CheckedTail:
    return CheckedTail((main,) if shortcut is None else (main, shortcut), activation == "relu")


def backward_call(
    backend: str,
    main: Branch,
    shortcut: Branch | None,
    activation: str | None,
    dy: Tensor,
) -> tuple[Any, dict[str, Tensor]]:
    """The module's call of the tail's backward, not yet run, and the gradients that it will write, by operand.

    The forward that it belongs to has run. Gradients are those of what requires them; an identity's without a relu is
    `dy` and not among them.
    """
    tail = _checked(main, shortcut, activation)
    mask = _empty_mask(backend, tail)
    _, statistics = KernelComputation(module_of(backend)).forward(tail, keep=True, mask=mask)
    needs = [Needs(*(t is not None and t.requires_grad for t in operands_of(branch))) for branch in tail.branches]
    if not tail.relu:
        needs = [own._replace(x=own.x and not is_identity(b)) for own, b in zip(needs, tail.branches, strict=True)]
    empty = [empty_gradients(branch, own, dy) for branch, own in zip(tail.branches, needs, strict=True)]
    call = backward_call_of(module_of(backend), tail, dy, mask, statistics, empty)
    names = [f"{name}.{part}" for name in ("main", "shortcut") for part in Gradients._fields]
    flat = [tensor for gradients in empty for tensor in gradients]
    return call, {name: t for name, t in zip(names, flat, strict=False) if t is not None}


def compiled_backward(backend: str, tail: Tail, inputs: dict[str, Tensor], dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """`backward_call` of a sample."""
    shortcut = None if tail.shortcut is None else tail.shortcut.described(inputs["shortcut.x"])
    return backward_call(backend, tail.main.described(inputs["main.x"]), shortcut, tail.activation, dy)


def compiled_forward(
    backend: str, tail: Tail, inputs: dict[str, Tensor], y: Tensor | None = None
) -> tuple[Any, Tensor]:
    """`forward_call` of a sample."""
    shortcut = None if tail.shortcut is None else tail.shortcut.described(inputs["shortcut.x"])
    return forward_call(backend, tail.main.described(inputs["main.x"]), shortcut, tail.activation, y)
