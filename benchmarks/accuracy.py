"""How far float32 results are from float64's, as one number each: norm of the difference over norm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sides import Sides


@dataclass(frozen=True)
class Errors:
    """Relative errors: of the logits and of all parameters' gradients as one vector in a training step, and of the
    logits in an evaluation after it."""

    training_output: float
    gradient: float
    evaluation_output: float

    @property
    def row(self) -> dict[str, float]:
        """By names for people."""
        return {
            "output error": self.training_output,
            "gradient error": self.gradient,
            "evaluation error": self.evaluation_output,
        }


@dataclass(frozen=True)
class _Results:
    training_output: Tensor
    gradient: Tensor
    evaluation_output: Tensor


def errors_against_float64(
    models: Sides[nn.Module], x: Tensor, labels: Tensor, advance: Callable[[], object]
) -> Sides[Errors]:
    """Both models' errors against the unfused model in float64 on the same inputs; the models stay as they were.

    Args:
        models: in float32, of equal parameters and buffers.
        x: images (N, C, H, W), float32.
        labels: (N,), for the cross entropy whose gradient is compared.
        advance: called after each of the three runs.
    """
    with tf32(False):
        exact = _results(copy.deepcopy(models.unfused).double(), x.double(), labels)
        advance()

        def errors(model: nn.Module) -> Errors:
            results = _results(copy.deepcopy(model), x, labels)
            advance()
            return _errors(results, exact)

        return models.map(errors)


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Norm of the difference over norm, in float64."""
    return float(torch.linalg.vector_norm(value.double() - exact) / torch.linalg.vector_norm(exact))


def _errors(value: _Results, exact: _Results) -> Errors:
    return Errors(
        relative_error(value.training_output, exact.training_output),
        relative_error(value.gradient, exact.gradient),
        relative_error(value.evaluation_output, exact.evaluation_output),
    )


def _results(model: nn.Module, x: Tensor, labels: Tensor) -> _Results:
    """Writes to the model: its gradients, its running statistics and its mode."""
    model.train().zero_grad()
    output = model(x)
    F.cross_entropy(output, labels).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    with torch.inference_mode():
        return _Results(output.detach(), torch.cat(gradients), model.eval()(x))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether, on GPUs, float32 convolutions may round their operands to tf32, as they do unless told not to."""
    former, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = former
