"""Instructions that a phase's warps issue, from what the emulator counts and the compiler made of it.

The emulator counts products, copies, loads and stores. The compiled code has a number of instructions for each of them,
with all that is around it: addresses, masks, rounding, loops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..launches import BACKWARD, FORWARD
from ..tail_shapes import TailShape

WARP, COPY_BYTES, TILE_ROWS = 32, 16, 128
# Instructions that a warp issues in the kernels for bfloat16 on 9.0, read off the cubin (`kernel_resources.stages`,
# ``docs/kernels.md``): for one stage of a pipeline or two,
STAGE_SLOTS = {
    "x W^T, two stages": 260,
    "what is added, two stages": 284,
    "x^T x": 140,
    "x^T x, diagonal": 191,
    "g^T x": 213,
    "g^T x, with sums of g": 261,
    "g W, two stages": 264,
    "g W, g masked, two stages": 492,
}
# for each store of y and its mask, and of dx, which stages have,
STORE_SLOTS = {f"{FORWARD} apply": 18, f"{BACKWARD} apply": 31}
# for each load with what is done to it, without a product or of partial sums,
LOAD_SLOTS = {
    f"{FORWARD} moments": 28,
    f"{FORWARD} apply": 28,
    f"{BACKWARD} reduce": 23,
    f"{BACKWARD} apply": 18,
    f"{FORWARD} finish": 16,
    f"{BACKWARD} finish": 17,
}
# for each product of matrices of channels, whose floats are taken apart (a turn of W Cov has 343 instructions for 48,
# one of W^T D W 401), and each access to shared memory beside it,
MATRIX_SLOTS, SHARED_SLOTS = 7, 4
# and to find the rows of a warp's 16-byte copies, where they lie apart (`row_offset`).
SCATTERED_SLOTS = 22
_PRODUCTS_OF_A_STAGE, _COPIES_OF_A_STAGE = 32, 4


def instructions(phase: str, shape: TailShape, issued: Mapping[str, float], masked: bool) -> float:
    """What warps issue in a phase that makes so many products, copies, stores and loads; `masked`: apply masks g."""
    loads = issued["load"] * LOAD_SLOTS[phase]
    if phase.endswith("finish"):
        return loads + issued["product"] * MATRIX_SLOTS + issued["shared_access"] * SHARED_SLOTS
    stages = issued["product"] / _PRODUCTS_OF_A_STAGE
    found = loads + issued["store"] * STORE_SLOTS.get(phase, 0) + stages * stage_slots(phase, shape, masked)
    if phase == f"{FORWARD} apply":
        found += (issued["copy"] / _COPIES_OF_A_STAGE - stages) * STAGE_SLOTS["what is added, two stages"] / 2
    return found


def stage_slots(phase: str, shape: TailShape, masked: bool = False) -> float:
    """Instructions that a warp issues for a stage with a product, on average over a phase of a tail."""
    of = STAGE_SLOTS
    inputs = [math.ceil(k / TILE_ROWS) for k in shape.projections]
    if not inputs or phase == f"{FORWARD} apply":
        return of["x W^T, two stages"] / 2
    if phase == f"{FORWARD} moments":
        on_diagonal, pairs = sum(inputs), sum(tiles * (tiles + 1) // 2 for tiles in inputs)
        return of["x^T x"] + (of["x^T x, diagonal"] - of["x^T x"]) * on_diagonal / pairs
    if phase == f"{BACKWARD} reduce":
        return of["g^T x"] + (of["g^T x, with sums of g"] - of["g^T x"]) / sum(inputs)
    of_g = shape.channels / (shape.channels + sum(shape.projections)) if masked else 0.0
    plain, masking = of["g W, two stages"], of["g W, g masked, two stages"]
    return (plain + (masking - plain) * of_g) / 2
