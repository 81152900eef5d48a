"""A call of a model, seen from its tails, that leaves the model as it is."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .. import functional
from ..fusion.block import FusedBlock, refusal
from ..fusion.generators import generator_states, restore_generators
from ..nn import ResidualBlock
from ..operation.branches import Branch
from ..operation.layouts import is_copied, memory_format
from .describe import describe, with_copied_gradient
from .result import TailExplanation


def recorded(model: nn.Module, inputs: tuple[Any, ...], values: bool = False) -> list[TailExplanation]:
    """The tails of ``model(*inputs)``, in order, under the grad mode and autocast of the caller.

    A copy of the model runs, on tensors that have shapes and no values. What needs values (control flow that depends
    on them, operators without a version for shapes) fails there; then a copy runs on copies of the inputs, as where
    ``values`` are asked for.
    """
    with _generators_kept(), _compilers_off():
        if values:
            return _of_values(model, inputs, values)
        try:
            return _of_shapes(model, inputs)
        except Exception:  # whatever a forward raises that looks for values
            return _of_values(model, inputs, values)


def _of_shapes(model: nn.Module, inputs: tuple[Any, ...]) -> list[TailExplanation]:
    # What a forward reaches outside of the model is real.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        twin = copy.deepcopy(model)
    with mode:
        return _run(twin, tree_map_only(Tensor, mode.from_tensor, inputs), differentiate=True)


def _of_values(model: nn.Module, inputs: tuple[Any, ...], values: bool) -> list[TailExplanation]:
    return _run(copy.deepcopy(model), tree_map_only(Tensor, _copied, inputs), differentiate=False, values=values)


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.requires_grad)


def _run(model: nn.Module, inputs: tuple[Any, ...], differentiate: bool, values: bool = False) -> list[TailExplanation]:
    recorder = _Recorder(values)
    for name, module in model.named_modules():
        if isinstance(module, (ResidualBlock, FusedBlock)):
            module.register_forward_pre_hook(functools.partial(recorder.enter, name), with_kwargs=True)
            module.register_forward_hook(recorder.leave, always_call=True)
    with functional.listener.set(recorder), recorder:
        outputs = model(*inputs)
        if differentiate:
            _differentiate(outputs)
    return recorder.found


def _differentiate(outputs: Any) -> None:
    """Backward through whatever it goes through, for the recorder to see in which layouts gradients come in."""
    ends = [t for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.requires_grad]
    try:
        torch.autograd.backward(ends, [torch.empty_like(t) for t in ends])
    except Exception:  # of what is not this package's: all that is lost are the layouts
        return


class _Recorder(TorchDispatchMode):
    """Notes the tails of a call: forward operators, and what runs in the place of one."""

    def __init__(self, values: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values = values
        self.found: list[TailExplanation] = []
        self._blocks: list[str] = []
        self._convolved: Sequence[Branch | None] = ()  # of the next tail
        # For the storage of each output and mask: the place in `found`, and the output's format.
        self._places: dict[int, tuple[int, torch.memory_format]] = {}

    @property
    def _block(self) -> str | None:
        return self._blocks[-1] if self._blocks else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace != "fused_resnet":
            return result
        name = func.overloadpacket.__name__
        if name == "residual_tail_backward":
            self._note_incoming(*args[:2])
            return result
        gradients = "forward" in name
        y, *others = result if gradients else (result,)
        for t in (y, *others[:1]):
            self._places[_storage_of(t)] = len(self.found), memory_format(y)
        self.found.append(describe(self._block, args, gradients, self._convolved, self._values))
        self._convolved = ()
        return result

    def _note_incoming(self, dy: Tensor, mask: Tensor | None) -> None:
        """Notes the dy of a tail with a relu; the memory of its mask, packed or y, tells which tail that is."""
        known = None if mask is None else self._places.get(_storage_of(mask))
        if known is not None and is_copied(dy, known[1]):
            self.found[known[0]] = with_copied_gradient(self.found[known[0]], dy)

    def enter(self, name: str, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._blocks.append(name)
        reason = refusal(block, args, kwargs) if isinstance(block, FusedBlock) else None
        if isinstance(block, ResidualBlock):
            reason = block.refusal()
        if reason is not None:
            self.left_out(reason)

    def leave(self, *_: Any) -> None:
        self._blocks.pop()

    def convolved(self, branches: Sequence[Branch | None]) -> None:
        self._convolved = branches

    def left_out(self, reason: str) -> None:
        self._convolved = ()
        self.found.append(TailExplanation(self._block, reason))


def _storage_of(t: Tensor) -> int:
    """It has no address where tensors have no values."""
    return int(t.untyped_storage()._cdata)


@contextmanager
def _generators_kept() -> Iterator[None]:
    states = generator_states()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        restore_generators(states)


def _compilers_off() -> AbstractContextManager[Any]:
    """A compiled model runs as it is written: what was compiled has no blocks any more."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
