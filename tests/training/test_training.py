"""Fused ResNet-18 and ResNet-50 train as the unfused ones do, in float32 and under bfloat16 autocast.

*First step.* The rule of ``tests/compare.py``, with the unfused network in float64 as the truth, applies to the losses
of the images, to the gradient of each parameter and to the running statistics. For a whole network it is sound only
if all runs go by the relu masks of the tested one. With masks of their own, all gradients are off by 1e-3 where
rounding takes one element to the other side of zero, by 1e-6 where it takes none: two unfused runs differ a
thousandfold, in either direction. With the same masks, errors are sums of very many roundings. Those of the fused
network's gradients are 0.4 to 1.6 times the unfused network's, parameter by parameter.

*Losses.* The fused network's losses lie where the unfused network's do when its weights start one unit in the last
place away: in proportion, each is as far from their mean as five times the farthest of them up to there, at most. An
unfused run held against eight others takes up to four times that in bfloat16, where each run has thousands of
elements that rounding decides, so that all spread alike. In float32 one run has such an element and the next has none,
and how far some runs spread says nothing about another; so there they, too, go by the masks of the tested run. Then
runs agree to 1e-6 in the first steps and to 1e-3 after twenty.
"""

import copy
import functools
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("benchmarks.torchvision_operators", reason="torchvision is not installed", exc_type=ImportError)

from compare import FLOORS, Outcome, assert_accurate, assert_statistics_accurate
from recorded_tails import recorded_tails
from relu_masks import given_masks, recorded_masks
from training_runs import Run, first_step, losses, perturbed

import fused_resnet

TAILS = {"resnet18": 8, "resnet50": 16}
PERTURBED_RUNS, MARGIN = 8, 5.0


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture(params=["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def run(request, dtype, device):
    return Run(request.param, dtype, device)


class Trained(NamedTuple):
    """What the fused network makes of its first step, and of all; the first step's masks, and all."""

    first: Outcome
    first_masks: list[torch.Tensor]
    losses: torch.Tensor
    masks: list[torch.Tensor]


@functools.cache
def trained(run: Run, backend: str, steps: int) -> Trained:
    """Once for both tests: in the emulator, a step of ResNet-50 takes minutes."""
    model = run.model()
    report = fused_resnet.fuse(model, strict=True)
    with recorded_masks([model.get_submodule(name) for name in report.fused]) as masks:
        with recorded_tails() as tails:
            first = first_step(model, *run.batches()[0], run.autocast())
        assert len(report.fused) == len(tails) == TAILS[run.network]
        first = replace(first, buffers={name: buffer.clone() for name, buffer in first.buffers.items()})
        first_masks = list(masks)
        found = losses(run, model, steps, first)
    return Trained(first, first_masks, found, masks)


@pytest.fixture
def fused(run, backend, request):
    """The fused network, trained."""
    return trained(run, backend, 20 if request.config.getoption("long") else 3)


def test_first_step_is_as_accurate_as_that_of_the_unfused_network(run, fused):
    tested, eager = fused.first, run.model()
    exact = copy.deepcopy(eager).double()
    images, labels = run.batches()[0]

    with given_masks(fused.first_masks):
        eager = first_step(eager, images, labels, run.autocast())
    with given_masks(fused.first_masks):
        exact = first_step(exact, images.double(), labels)

    assert_accurate("losses", tested.output, eager.output, exact.output, dtype=run.dtype)
    for name, gradient in tested.gradients.items():
        both = eager.gradients[name], exact.gradients[name]
        assert_accurate(f"gradient of {name}", gradient, *both, dtype=run.dtype)
    assert_statistics_accurate(tested.buffers, eager.buffers, exact.buffers)


@pytest.mark.slow
def test_losses_stay_within_the_spread_of_perturbed_unfused_runs(run, fused):
    tested, unfused = fused.losses, []
    for start in perturbed(run, PERTURBED_RUNS):
        with given_masks(fused.masks) if run.dtype is torch.float32 else nullcontext():
            unfused.append(losses(run, start, len(tested)))
    assert_within_spread(tested, torch.stack(unfused))
    assert tested[-1] < tested[0] / 10 if len(tested) == 20 else tested[-1] < tested[0]


def assert_within_spread(tested, runs):
    """Losses by step are, in proportion, no farther from the runs' mean than `MARGIN` times the runs up to there."""
    centre = runs.mean(0)
    spread = (runs / centre - 1).abs().amax(0).cummax(0).values
    allowed = MARGIN * spread + FLOORS[torch.float32]
    distance = (tested / centre - 1).abs()
    beyond = [
        f"step {step}: loss {tested[step]:.6f} is off by {distance[step]:.1e} of the mean, allowed {allowed[step]:.1e}"
        for step in (distance > allowed).nonzero().flatten().tolist()
    ]
    assert not beyond, "\n".join(beyond)
