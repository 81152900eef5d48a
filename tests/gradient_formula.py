"""What the backward kernels read and write by their tiling, in bytes: the counterpart of `tile_formula` for gradients.

All gradients are asked for, there is a relu, and the layouts are dense. With T(n) = ceil(n / 128) tiles:

- g = dy where y > 0 is made anew by every item that sums it: dy is asked for once by a direct source, and once for each
  of the T(K) input tiles of g^T x. The mask has a byte for each 16 bytes of y, and is asked for as often. One branch
  writes g where it is an identity's gradient or where T(K) > 1; otherwise g is made anew where dx is. Of a direct
  source's norm by itself, the mask comes from the source.
- g^T x asks for x once for each of the T(C) output tiles, and samples 16 rows for a shift in every item.
- The product that leaves dx asks for g and x T(K) times, and for its matrix once for each of the T(M) tiles of rows.
- dx has every pixel of the input, also those that a stride passes by.
- Two projections of at most 64 inputs share the tiles of g^T x, and where there is no stride those of dx: dy and the
  mask are asked for once for both.
- Between these phases W Cov and Q are made in tiles of 64 x 64, and what dx is multiplied from in groups of 8 rows.
"""

from fractions import Fraction

from tile_formula import (
    CHANNEL_GROUP,
    FLOAT,
    MATRIX_TILE,
    SAMPLED_ROWS,
    TILE,
    BranchSizes,
    TailSizes,
    by_blocks,
    ranges_of,
    read,
    tiles,
    written,
)

from benchmarks.emulator import Traffic, is_activation

Touched = dict[str, Traffic]


def writes_g(tail: TailSizes) -> bool:
    """Whether g is written: as an identity's gradient, or where several tiles of dx read it."""
    return any(branch.channels > TILE if branch.projection else branch.statistics == "none" for branch in tail.branches)


class BranchGradient:
    """What one branch touches in each phase; an identity, whose gradient is g, nothing."""

    reduction_tiles = 0

    def __init__(self, tail: TailSizes, branch: BranchSizes) -> None:
        self.name, self.k, self.c = branch.name, branch.channels, tail.channels
        self.size, self.rows = tail.element_size, tail.rows
        self.of_vector = 16 // self.size  # elements
        self.training = branch.statistics not in ("none", "running")
        self.y, self.x = (tail.rows * channels * self.size for channels in (self.c, self.k))
        self.dx = self.x * branch.stride**2
        self.vector, self.inputs = FLOAT * self.c, FLOAT * self.k
        self.ranges = 0
        self.masks_again = not writes_g(tail)

    def named(self, **buffers: Traffic) -> Touched:
        return {f"{self.name}.{part}": traffic for part, traffic in buffers.items()}

    def reduce(self) -> Touched:
        return {}

    def vectors(self) -> Touched:
        return {}

    def matrices(self) -> Touched:
        return {}

    def roundings(self) -> Touched:
        return {}

    def apply(self) -> Touched:
        return {}

    def incoming(self, times: int, of_mask: int) -> Touched:
        """dy, and the mask, asked for so often."""
        return {"dy": read(self.y, times), "mask": read(self.rows * tiles(self.c, self.of_vector), of_mask)}

    def applied_incoming(self, times: int) -> Touched:
        return self.incoming(times, times) if self.masks_again else {"g": read(self.y, times)}

    def norm_vectors(self) -> Touched:
        """The sums in the gradient of a pre-norm tensor."""
        if not self.training:
            return {}
        sums = by_blocks(self.vector)
        return {"sum": sums, **self.named(dot=sums)}


class DirectGradient(BranchGradient):
    """A direct source with a norm."""

    def __init__(self, tail: TailSizes, branch: BranchSizes) -> None:
        super().__init__(tail, branch)
        self.reduction_tiles = tiles(self.c)
        self.masks = len(tail.branches) == 1

    def reduce(self) -> Touched:
        dots = written(self.ranges * self.vector)
        incoming = {"dy": read(self.y)} if self.masks else self.incoming(1, 1)
        return {**incoming, **self.named(x=read(self.y), partial_dot=dots)}

    def vectors(self) -> Touched:
        partial = read(self.ranges * self.vector)
        dot = {"dot": written(self.vector)} if self.training else {}
        return {"partial_sum": partial, **self.named(partial_dot=partial, **dot)}

    def apply(self) -> Touched:
        x = {"x": read(self.y)} if self.training or self.masks else {}
        return {
            **({"dy": read(self.y)} if self.masks else self.applied_incoming(1)),
            **self.norm_vectors(),
            **self.named(dx=written(self.dx), **x),
        }


class ProjectionGradient(BranchGradient):
    """A projection without a norm, with a frozen one, or with a training norm's moments."""

    def __init__(self, tail: TailSizes, branch: BranchSizes) -> None:
        super().__init__(tail, branch)
        self.weight = self.c * self.k * self.size
        self.matrix = FLOAT * self.c * self.k
        self.reduction_tiles = tiles(self.c) * tiles(self.k)
        self.covariance = FLOAT * self.k**2
        self.is_narrow, self.is_strided = 2 * self.k <= TILE, branch.stride > 1
        self.reductions, self.products = tiles(self.k), tiles(self.k)  # how often they ask for dy

    def reduce(self) -> Touched:
        samples = self.ranges * tiles(self.c) * SAMPLED_ROWS * self.k * self.size
        x = read(self.x, tiles(self.c), extra=samples)
        left = {"partial_product": written(self.ranges * self.matrix), "shift": written(self.inputs)}
        return {**self.incoming(self.reductions, self.reductions), **self.named(x=x, **left)}

    def _folded(self) -> Touched:
        """A group's rows wait in shared memory until their largest elements are known, and are scaled and stored."""
        scale = written(self.inputs)
        own = {"folded": written(self.weight), "folded_scale": scale, "offset": scale}
        sums = {"sum": read(self.vector, tiles(self.k, CHANNEL_GROUP))} if self.training else {}
        return {**sums, **self.named(weight=read(self.weight), **own)}

    def input_product(self) -> Touched:
        """The traffic of the matrix and vectors for dx; the scale is also the second product's unit."""
        times = tiles(self.rows)
        return self.named(
            folded=read(self.weight, times),
            folded_scale=by_blocks(self.inputs),
            offset=by_blocks(self.inputs),
            dx=written(self.dx),
        )

    def vectors(self) -> Touched:
        row = read(self.inputs, self.c)  # by each output channel
        own = {"partial_product": read(self.ranges * self.matrix), "shift": row, "weight": read(self.weight)}
        if self.training:
            own |= {"mu": row, "product": written(self.matrix), "dot": written(self.vector)}
            own |= {"slope": written(self.vector)}
        else:
            own |= {"dweight": written(self.weight)}
        return {"partial_sum": read(self.ranges * self.vector), **self.named(**own)}

    def matrices(self) -> Touched:
        return joined(self._folded(), *([self._corrected(), self._quadratic()] if self.training else []))

    def _corrected(self) -> Touched:
        """dW, from G and W Cov."""
        columns = tiles(self.k, MATRIX_TILE)
        return self.named(
            weight=read(self.weight, columns),
            cov=read(self.covariance, tiles(self.c, MATRIX_TILE)),
            product=read(self.matrix),
            dot=read(self.vector, columns),
            dweight=written(self.weight),
        )

    def _quadratic(self) -> Touched:
        """Q's shares, in pairs of tiles: each is part of as many as there are, and twice of the one with itself."""
        tiled = tiles(self.k, MATRIX_TILE)
        factors = read(self.vector, tiled * (tiled + 1) // 2)
        return self.named(
            weight=read(self.weight, tiled + 1), dot=factors, slope=factors, quadratic_exact=written(self._shares)
        )

    @property
    def _shares(self) -> int:
        """Bytes of Q, as often as items share the sum over output channels for it."""
        return max(1, self.c // max(2 * self.k, 4 * MATRIX_TILE)) * self.covariance

    def roundings(self) -> Touched:
        """Q's rows are scaled and stored as those of the folded weight are, and the offset is completed."""
        if not self.training:
            return {}
        return self.named(
            mu=read(self.inputs, tiles(self.k, CHANNEL_GROUP)),
            quadratic_exact=read(self._shares),
            quadratic=written(self.k**2 * self.size),
            quadratic_remainder=written(self.k**2 * self.size),
            quadratic_scale=written(self.inputs),
            offset=Traffic(self.inputs, self.inputs, self.inputs, self.inputs),
        )

    def apply(self) -> Touched:
        rows, inputs = tiles(self.rows), tiles(self.k)
        quadratic = {
            "x": read(self.x, 2 * inputs),  # the matrix is the sum of two
            "quadratic": read(self.k**2 * self.size, rows),
            "quadratic_remainder": read(self.k**2 * self.size, rows),
            "quadratic_scale": by_blocks(self.inputs),
        }
        own = self.named(**quadratic) if self.training else {}
        return {**self.applied_incoming(self.products), **self.input_product(), **own}


class GradientSizes:
    """The backward of a tail with relu whose gradients are all asked for."""

    def __init__(self, tail: TailSizes) -> None:
        self.y = tail.rows * tail.channels * tail.element_size
        self.vector = FLOAT * tail.channels
        self.writes_g = writes_g(tail)
        self.branches = [_gradient_of(tail, branch) for branch in tail.branches]
        _share_tiles([branch for branch in self.branches if isinstance(branch, ProjectionGradient)])
        reduction_tiles = sum(branch.reduction_tiles for branch in self.branches)
        self.ranges = ranges_of(tail.rows, reduction_tiles) if reduction_tiles else 0
        for branch in self.branches:
            branch.ranges = self.ranges

    @property
    def phases(self) -> list[str]:
        """What lies between the grid barriers."""
        of_moments = any(isinstance(branch, ProjectionGradient) and branch.training for branch in self.branches)
        projections = any(isinstance(branch, ProjectionGradient) for branch in self.branches)
        finish = ["vectors", *(["matrices"] if projections else []), *(["roundings"] if of_moments else [])]
        return ["reduce", *finish, "apply"]

    def buffers(self, phase: str) -> Touched:
        """The traffic of all buffers that the phase touches, but of a norm's parameters, gradients and statistics."""
        g = {"g": written(self.y)} if self.writes_g else {}
        shared = {
            "reduce": {**g, "partial_sum": written(self.ranges * self.vector)},
            "vectors": {"sum": written(self.vector)},
        }
        return joined(shared.get(phase, {}), *(getattr(branch, phase)() for branch in self.branches))

    def distinct(self, phase: str) -> int:
        """Distinct bytes of all activations in the phase."""
        touched = [traffic for buffer, traffic in self.buffers(phase).items() if is_activation(buffer)]
        return sum(traffic.distinct_read + traffic.distinct_written for traffic in touched)

    def in_outputs(self) -> Fraction:
        """Distinct bytes of all activations in all phases, in units of y's."""
        return Fraction(sum(map(self.distinct, self.phases)), self.y)


def _share_tiles(projections: list[ProjectionGradient]) -> None:
    """The second of two narrow projections takes the first one's tiles."""
    if len(projections) < 2 or not all(branch.is_narrow for branch in projections):
        return
    second = projections[1]
    second.reduction_tiles = second.reductions = 0
    if not any(branch.is_strided for branch in projections):
        second.products = 0


def joined(*parts: Touched) -> Touched:
    """What several touch of the same buffers: whole ones, so that different bytes are no more for it."""
    union: Touched = {}
    for part in parts:
        for name, traffic in part.items():
            other = union.get(name, Traffic(0, 0, 0, 0))
            distinct = map(max, other[:2], traffic[:2])
            requested = (a + b for a, b in zip(other[2:], traffic[2:], strict=True))
            union[name] = Traffic(*distinct, *requested)
    return union


def _gradient_of(tail: TailSizes, branch: BranchSizes) -> BranchGradient:
    if not branch.projection:
        return (BranchGradient if branch.statistics == "none" else DirectGradient)(tail, branch)
    return ProjectionGradient(tail, branch)
