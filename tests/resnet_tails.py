"""The tails whose traffic is counted: those of the ResNets, with real channels and few rows, and their sizes.

Neither rows nor the last tile of them are a multiple of the tile.
"""

from dataclasses import replace

import pytest
from emulated import needs_emulator
from tile_formula import BranchSizes, TailSizes

from benchmarks.emulator import Traffic
from benchmarks.tail_shapes import RESNET18, RESNET50, TailShape

BEHIND_CONV = [replace(shape, inner=None) for shape in RESNET50]
ALL = [*RESNET50, *BEHIND_CONV, *RESNET18]
SHAPES = {shape.name: replace(shape, batch=2, size=10) for shape in ALL}
STATISTICS = {"training": "gram", "evaluation": "running"}

each_mode = pytest.mark.parametrize("mode", STATISTICS)
each_real_shape = pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.name)


def sizes_of(shape: TailShape, mode: str) -> TailSizes:
    main = "columns" if shape.inner is None and mode != "evaluation" else STATISTICS[mode]
    shortcut = "none" if shape.before is None else STATISTICS[mode]
    branches = (
        BranchSizes("main", shape.inner or shape.channels, shape.inner is not None, main),
        BranchSizes("shortcut", shape.before or shape.channels, shape.before is not None, shortcut, shape.stride),
    )
    return TailSizes(shape.rows, shape.channels, branches, element_size=2)


def is_weight(buffer: str) -> bool:
    return buffer.endswith((".weight", ".dweight")) and not buffer.endswith(".norm.weight")


def touched(buffers: dict[str, Traffic], kind) -> dict[str, Traffic]:
    """The buffers of a kind that have been read or written at all."""
    return {name: traffic for name, traffic in buffers.items() if kind(name) and any(traffic)}


def cases(chosen):
    """Tails and modes, by name, that are chosen; they need the emulator."""
    named = [(name, mode) for name in SHAPES for mode in STATISTICS if chosen(name, mode)]
    return pytest.mark.parametrize(
        ("name", "mode"), [pytest.param(*case, marks=needs_emulator, id=" ".join(case)) for case in named]
    )
