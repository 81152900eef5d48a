"""How far results are from float64's, or from another way's, as one number each: norm of the difference over norm."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Limits for the relative error of a way against eager operations in the same dtype; float32 on a GPU may be tf32.
TOLERANCE = {torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 2e-2}
# What is computed, by name.
Values = Mapping[str, Tensor]


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Norm of the difference over norm, in float64."""
    return float(torch.linalg.vector_norm(value.double() - exact) / torch.linalg.vector_norm(exact))


def largest_error(found: Values, exact: Values) -> float:
    """Of the values that were found, against those of the same names; NaN before all."""
    errors = (relative_error(value.detach(), exact[name].detach().double()) for name, value in found.items())
    return max(errors, key=lambda error: (math.isnan(error), error))


def errors_against_float64(
    models: Mapping[str, nn.Module], x: Tensor, labels: Tensor, advance: Callable[[], object]
) -> dict[str, dict[str, float]]:
    """Errors of models of equal float32 parameters and buffers against the first in float64; they stay as they were.

    "output error" and "gradient error", of all parameters' gradients as one vector, are of a training step on images
    (N, C, H, W) with labels (N,), "evaluation error" is of the logits after it. `advance` is called after each run.
    """
    with tf32(False):
        exact = _results(copy.deepcopy(next(iter(models.values()))).double(), x.double(), labels)
        advance()
        errors = {}
        for side, model in models.items():
            results = _results(copy.deepcopy(model), x, labels)
            errors[side] = {f"{name} error": relative_error(of, exact[name]) for name, of in results.items()}
            advance()
        return errors


def _results(model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Writes to the model: its gradients, its running statistics and its mode."""
    model.train().zero_grad()
    output = model(x)
    F.cross_entropy(output, labels).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    with torch.inference_mode():
        return {"output": output.detach(), "gradient": gradients, "evaluation": model.eval()(x)}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether, on GPUs, float32 convolutions may round their operands to tf32, as they do unless told not to."""
    former, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = former
