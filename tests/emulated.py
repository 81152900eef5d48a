"""The compiled kernels under test: which can be used here, one call phase by phase, and what the emulator tells of it.

The emulator is the CPU's stand-in for a GPU (``tests/emulator/README.md``). Its module exports what tests choose and
the counters that they read as plain C functions.
"""

import ctypes
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from samples import Tail
from torch import Tensor

import fused_resnet
from fused_resnet import _kernels
from fused_resnet.branches import Branch, output_shape
from fused_resnet.kernels import KernelComputation
from fused_resnet.kernels import backward_call as backward_call_of
from fused_resnet.kernels import forward_call as forward_call_of
from fused_resnet.memory import empty_gradients
from fused_resnet.tail import Gradients, Needs, is_identity, operands_of, settle
from fused_resnet.tail import Tail as SettledTail

_MISSING = _kernels.load("_emulated")[1]
# Of tests that cannot do without the emulator.
needs_emulator = [pytest.mark.emulated, pytest.mark.skipif(_MISSING is not None, reason=f"_emulated: {_MISSING}")]
_ON_GPU = [] if fused_resnet.available_backends()["cuda"] is not None else ["cuda"]
_EMULATED = pytest.param("emulated", marks=needs_emulator)
# Of tests that take `backend`: the kernels' backends in place of all, on a GPU where there is one.
on_kernels = pytest.mark.parametrize("backend", [_EMULATED, *_ON_GPU], indirect=True)
only_emulated = pytest.mark.parametrize("backend", [_EMULATED], indirect=True)


class Traffic(NamedTuple):
    """Bytes of a buffer in one phase: how many different ones were touched, and how many all accesses asked for."""

    distinct_read: int
    distinct_written: int
    requested_read: int
    requested_written: int


@dataclass(frozen=True)
class Phase:
    """What happened between two barriers of the grid; buffers are named as in ``csrc/bindings/forward_call.h``."""

    multiply_adds: int
    buffers: dict[str, Traffic]


@dataclass(frozen=True)
class Launch:
    kernel: str
    cooperative: bool
    blocks: int
    phases: list[Phase]


@cache
def _library() -> ctypes.CDLL:
    module, reason = _kernels.load("_emulated")
    assert module is not None, reason
    library = ctypes.CDLL(module.__file__)
    library.emulator_counters_json.restype = ctypes.c_char_p
    return library


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """A list that holds the emulated launches made within, once the context has ended."""
    launches: list[Launch] = []
    _library().emulator_reset_counters()
    _library().emulator_set_counting(1)
    try:
        yield launches
    finally:
        _library().emulator_set_counting(0)
        launches += map(_launch, json.loads(_library().emulator_counters_json()))


def _launch(record: dict[str, Any]) -> Launch:
    phases = [
        Phase(phase["multiply_adds"], {name: Traffic(**traffic) for name, traffic in phase["buffers"].items()})
        for phase in record["phases"]
    ]
    return Launch(record["kernel"], record["cooperative"], record["blocks"], phases)


@contextmanager
def thread_order(seed: int) -> Iterator[None]:
    """Lets the emulator run threads in the order that the seed gives."""
    _library().emulator_set_seed(seed)
    try:
        yield
    finally:
        _library().emulator_set_seed(0)


@contextmanager
def multiprocessors(count: int) -> Iterator[None]:
    """Lets the emulator be a GPU of that size: grids are as large as fits."""
    _library().emulator_set_multiprocessors(count)
    try:
        yield
    finally:
        _library().emulator_set_multiprocessors(4)


def module_of(backend: str) -> Any:
    """The extension module behind "cuda" or "emulated"."""
    return _kernels.load("_C" if backend == "cuda" else "_emulated")[0]


def forward_call(
    backend: str, main: Branch, shortcut: Branch | None, activation: str | None = "relu", y: Tensor | None = None
) -> tuple[Any, Tensor]:
    """The module's call that computes the tail, not yet run, and the output that it will write (channels_last)."""
    if y is None:
        y = torch.empty(output_shape(main), dtype=main.x.dtype, device=main.x.device)
        y = y.to(memory_format=torch.channels_last)
    tail = _settled(backend, main, shortcut, activation, backward=False)
    return forward_call_of(module_of(backend), tail, y, keep=False), y


def _settled(
    backend: str, main: Branch, shortcut: Branch | None, activation: str | None, backward: bool
) -> SettledTail:
    branches = [branch for branch in (main, shortcut) if branch is not None]
    return settle(KernelComputation(module_of(backend)), branches, activation == "relu", backward)


def backward_call(
    backend: str,
    main: Branch,
    shortcut: Branch | None,
    activation: str | None,
    dy: Tensor,
    move: Callable[[Tensor], Tensor] = lambda y: y,
) -> tuple[Any, dict[str, Tensor]]:
    """The module's call of the tail's backward, not yet run, and the gradients that it will write, by operand.

    The forward that it belongs to has run; `move` takes its output elsewhere. Gradients are those of what requires
    them; an identity's without a relu is `dy` and not among them.
    """
    tail = _settled(backend, main, shortcut, activation, backward=True)
    y, statistics = KernelComputation(module_of(backend)).forward(tail, keep=True)
    needs = [Needs(*(t is not None and t.requires_grad for t in operands_of(branch))) for branch in tail.branches]
    if not tail.relu:
        needs = [own._replace(x=own.x and not is_identity(b)) for own, b in zip(needs, tail.branches, strict=True)]
    empty = [empty_gradients(branch, own, dy) for branch, own in zip(tail.branches, needs, strict=True)]
    call = backward_call_of(module_of(backend), tail, dy, move(y) if tail.relu else None, statistics, empty)
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
