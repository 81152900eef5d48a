"""What the emulator counts of the kernels' launches.

The emulator (``tests/emulator/README.md``) runs the CUDA kernels on the CPU. Its module exports its counters as plain C
functions.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from fused_resnet.backends.kernels import loading


class Traffic(NamedTuple):
    """Bytes of a buffer in one phase: how many different ones were touched, and how many all accesses asked for."""

    distinct_read: int
    distinct_written: int
    requested_read: int
    requested_written: int


class Work(NamedTuple):
    """What a phase keeps multiprocessors busy with, as ``tests/emulator/engine/work.h`` counts it.

    All threads together, so that what a whole warp does counts 32 times; `multiply_adds` and `wavefronts` count once.
    """

    multiply_adds: int
    waits: int
    under_way: int
    drained: float
    load_rounds: int
    rounds: float
    longest: float
    barriers: int
    wavefronts: int
    issued: dict[str, int]


@dataclass(frozen=True)
class Phase:
    """What happened between two barriers of the grid; buffers are named as in ``csrc/bindings/forward_call.h``."""

    work: Work
    buffers: dict[str, Traffic]


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, which is named without its template arguments."""

    kernel: str
    cooperative: bool
    blocks: int
    phases: list[Phase]


def missing() -> str | None:
    """Why there is no emulator; None where it is built."""
    return loading.load("_emulated")[1]


@cache
def library() -> ctypes.CDLL:
    """The emulator's own functions."""
    module, reason = loading.load("_emulated")
    assert module is not None, reason
    assert module.__file__ is not None
    loaded = ctypes.CDLL(module.__file__)
    loaded.emulator_counters_json.restype = ctypes.c_char_p
    return loaded


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """A list that holds the emulated launches made within, once the context has ended."""
    launches: list[Launch] = []
    library().emulator_reset_counters()
    library().emulator_set_counting(1)
    try:
        yield launches
    finally:
        library().emulator_set_counting(0)
        launches += map(_launch, json.loads(library().emulator_counters_json()))


@contextmanager
def launches_left_out() -> Iterator[None]:
    """Within, launches are checked and not made, and recorded without phases: what is left is what surrounds them."""
    library().emulator_set_launching(0)
    try:
        yield
    finally:
        library().emulator_set_launching(1)


def _launch(record: dict[str, Any]) -> Launch:
    phases = [
        Phase(Work(**phase["work"]), {_name(names): Traffic(**traffic) for names, traffic in phase["buffers"].items()})
        for phase in record["phases"]
    ]
    return Launch(record["kernel"], record["cooperative"], record["blocks"], phases)


def _name(names: str) -> str:
    """Of a buffer behind several pointers: dy is g, too, where nobody writes g."""
    return "+".join(dict.fromkeys(names.split("+")))


def is_activation(buffer: str) -> bool:
    """Whether the buffer is as large as the rows are many: no weight, vector or partial sum."""
    return buffer in ("dy", "y", "mask", "g") or buffer.endswith((".x", ".dx"))
