"""Computes each case by a backend, by PyTorch's own operations and in float64, and applies the accuracy rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..backend import Backend, use_backend
from ..functional import residual_tail
from ..operation import reference
from ..operation.branches import Branch, named_tensors
from ..strategy import use_strategy
from .accuracy import allowed_error
from .cases import MATHS, Case, cases, copied, make

Results: TypeAlias = dict[str, Tensor]
# From two branches to the output, and to what the output's gradient is propagated from.
Compute: TypeAlias = Callable[[Branch, Branch], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Check:
    """What became of one case.

    Attributes:
        worst: the largest error of any result as a share of what is allowed; None where that is no finite number.
        problem: what is wrong; None where the case passed.
    """

    backend: Backend
    device: str
    case: Case
    worst: float | None
    problem: str | None


def run_checks(backend: Backend, device: torch.device) -> Iterator[Check]:
    """Every case by the backend on the device. One that raises does not prevent the others."""
    # A CPU's convolutions are in float32 whatever is allowed.
    no_tf32 = backend == "reference" and device.type == "cpu"
    maths = tuple(name for name in MATHS if not (no_tf32 and name == "tf32"))
    for case in cases(maths):
        worst, problem = None, None
        try:
            worst, problem = _check(case, backend, device)
        except Exception as error:  # whatever a GPU that does not work raises
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        yield Check(backend, str(device), case, worst, problem)


def _check(case: Case, backend: Backend, device: torch.device) -> tuple[float | None, str | None]:
    main, shortcut, dy = make(case, device)
    with _tf32(case.math == "tf32"):
        with use_backend(backend), use_strategy("moments"):
            tested = _results(_fused, copied(main, None), copied(shortcut, None), dy)
        # A relu's mask flips on rounding: gradients are those under the tested output's. NaN passes.
        masked = torch.where(tested["output"] <= 0, 0, dy)
        eager = _results(_unfused, copied(main, None), copied(shortcut, None), masked)
    exact = _results(_unfused, copied(main, torch.double), copied(shortcut, torch.double), masked.double())
    shares = {name: _share(tested[name], eager[name], exact[name], case.floor) for name in tested}
    wrong = [f"{name} is off by {share:.3g} times what is allowed" for name, share in shares.items() if not share <= 1]
    worst = max(shares.values())
    return worst if math.isfinite(worst) else None, "; ".join(wrong) or None


def _fused(main: Branch, shortcut: Branch) -> tuple[Tensor, Tensor]:
    y = residual_tail(main, shortcut)
    return y, y


def _unfused(main: Branch, shortcut: Branch) -> tuple[Tensor, Tensor]:
    z = reference.residual_tail(main, shortcut, None)
    return z.relu(), z


def _results(compute: Compute, main: Branch, shortcut: Branch, dy: Tensor) -> Results:
    """Output, gradients and running statistics, by name."""
    y, differentiated = compute(main, shortcut)
    branches = {"main": main, "shortcut": shortcut}
    tensors = {f"{name}.{part}": t for name, branch in branches.items() for part, t in named_tensors(branch)}
    leaves = {name: t for name, t in tensors.items() if t.requires_grad}
    gradients = torch.autograd.grad(differentiated, list(leaves.values()), dy)
    return {
        "output": y.detach(),
        **{f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)},
        **{name: t for name, t in tensors.items() if not t.requires_grad},
    }


def _share(tested: Tensor, eager: Tensor, exact: Tensor, floor: float) -> float:
    """A result's error as a share of what is allowed; infinite where it is no number."""
    exact = exact.double()
    error, eager_error = ((result.double() - exact).norm().item() for result in (tested, eager))
    allowed = allowed_error(eager_error, exact.norm().item(), floor)
    if error == 0:
        return 0.0
    return error / allowed if math.isfinite(error) and allowed > 0 else math.inf


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    former, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = former
