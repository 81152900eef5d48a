"""What `fused_resnet.explain` returns: plain data, and a table of it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..backend import Backend

WIDTH = 120
MAGNIFIED = 50  # times by which rounding may be magnified without a word


@dataclass(frozen=True)
class BranchExplanation:
    """One branch of a tail.

    Attributes:
        source: "direct", "projection" or "zero_pad".
        norm: by which statistics it normalises, "training" or "running"; "none" without a norm.
        in_channels: K of a projection or a zero padding.
        stride: of the same.
        strategy: "moments" where a training norm is behind a projection, "library" where PyTorch's own convolution
            computes it, else None.
        cancellation: of moments, how many times rounding is magnified in the variances (`cancellation` of
            `fused_resnet.backends.pytorch.moments`): 1 where input channels are independent, large where they move
            together. None unless values were asked for.
    """

    source: str
    norm: str
    in_channels: int
    stride: int
    strategy: str | None
    cancellation: float | None = None

    def __str__(self) -> str:
        if self.source == "direct":
            return "identity" if self.norm == "none" else "norm"
        size = str(self.in_channels) + (f"/{self.stride}" if self.stride > 1 else "")
        how = "zero-padded" if self.source == "zero_pad" else self.strategy or self.norm.replace("none", "no norm")
        return f"{size} {how}"


@dataclass(frozen=True)
class PassExplanation:
    """One direction of a tail.

    Attributes:
        kernel: as `fused_resnet.backends.kernels.launches` names it, or "plain PyTorch"; None where there is nothing to
            launch. Backward, "+ copy" stands for a copy of the output's gradient ahead of it, where its channels lie
            apart.
        bytes: of activations, each tensor read or written once a phase, as the kernels have them.
        operations: of the products; a multiply-add is two.
    """

    kernel: str | None
    bytes: int
    operations: int


@dataclass(frozen=True)
class TailExplanation:
    """One tail of a call. Where it does not run as one operation, `reason` says why and the rest is None.

    Attributes:
        block: qualified name of the block ("" for the model itself); None outside of any.
        reason: why it runs unfused, or by plain PyTorch in place of the kernels.
        shape: (N, C, Ho, Wo) of the output.
        dtype: of activations and weights.
        math: how products are computed: the dtype's name, or "tf32".
        backend: "cuda", "emulated" or "reference", by which it is computed forward.
        main, shortcut: its branches; `shortcut` is None in a plain net.
        forward, backward: both directions; `backward` is None where no gradient is asked for.
    """

    block: str | None
    reason: str | None = None
    shape: tuple[int, int, int, int] | None = None
    dtype: str | None = None
    math: str | None = None
    backend: Backend | None = None
    main: BranchExplanation | None = None
    shortcut: BranchExplanation | None = None
    forward: PassExplanation | None = None
    backward: PassExplanation | None = None


@dataclass
class Explanation:
    """The outcome of `fused_resnet.explain`; ``str()`` gives a table.

    Attributes:
        tails: in the order in which they run.
        tile: rows, columns and bytes of depth of the kernels' tiles; None where no kernel runs.
        note: what is to be said of the model as a whole, or None.
    """

    tails: list[TailExplanation] = field(default_factory=list)
    tile: tuple[int, int, int] | None = None
    note: str | None = None

    def total(self, direction: Literal["forward", "backward"]) -> PassExplanation:
        """The sums of all tails' bytes and operations in one direction."""
        each = [own for tail in self.tails if (own := getattr(tail, direction)) is not None]
        return PassExplanation(None, sum(own.bytes for own in each), sum(own.operations for own in each))

    def __str__(self) -> str:
        return "\n".join(_table(self))


Row = tuple[str, str, str, str, str, str]


def _table(explanation: Explanation) -> Iterator[str]:
    tails = explanation.tails
    if explanation.note is not None:
        yield explanation.note
    elif not tails:
        yield "no residual tails ran"
    rows = {id(tail): list(_rows(tail)) for tail in tails if tail.forward is not None}
    totals = list(_totals(explanation)) if rows else []
    head: Row = ("block", "output", "tail", "kernel", "MB", "G operations")
    every = [head, *(row for of in rows.values() for row in of), *totals]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]
    widths[0] = min(max(widths[0], *(len(_name(tail)) for tail in tails), 0), WIDTH - sum(widths[1:]) - 10)
    if rows:
        yield from _heading(explanation)
        yield _line(head, widths)
    for tail in tails:
        for row in rows.get(id(tail), []):
            yield _line(row, widths)
        for text in filter(None, (tail.reason, _cancellation(tail))):
            yield from _wrapped(tail, text, widths[0])
    for row in totals:
        yield _line(row, widths)


def _heading(explanation: Explanation) -> Iterator[str]:
    settings = {f"{tail.backend}, {_precision(tail)}": None for tail in explanation.tails if tail.backend is not None}
    text = "; ".join(settings)
    if explanation.tile is not None:
        text += "; tiles of {} x {}, {} bytes deep".format(*explanation.tile)
    yield from textwrap.wrap(text, WIDTH)
    if any(tail.backend == "reference" for tail in explanation.tails):
        yield "bytes and operations are those that the kernels would take; plain PyTorch takes more passes"


def _precision(tail: TailExplanation) -> str:
    return f"{tail.dtype}" if tail.math == tail.dtype else f"{tail.dtype} as {tail.math}"


def _rows(tail: TailExplanation) -> Iterator[Row]:
    assert tail.shape is not None
    branches = " + ".join(str(branch) for branch in (tail.main, tail.shortcut) if branch is not None)
    first = (_name(tail), "x".join(map(str, tail.shape)), branches)
    for own in (tail.forward, tail.backward):
        if own is not None:
            yield *first, own.kernel or "-", *_numbers(own)
            first = ("", "", "")


def _totals(explanation: Explanation) -> Iterator[Row]:
    yield "total", "", "", "forward", *_numbers(explanation.total("forward"))
    if any(tail.backward is not None for tail in explanation.tails):
        yield "", "", "", "backward", *_numbers(explanation.total("backward"))


def _numbers(own: PassExplanation) -> tuple[str, str]:
    return f"{own.bytes / 1e6:.2f}", f"{own.operations / 1e9:.3f}"


def _name(tail: TailExplanation) -> str:
    if tail.block is None:
        return "(outside of a block)"
    return tail.block or "(the model itself)"


def _line(row: Row, widths: list[int]) -> str:
    name = row[0] if len(row[0]) <= widths[0] else "..." + row[0][3 - widths[0] :]
    text = [f"{cell:<{width}}" for cell, width in zip((name, *row[1:4]), widths, strict=False)]
    numbers = [f"{cell:>{width}}" for cell, width in zip(row[4:], widths[4:], strict=True)]
    return "  ".join((*text, *numbers)).rstrip()


def _cancellation(tail: TailExplanation) -> str | None:
    """A warning for float32 alone: in tf32 and half precision, other roundings weigh more."""
    factor = max((of.cancellation or 0.0 for of in (tail.main, tail.shortcut) if of is not None), default=0.0)
    if tail.math != "float32" or factor < MAGNIFIED:
        return None
    return (
        f"its input channels move together: moments magnify rounding {factor:,.0f} times; "
        'fused_resnet.strategy.use_strategy("library") does not'
    )


def _wrapped(tail: TailExplanation, text: str, width: int) -> list[str]:
    """Beside the name, or, of a tail that has rows of its own, below it."""
    name = "" if tail.forward is not None else _name(tail)
    return textwrap.wrap(text, WIDTH, initial_indent=f"{name:<{width}}  ", subsequent_indent=" " * (width + 2))
