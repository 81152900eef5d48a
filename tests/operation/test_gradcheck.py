"""Every pair of branches against numerical differentiation in float64."""

import itertools

import pytest
import torch
from samples import Branch, Sample, Tail, build

from fused_resnet.strategy import use_strategy

BRANCHES = [
    *(Branch("direct", norm) for norm in (None, "training", "eval")),
    *(Branch("projection", norm, in_channels=2, stride=2, bias=True) for norm in (None, "training", "eval")),
    Branch("zero_pad", in_channels=2, stride=2, placement="both"),
]
PAIRS = [*itertools.product(BRANCHES, BRANCHES), *((branch, None) for branch in BRANCHES)]


def pair_id(pair):
    return " + ".join("nothing" if b is None else f"{b.source} {b.norm or ''}".strip() for b in pair)


def check(sample, strategy, device, gammas=None):
    """Runs gradcheck on a draw that keeps away from the relu's kink."""
    for seed in range(100):
        torch.manual_seed(seed)
        tail, inputs, _ = build(sample.with_dtype(torch.float64), device, cut=1)
        for branch in tail.children():
            if gammas and branch is not None and branch.norm is not None:
                branch.norm.weight.data.copy_(torch.tensor(gammas))
        z = tail.unfused(inputs)
        if z[z != 0].abs().min() > 1e-3:  # what a zero-padded branch leaves at zero does not move
            break
    else:
        pytest.fail("no draw keeps away from the kink")
    # The statistics of a training norm move with each call and play no part in its output.
    parameters = dict(tail.named_parameters())

    def tail_of(*tensors: torch.Tensor) -> torch.Tensor:
        given = dict(zip((*inputs, *parameters), tensors, strict=True))
        values = {n: given.pop(n) for n in inputs}
        return torch.func.functional_call(_Call(tail), {f"tail.{n}": t for n, t in given.items()}, (values,))

    with use_strategy(strategy):
        assert torch.autograd.gradcheck(tail_of, (*inputs.values(), *parameters.values()))


class _Call(torch.nn.Module):
    """`Tail.fused` as a module's forward."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.tail = tail

    def forward(self, inputs):
        return self.tail.fused(inputs)


@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
def test_every_pair_of_branches(pair, activation, device):
    """With a gamma of zero, one below and one above."""
    for strategy in ("moments", "library"):
        check(Sample(*pair, activation, shape=(2, 3, 2, 1)), strategy, device, gammas=(0.0, -0.8, 1.3))


@pytest.mark.parametrize("strategy", ["moments", "library"])
@pytest.mark.parametrize("norm", ["training", "eval"])
@pytest.mark.parametrize("source", ["direct", "projection"])
def test_without_affine_parameters(source, norm, strategy, device):
    main = Branch(source, norm, in_channels=2, affine=False)
    check(Sample(main, Branch("projection", norm, in_channels=3, affine=False), shape=(2, 3, 2, 1)), strategy, device)


@pytest.mark.parametrize("strategy", ["moments", "library"])
@pytest.mark.parametrize("stride", [1, 3])
def test_strides(stride, strategy, device):
    main = Branch("projection", "training", in_channels=2, stride=stride)
    check(Sample(main, Branch("projection", "eval", 2, stride), shape=(2, 2, 2, 1)), strategy, device)
