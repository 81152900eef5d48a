"""What the forward kernels read and write by their tiling, in bytes: docs/design.md's figures and the tiles' overhead.

For a tail of M rows and C output channels, with T(n) = ceil(n / 128) tiles:

- *Distinct* bytes are the design's: each phase touches each tensor once.
- *Requested* bytes count what blocks ask for again, mostly of the L2 cache. A product asks for its x once for each of
  the T(C) column tiles and for its weight once for each of the T(M) row tiles. x^T x takes pairs of tiles of channels
  on and below the diagonal, one tile for a pair on it and two for any other: each tile is part of T(K) pairs. All else
  is asked for once.
- Statistics are taken about a shift, the mean of 16 sampled rows; every block that works on a channel samples for
  itself, so this is a constant for each range of rows.
- While y or a gradient is written, each block asks for the vectors of its channels once, however many tiles it takes.
"""

import itertools
from dataclasses import dataclass
from fractions import Fraction

from benchmarks.emulator import Traffic

TILE = 128
FLOAT = 4
SAMPLED_ROWS = 16
RANGE_SHARERS = 32  # threads that share the ranges of a channel of columns
CHANNEL_GROUP = 8
MATRIX_TILE = 64  # of what weights and covariances are multiplied in
BY_BLOCKS = -1  # of requested bytes: they depend on the grid


def tiles(size: int, tile: int = TILE) -> int:
    return -(-size // tile)


def ranges_of(rows: int, cut: int) -> int:
    """Ranges of rows for partial sums of so many tiles each (csrc/partition.h): one for each block, or more."""
    for items in itertools.count(264, 264):
        of_a_range = tiles(tiles(rows, max(1, items // cut))) * TILE
        if of_a_range <= 4096:
            return tiles(rows, of_a_range)
    raise AssertionError


@dataclass(frozen=True)
class BranchSizes:
    """`statistics` as in csrc/tail.h: "none", "running", "columns" or "gram"; `channels` are those of x."""

    name: str
    channels: int
    projection: bool
    statistics: str
    stride: int = 1


@dataclass(frozen=True)
class TailSizes:
    rows: int
    channels: int
    branches: tuple[BranchSizes, ...]
    element_size: int

    @property
    def phases(self) -> list[str]:
        """What lies between the grid barriers."""
        statistics = {branch.statistics for branch in self.branches}
        if not statistics & {"columns", "gram"}:
            return ["apply"]
        parted = any(map(self._statistics_parts, self.branches))
        combine = ["combine"] if "gram" in statistics else []
        return ["moments", *combine, "finish", *(["join"] if parted else []), "apply"]

    @property
    def ranges(self) -> int:
        """Into how many the rows are cut for the partial sums of all branches."""
        return ranges_of(self.rows, sum(map(self._moments_tiles, self.branches)))

    @staticmethod
    def _statistics_parts(branch: BranchSizes) -> int:
        """Into how many the sums over many input channels are cut; 0 where they are not."""
        many = branch.statistics == "gram" and branch.channels > 2 * MATRIX_TILE
        return tiles(branch.channels, MATRIX_TILE) if many else 0

    def _moments_tiles(self, branch: BranchSizes) -> int:
        if branch.statistics == "gram":
            t = tiles(branch.channels)
            return t * (t + 1) // 2
        return tiles(self.channels) if branch.statistics == "columns" else 0

    def activations(self, phase: str) -> dict[str, Traffic]:
        """The traffic of each buffer of activations that the phase touches."""
        touched: dict[str, Traffic] = {}
        for branch in self.branches:
            if phase == "moments":
                touched |= self._moments_activations(branch)
            elif phase == "apply":
                touched |= self._apply_activations(branch)
        if phase == "apply":
            touched["y"] = written(self._bytes(self.channels))
        return touched

    def weights(self, phase: str) -> dict[str, Traffic]:
        """The traffic of each weight that the phase reads."""
        read_by = {branch.name: self._weight_reads(branch, phase) for branch in self.branches}
        return {
            f"{branch.name}.weight": read(self._weight(branch), read_by[branch.name])
            for branch in self.branches
            if read_by[branch.name]
        }

    def workspace(self, phase: str) -> dict[str, Traffic]:
        """Partial sums and statistics: each buffer whose traffic in the phase does not depend on the grid."""
        touched: dict[str, Traffic] = {}
        for branch in self.branches:
            if branch.statistics == "columns":
                touched |= self._columns_workspace(branch, phase)
            elif branch.statistics == "gram":
                touched |= self._gram_workspace(branch, phase)
        return touched

    def distinct(self, phase: str) -> int:
        """Distinct bytes of all activations in the phase."""
        touched = self.activations(phase).values()
        return sum(traffic.distinct_read + traffic.distinct_written for traffic in touched)

    def in_outputs(self) -> Fraction:
        """Distinct bytes of all activations in all phases, in units of y's."""
        return Fraction(sum(map(self.distinct, self.phases)), self._bytes(self.channels))

    def _bytes(self, channels: int) -> int:
        return self.rows * channels * self.element_size

    def _weight(self, branch: BranchSizes) -> int:
        return self.channels * branch.channels * self.element_size

    def _moments_activations(self, branch: BranchSizes) -> dict[str, Traffic]:
        x, k = f"{branch.name}.x", branch.channels
        samples = self.ranges * SAMPLED_ROWS * k * self.element_size
        if branch.statistics == "columns":
            return {x: read(self._bytes(k), extra=samples)}
        if branch.statistics == "gram":
            return {x: read(self._bytes(k), tiles(k), extra=tiles(k) * samples)}
        return {}

    def _apply_activations(self, branch: BranchSizes) -> dict[str, Traffic]:
        times = tiles(self.channels) if branch.projection else 1
        return {f"{branch.name}.x": read(self._bytes(branch.channels), times)}

    def _weight_reads(self, branch: BranchSizes, phase: str) -> int:
        """How often each element of the weight is asked for."""
        if branch.projection and phase == "apply":
            return tiles(self.rows)
        # Once for each column of tiles of W Cov.
        return tiles(branch.channels, MATRIX_TILE) if (branch.statistics, phase) == ("gram", "finish") else 0

    def _columns_workspace(self, branch: BranchSizes, phase: str) -> dict[str, Traffic]:
        mean, m2 = f"{branch.name}.partial_mean", f"{branch.name}.partial_m2"
        vector = FLOAT * self.channels
        partial = self.ranges * vector
        if phase == "moments":
            return {mean: written(partial), m2: written(partial)}
        if phase == "finish":
            # The first range's mean by each that shares the ranges; then all of them, once.
            return {
                mean: read(partial, 1, extra=RANGE_SHARERS * vector),
                m2: read(partial),
                **self._statistics(branch, written(vector)),
            }
        return self._statistics(branch, by_blocks(vector)) if phase == "apply" else {}

    def _gram_workspace(self, branch: BranchSizes, phase: str) -> dict[str, Traffic]:
        name, k, ranges = branch.name, branch.channels, self.ranges
        covariance, means, vector = FLOAT * k * k, FLOAT * k, FLOAT * self.channels
        if phase == "moments":
            gram = written(FLOAT * ranges * _gram_elements(k))
            return {f"{name}.partial_gram": gram, f"{name}.partial_sum": written(ranges * means)} | {
                f"{name}.shift": written(means)
            }
        if phase == "combine":
            lower = FLOAT * ranges * sum(min(4 * tiles(row + 1, 4), k) for row in range(k))  # four at a time
            return {f"{name}.partial_gram": read(lower), f"{name}.cov": written(covariance)} | {
                f"{name}.mu": written(means),
                f"{name}.shift": read(means),
            }
        parts = self._statistics_parts(branch)
        if phase == "finish":
            groups = tiles(self.channels, MATRIX_TILE)
            inputs = {f"{name}.cov": read(covariance, groups), f"{name}.mu": read(means, groups)}
            if parts:
                return inputs | {f"{name}.partial_statistics": written(2 * parts * vector)}
            return inputs | self._statistics(branch, written(vector))
        if phase == "join":
            joined = {f"{name}.partial_statistics": read(2 * parts * vector)} | self._statistics(
                branch, written(vector)
            )
            return joined if parts else {}
        return self._statistics(branch, by_blocks(vector))

    def _statistics(self, branch: BranchSizes, traffic: Traffic) -> dict[str, Traffic]:
        return {f"{branch.name}.mean": traffic, f"{branch.name}.var": traffic}


def written(size: int) -> Traffic:
    return Traffic(0, size, 0, size)


def read(size: int, times: int = 1, extra: int = 0) -> Traffic:
    """So many bytes, all of them asked for so often and some of them once more."""
    return Traffic(size, 0, size * times + extra, 0)


def by_blocks(size: int) -> Traffic:
    """So many bytes, as often as the grid has blocks for them."""
    return Traffic(size, 0, BY_BLOCKS, 0)


def as_expected(found: Traffic, expected: Traffic) -> bool:
    """Whether what was counted is what the formula says."""
    if expected.requested_read >= 0:
        return found == expected
    by_grid = expected._replace(requested_read=found.requested_read)
    return found == by_grid and found.requested_read >= found.distinct_read


def _gram_elements(channels: int) -> int:
    """Elements of one range's partial x^T x: tiles on and below the diagonal, without the quarter above it in those."""
    sizes = [min(TILE, channels - first) for first in range(0, channels, TILE)]
    whole = sum(a * b for i, a in enumerate(sizes) for b in sizes[: i + 1])
    above = sum(min(n, TILE // 2) * max(0, n - TILE // 2) for n in sizes)
    return whole - above
