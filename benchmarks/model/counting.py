"""Counts what each phase of a tail has to do, by the emulator, for a size that it could not run.

Rows are many and alike, so two small numbers of them are run and the line through both is taken: amounts grow with the
tiles of rows, and with the items that these are shared among (of phases that walk along columns of tiles, the blocks).
How many items the full size has is asked of the launcher, which then launches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fused_resnet.backends.kernels import loading

from ..emulator import Launch, Traffic, launches_left_out, library, recorded_launches
from ..launches import BACKWARD, FORWARD, Launches
from ..tail_shapes import TailShape
from ..tails import Tail
from .instructions import COPY_BYTES, SCATTERED_SLOTS, TILE_ROWS, WARP, instructions

THREADS = 256
# Height and width of the images that are run: two tiles of rows each.
_SIZE = 16
_MANY = 100_000
_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Amounts:
    """What a launch of one phase has to do.

    Attributes:
        distinct, requested: bytes of global memory, each counted once, and as often as they are asked for.
        operations: on tensor cores; a multiply-add is two.
        rounds: latencies of global memory that follow each other in the busiest warp, of all blocks together. A wait
            for asynchronous copies is the share of what is under way that it waits for.
        longest: of these, those of the busiest block of a full grid, where the phase is such that blocks differ;
            0 elsewhere.
        under_way: bytes on their way to a block's shared memory as it waits, on average.
        barriers: of all blocks together.
        wavefronts: of shared memory, with bank conflicts, of all warps together.
        instructions: of all warps together, as if those of a block had all as many as the busiest.
        grid_barriers: within the phase.
        items: that can be worked on side by side.
        slots: blocks that run at the same time.
        uneven: work of the busiest block of a full grid over that of all on average.
        uneven_multiprocessors: the same of the blocks of a multiprocessor together.
    """

    distinct: float
    requested: float
    operations: float
    rounds: float
    longest: float
    under_way: float
    barriers: float
    wavefronts: float
    instructions: float
    grid_barriers: float
    items: float
    slots: float = 0.0
    uneven: float = 1.0
    uneven_multiprocessors: float = 1.0

    def combined(self, other: Amounts, own: float, others: float) -> Amounts:
        """A linear combination, amount by amount; nothing is less than none."""
        return Amounts(*(max(0.0, own * getattr(self, f.name) + others * getattr(other, f.name)) for f in fields(self)))


def amounts_of(launch: Launch, phase: str, shape: TailShape) -> Amounts:
    """What the emulator has counted of a launch, of this phase of a tail."""
    traffic = [(name, of) for phase in launch.phases for name, of in phase.buffers.items()]
    work = [phase.work for phase in launch.phases]
    waits = sum(own.waits for own in work)
    issued = {kind: sum(own.issued[kind] for own in work) / WARP for kind in work[0].issued}
    strided = ("shortcut.x", "shortcut.dx") if shape.stride > 1 else ()
    apart = sum(_requested(of) for name, of in traffic if name in strided)
    masked = phase == f"{BACKWARD} apply" and any(_requested(of) for name, of in traffic if name == "mask")
    return Amounts(
        distinct=sum(of.distinct_read + of.distinct_written for _, of in traffic),
        requested=sum(_requested(of) for _, of in traffic),
        operations=2 * sum(own.multiply_adds for own in work),
        rounds=sum(own.rounds for own in work),
        longest=sum(own.longest for own in work),
        under_way=THREADS * sum(own.under_way for own in work) / waits if waits else 0.0,
        barriers=sum(own.barriers for own in work) / THREADS,
        wavefronts=sum(own.wavefronts for own in work),
        instructions=instructions(phase, shape, issued, masked) + apart / COPY_BYTES / WARP * SCATTERED_SLOTS,
        grid_barriers=len(launch.phases) - 1,
        items=launch.blocks,
    )


def _requested(traffic: Traffic) -> int:
    return traffic.requested_read + traffic.requested_written


def unevenness(items: int, blocks: int) -> float:
    """The busiest block's work over the average, where each takes every `blocks`-th item; all are alike."""
    return math.ceil(items / blocks) * blocks / items


@dataclass(frozen=True)
class Counter:
    """Counts one tail computed in one way.

    Attributes:
        slots: blocks that the GPU runs at the same time.
        multiprocessors: of the GPU.
    """

    shape: TailShape
    slots: int
    multiprocessors: int

    def counted(self) -> Iterator[tuple[str, Amounts]]:
        """The amounts of each phase that has work."""
        items, tiles = self._items(self.shape), math.ceil(self.shape.rows / TILE_ROWS)
        for phase in items:
            fixed = {"slots": self.slots}
            if phase.endswith("finish"):
                yield phase, replace(self._finishing(phase, items), **fixed)
                continue
            count = self._along_columns if phase.endswith("apply") else self._of_ranges
            found = count(phase, tiles, items)
            distinct = found.distinct + self._read_again(phase)
            yield phase, replace(found, distinct=distinct, **fixed, **self._unevenness(items[phase]))

    def _read_again(self, phase: str) -> float:
        """Bytes of g that two passes of backward's apply read from memory, and the emulator counts once."""
        has_two = phase == f"{BACKWARD} apply" and self.shape.inner is None and self.shape.projections
        return self.shape.rows * self.shape.channels * _DTYPE.itemsize if has_two else 0.0

    def _unevenness(self, items: int) -> dict[str, float]:
        """Of more items than blocks, a multiprocessor has blocks that are alike: an H100 puts neighbours on it."""
        of_blocks = unevenness(items, min(items, self.slots))
        of_few = unevenness(items, self.multiprocessors)
        return {"uneven": of_blocks, "uneven_multiprocessors": of_few if items <= self.slots else of_blocks}

    def _along_columns(self, phase: str, tiles: int, items: Mapping[str, int]) -> Amounts:
        """Amounts of a phase whose blocks keep to a column of tiles. It runs one block a column."""
        columns = math.ceil(items[phase] / tiles)
        few, more = (self.run(self._rows_of(images), phase, columns) for images in (3, 6))
        each = more.combined(few, 1 / 6, -1 / 6)  # tiles of rows: an image has two
        ahead = few.combined(each, 1.0, -6.0)
        blocks = min(items[phase], self.slots) / columns
        found = each.combined(ahead, tiles, blocks)
        fixed = {"under_way": more.under_way, "grid_barriers": more.grid_barriers, "items": items[phase]}
        return replace(found, longest=0.0, **fixed)

    def _of_ranges(self, phase: str, tiles: int, items: Mapping[str, int]) -> Amounts:
        """Amounts of a phase whose work is cut by ranges of rows."""
        few, more = self._rows_of(1), self._with_longer_ranges(phase)
        (of_few, few_items), (of_more, more_items) = (
            (self.run(of, phase, _MANY), self._items(of)) for of in (few, more)
        )
        few_tiles, more_tiles = (of.rows / TILE_ROWS for of in (few, more))
        determinant = few_tiles * more_items[phase] - more_tiles * few_items[phase]
        found = of_few.combined(
            of_more,
            (tiles * more_items[phase] - more_tiles * items[phase]) / determinant,
            (few_tiles * items[phase] - tiles * few_items[phase]) / determinant,
        )
        return replace(found, under_way=of_more.under_way, longest=0.0, grid_barriers=0, items=items[phase])

    def _with_longer_ranges(self, phase: str) -> TailShape:
        """A shape whose ranges have at least twice the rows of a single image's."""
        short = self._items(self._rows_of(1))[phase]
        for images in (8, 33, 66, 132):
            shape = self._rows_of(images)
            if self._items(shape)[phase] * 2 <= short * images:
                return shape
        return self._rows_of(264)

    def _finishing(self, phase: str, items: Mapping[str, int]) -> Amounts:
        """Amounts of the phase that combines what ranges leave."""
        first = f"{FORWARD} moments" if phase.startswith(FORWARD) else f"{BACKWARD} reduce"
        grid = self.slots
        small = {self._items(shape)[first]: shape for shape in map(self._rows_of, (132, 66, 33, 17, 9, 5))}
        if items[first] in small:
            found = self.run(small[items[first]], phase, grid)
        else:
            more, few = sorted(small, reverse=True)[:2]
            share = (items[first] - few) / (more - few)
            found = self.run(small[few], phase, grid).combined(self.run(small[more], phase, grid), 1 - share, share)
        return replace(found, items=items[phase])

    def _rows_of(self, images: int) -> TailShape:
        return replace(self.shape, batch=images, size=_SIZE)

    def _items(self, shape: TailShape) -> dict[str, int]:
        """How many items each phase has, if any; the tensors are never touched."""
        library().emulator_set_multiprocessors(_MANY)
        found = {}
        with launches_left_out():
            for phase, call in self._calls(shape, torch.empty).items():
                with recorded_launches() as launches:
                    call()
                if launches:
                    found[phase] = launches[0].blocks
        return found

    def run(self, shape: TailShape, phase: str, blocks: int) -> Amounts:
        """What the emulator counts of a tail that is small enough, on so many blocks."""
        library().emulator_set_multiprocessors(blocks)  # of which each holds one
        with launches_left_out():
            calls = self._calls(shape, torch.zeros)
        with recorded_launches() as launches:
            calls[phase]()
        return amounts_of(launches[0], phase, shape)

    def _calls(self, shape: TailShape, fill: Callable[..., Tensor]) -> dict[str, Callable[[], object]]:
        module, reason = loading.load("_emulated")
        assert module is not None, reason
        tail = Tail(shape, _DTYPE)
        x, before = (_filled(fill, size) for size in _inputs(shape))
        dy = _filled(fill, (shape.batch, shape.channels, shape.size, shape.size))
        launches = Launches(module, list(tail.branches(x, before)), dy)
        launches.forward.run()
        return launches.phases


def _inputs(shape: TailShape) -> Iterator[tuple[int, int, int, int]]:
    """Sizes of both branches' inputs."""
    size, wide = shape.size, shape.size * shape.stride
    yield shape.batch, shape.inner or shape.channels, size, size
    yield shape.batch, shape.before or shape.channels, wide, wide


def _filled(fill: Callable[..., Tensor], sizes: tuple[int, int, int, int]) -> Tensor:
    n, c, h, w = sizes
    return fill((n, h, w, c), dtype=_DTYPE).permute(0, 3, 1, 2)
