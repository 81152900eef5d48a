"""Runs small cases of every kernel, also for a sanitizer to watch, and compares them with float64.

Inputs, the output's gradient included, are made on the CPU and copied, and results are copied back before they are
looked at: no kernel but those that a tail launches runs, so that every report is about them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

import fused_resnet
from fused_resnet import residual_tail
from fused_resnet.backends.kernels import loading
from fused_resnet.operation import reference
from fused_resnet.operation.branches import Branch, Direct, Norm, Projection, ZeroPad, named_tensors
from fused_resnet.strategy import use_strategy

from ..accuracy import relative_error, tf32
from ..launches import BACKWARD_PHASES, FORWARD_PHASES, Launches
from ..tails import incoming_gradient

# Limits for the norm of the difference from float64: about four times what one rounding of every operand gives.
TOLERANCES = {"float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.5e-2}
# The parent counts them.
CASE = "case "
# Names of a branch's tensors that no gradient flows to.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
# Names of a branch's tensors that gradients flow to, in the order of `Gradients`.
NAMES = ("x", "weight", "bias", "norm.weight", "norm.bias")
T = TypeVar("T", Branch, Norm)


@dataclass(frozen=True)
class Layout:
    """Sizes and memory format: which of a kernel's ways through the data is taken."""

    channels: int
    inner: int
    rows: tuple[int, int, int]  # N, H, W
    stride: int
    memory_format: torch.memory_format


# More than one tile of 128 rows each; of several tiles of channels the last two.
LAYOUTS = {
    "fast": Layout(24, 16, (3, 9, 7), 1, torch.channels_last),
    "odd": Layout(17, 9, (3, 9, 7), 2, torch.contiguous_format),
    "wide": Layout(136, 144, (2, 9, 8), 1, torch.channels_last),
    "resnet50": Layout(256, 64, (2, 14, 14), 1, torch.channels_last),
}


@dataclass(frozen=True)
class Case:
    arithmetic: str
    projections: int
    layout: str
    training: bool
    phases: bool  # by one launch for each phase

    def __str__(self) -> str:
        mode = "training" if self.training else "eval"
        launches = "phase by phase" if self.phases else "at once"
        parts = (self.arithmetic, f"{self.projections} projections", self.layout, mode, launches)
        return ", ".join(parts)


def cases() -> list[Case]:
    """Each layout, arithmetic, number of projections, mode and way to launch, where it makes a difference."""
    return [case for layout in LAYOUTS for case in _cases_of(layout)]


def first_cases() -> list[Case]:
    """Those that every kernel is in: there may be no time for more."""
    return list(_cases_of(next(iter(LAYOUTS))))


def _cases_of(layout: str) -> Iterator[Case]:
    for arithmetic in TOLERANCES:
        for projections in (0, 1, 2):
            # In evaluation, forward is one launch of one phase.
            for training, phases in ((False, False), (True, False), (True, True)):
                yield Case(arithmetic, projections, layout, training, phases)


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


def launch_phases(module: Any, main: Branch, shortcut: Branch, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The tail's output and all gradients, by the names of their tensors."""
    launches = Launches(module, [main, shortcut], dy)
    for phase in FORWARD_PHASES:
        getattr(launches.forward, phase)()
    for phase in BACKWARD_PHASES:
        getattr(launches.backward, phase)()
    written = {
        f"{side}.{name}": gradient
        for side, gradients in zip(("main", "shortcut"), launches.gradients, strict=True)
        for name, gradient in zip(NAMES, gradients, strict=True)
        if gradient is not None
    }
    return launches.y, written


def computed(module: Any, main: Branch, shortcut: Branch, dy: Tensor, case: Case) -> dict[str, Tensor]:
    """What the kernels give, by the backend that `fused_resnet.use_backend` has chosen, which is the module's."""
    with use_strategy("moments"), tf32(case.arithmetic == "tf32"):
        if case.phases:
            y, gradients = launch_phases(module, main, shortcut, dy)
            named = {f"gradient of {name}": gradient for name, gradient in gradients.items()}
            return {**_results(main, shortcut, y), **named}
        sources = _watched(main, shortcut)
        y = residual_tail(main, shortcut)
        return {**_results(main, shortcut, y), **_gradients(y, sources, dy)}


def exact(main: Branch, shortcut: Branch, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """What the standard operations give, and the output's gradient, in the dtype, that they began from."""
    sources = _watched(main, shortcut)
    z = reference.residual_tail(main, shortcut, None)
    dy = incoming_gradient(z.detach()).to(dtype)
    y = z.relu()
    return {**_results(main, shortcut, y), **_gradients(y, sources, dy.double())}, dy


def _tensors(main: Branch, shortcut: Branch) -> dict[str, Tensor]:
    sides = {"main": main, "shortcut": shortcut}
    return {f"{side}.{name}": t for side, branch in sides.items() for name, t in named_tensors(branch)}


def _watched(main: Branch, shortcut: Branch) -> dict[str, Tensor]:
    """All tensors that gradients flow to, which autograd watches from here on."""
    return {name: t.requires_grad_() for name, t in _tensors(main, shortcut).items() if not name.endswith(BUFFERS)}


def _results(main: Branch, shortcut: Branch, y: Tensor) -> dict[str, Tensor]:
    """The output and the buffers, which computing it has changed."""
    buffers = {name: t for name, t in _tensors(main, shortcut).items() if name.endswith(BUFFERS)}
    return {"output": y.detach(), **buffers}


def _gradients(y: Tensor, sources: dict[str, Tensor], dy: Tensor) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(y, list(sources.values()), dy)
    return {f"gradient of {name}": g for name, g in zip(sources, gradients, strict=True)}


def errors_of(module: Any, case: Case, device: str) -> dict[str, float]:
    """The relative error of everything that a case computes."""
    torch.manual_seed(0)
    dtype: torch.dtype = getattr(torch, case.arithmetic.replace("tf32", "float32"))
    made = branches(case)
    main, shortcut = (moved(branch, device, dtype) for branch in made)
    expected, dy = exact(*made, dtype)
    results = computed(module, main, shortcut, dy.to(device), case)
    return {name: relative_error(t.cpu(), expected[name].double()) for name, t in results.items()}


def main(rehearse: bool, seconds: float) -> int:
    """Runs the cases for as long as there is time."""
    deadline = time.monotonic() + seconds
    module, reason = loading.load("_emulated" if rehearse else "_C")
    if module is None:
        print(reason)
        return 2
    device, wrong = "cpu" if rehearse else "cuda", 0
    with fused_resnet.use_backend("emulated" if rehearse else "cuda"):
        for case in cases():
            if time.monotonic() > deadline:
                break
            errors = errors_of(module, case, device)
            name, error = max(errors.items(), key=lambda item: (item[1] != item[1], item[1]))  # NaN first
            good = error <= TOLERANCES[case.arithmetic]
            wrong += not good
            print(f"{CASE}{'ok' if good else 'WRONG'}: {case}: relative error {error:.1e} of {name}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--seconds", type=float, default=math.inf)
    # Tensors are small: threads would cost more than they give.
    torch.set_num_threads(1)
    arguments = parser.parse_args()
    sys.exit(main(arguments.rehearse, arguments.seconds))
