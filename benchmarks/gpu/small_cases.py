"""Runs a small case of every kernel, for a sanitizer to watch, and compares it with float64.

Inputs are made on the CPU and copied: no kernel but those of this project runs, so that every report is about them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from fused_resnet import _kernels, reference
from fused_resnet.branches import Branch, Direct, Norm, Projection, ZeroPad, named_tensors, output_shape
from fused_resnet.kernels import KernelPath
from fused_resnet.paths import operands_of
from fused_resnet.strategy import Strategy, use_strategy

from ..accuracy import relative_error
from .checks import TOLERANCES, arithmetic_of, dtype_of

# The parent counts them.
CASE = "case "
T = TypeVar("T", Branch, Norm)


@dataclass(frozen=True)
class Layout:
    """Sizes and memory format: which of a kernel's ways through the data is taken."""

    channels: int
    inner: int
    rows: tuple[int, int, int]  # N, H, W
    stride: int
    memory_format: torch.memory_format


# More than one tile of 128 rows each; of several tiles of channels "wide" alone.
LAYOUTS = {
    "fast": Layout(24, 16, (3, 9, 7), 1, torch.channels_last),
    "odd": Layout(17, 9, (3, 9, 7), 2, torch.contiguous_format),
    "wide": Layout(136, 144, (2, 9, 8), 1, torch.channels_last),
}


@dataclass(frozen=True)
class Case:
    arithmetic: str
    projections: int
    strategy: Strategy
    layout: str
    training: bool
    phases: bool  # one launch for each phase

    def __str__(self) -> str:
        mode = "training" if self.training else "eval"
        launches = "phase by phase" if self.phases else "whole"
        parts = (self.arithmetic, f"{self.projections} projections", self.strategy, self.layout, mode, launches)
        return ", ".join(parts)


def cases() -> list[Case]:
    """Each arithmetic, number of projections, strategy, layout, mode and way to launch, where it makes a difference."""
    return [
        Case(arithmetic, projections, strategy, layout, training, phases)
        for arithmetic in TOLERANCES
        for projections in (0, 1, 2)
        for layout in LAYOUTS
        for training, strategy, phases in _ways(projections)
    ]


def _ways(projections: int) -> Iterator[tuple[bool, Strategy, bool]]:
    yield False, "moments", False  # evaluation is one launch of one phase, whatever the strategy
    strategies: tuple[Strategy, ...] = ("moments", "materialise") if projections else ("moments",)
    for strategy in strategies:
        yield True, strategy, False
        yield True, strategy, True


def branches(case: Case) -> tuple[Branch, Branch]:
    """On the CPU, in float64, of numbers that the case's dtype holds."""
    layout = LAYOUTS[case.layout]
    c, k, s = layout.channels, layout.inner, layout.stride
    if case.projections >= 1:
        main: Branch = Projection(_pixels(case, k, 1), _rounded(case, c, k, 1, 1), _norm(c, case.training))
    else:
        main = Direct(_pixels(case, c, 1), _norm(c, case.training))
    if case.projections == 2:
        return main, Projection(_pixels(case, k, s), _rounded(case, c, k, 1, 1), _norm(c, case.training), s)
    if case.layout == "odd":
        return main, ZeroPad(_pixels(case, c - 4, s), c, s, "both")
    return main, Direct(_pixels(case, c, 1))


def _pixels(case: Case, channels: int, stride: int) -> Tensor:
    layout = LAYOUTS[case.layout]
    n, h, w = layout.rows
    x = _rounded(case, n, channels, h * stride, w * stride) + 0.5
    return x.contiguous(memory_format=layout.memory_format)


def _rounded(case: Case, *shape: int) -> Tensor:
    """Multiples of 1/16 below 4: exact in every arithmetic, with 0.5 added, too."""
    return torch.randn(*shape, dtype=torch.float64).clamp(-3, 3).mul(16).round().div(16)


def _norm(channels: int, training: bool) -> Norm:
    weight, bias, mean, var = (torch.rand(channels).add(0.5).double() for _ in range(4))
    return Norm(weight, bias, mean, var, torch.tensor(3), training=training)


def moved(holder: T, device: str, dtype: torch.dtype) -> T:
    """The branch or norm with copies of its tensors; vectors of norms are in float32."""
    changes: dict[str, Any] = {}
    for field in fields(holder):
        value = getattr(holder, field.name)
        if isinstance(value, Norm):
            changes[field.name] = moved(value, device, torch.promote_types(dtype, torch.float32))
        elif isinstance(value, Tensor):
            # The dtype first, on the CPU: what follows is a plain copy.
            changes[field.name] = value.to(dtype if value.is_floating_point() else value.dtype, copy=True).to(device)
    return replace(holder, **changes)


def compute(module: Any, main: Branch, shortcut: Branch, case: Case) -> Tensor:
    """The tail by the launches that the case names."""
    with use_strategy(case.strategy), arithmetic_of(case.arithmetic):
        described = [KernelPath(b, False).describe(module, operands_of(b)) for b in (main, shortcut)]
    y = torch.empty(
        output_shape(main),
        dtype=main.x.dtype,
        device=main.x.device,
        memory_format=LAYOUTS[case.layout].memory_format,
    )
    call = module.Forward(main=described[0], shortcut=described[1], y=y, relu=True, tf32=case.arithmetic == "tf32")
    for launch in (call.moments, call.finish, call.apply) if case.phases else (call.run,):
        launch()
    return y


@torch.no_grad()
def error_of(module: Any, case: Case, device: str) -> float:
    """The largest relative error of the output and of the running statistics."""
    torch.manual_seed(0)
    made = branches(case)
    main, shortcut = (moved(branch, device, dtype_of(case.arithmetic)) for branch in made)
    y = compute(module, main, shortcut, case)
    expected = reference.residual_tail(*made, "relu")
    errors = [relative_error(y.cpu(), expected)]
    for branch, exact in zip((main, shortcut), made, strict=True):
        kept = dict(named_tensors(exact))
        tensors = {name: t.cpu() for name, t in named_tensors(branch) if "running" in name}
        errors += [relative_error(t, kept[name]) for name, t in tensors.items()]
        if branch.norm is not None and branch.norm.num_batches_tracked is not None:
            assert int(branch.norm.num_batches_tracked) == int(kept["norm.num_batches_tracked"])
    return max(errors, key=lambda error: (error != error, error))


def main(rehearse: bool) -> int:
    module, reason = _kernels.load("_emulated" if rehearse else "_C")
    if module is None:
        print(reason)
        return 2
    device, wrong = "cpu" if rehearse else "cuda", 0
    for case in cases():
        error = error_of(module, case, device)
        good = error <= TOLERANCES[case.arithmetic]  # false of NaN
        wrong += not good
        print(f"{CASE}{'ok' if good else 'WRONG'}: {case}: relative error {error:.1e}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rehearse", action="store_true")
    # Tensors are small: threads would cost more than they give.
    torch.set_num_threads(1)
    sys.exit(main(parser.parse_args().rehearse))
