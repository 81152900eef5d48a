"""Weights within a tail that are computed from others: while they are, and after they no longer are."""

import pytest
import torch
from small_nets import TAILS
from torch import nn
from torch.nn.utils import (
    parametrizations,
    parametrize,
    prune,
    remove_spectral_norm,
    remove_weight_norm,
    spectral_norm,
    weight_norm,
)

import fused_resnet


class Doubled(nn.Module):
    """A parametrization of a user's own."""

    def forward(self, weight):
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2


def removed(conv):
    parametrize.remove_parametrizations(conv, "weight")


# How the weight of a convolution is changed, how that is undone, and whether the tail can compute with it.
KINDS = {
    "parametrizations.spectral_norm": (parametrizations.spectral_norm, removed, True),
    "parametrizations.weight_norm": (parametrizations.weight_norm, removed, True),
    "parametrizations.orthogonal": (parametrizations.orthogonal, removed, True),
    "of one's own": (lambda conv: parametrize.register_parametrization(conv, "weight", Doubled()), removed, True),
    "prune": (
        lambda conv: prune.l1_unstructured(conv, "weight", amount=0.4),
        lambda conv: prune.remove(conv, "weight"),
        False,  # these set the weight in a hook
    ),
    "prune in channels": (
        lambda conv: prune.ln_structured(conv, "weight", amount=0.4, n=2, dim=0),
        lambda conv: prune.remove(conv, "weight"),
        False,
    ),
    "spectral_norm by a hook": (spectral_norm, remove_spectral_norm, False),
    "weight_norm by a hook": (weight_norm, remove_weight_norm, False),
}


def swallowed(model):
    """The 1x1 convolutions of a network, most of which are within its tails."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]


def train(nets, seeds):
    """Steps of both networks, with optimizers of their own: the parameters are others after each change."""
    for model in nets.both:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for seed in seeds:
            optimizer.zero_grad()
            nets.loss(model, seed).backward()
            optimizer.step()


# `weight_norm` recommends its successor.
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_weights_train_while_they_are_reparametrised_and_after(nets, kind, computed_tails):
    apply, undo, fuses = KINDS[kind]
    for model in nets.both:
        for conv in swallowed(model):
            torch.manual_seed(2)
            apply(conv)
    train(nets, range(2))
    nets.assert_alike()
    assert len(computed_tails) == (2 * TAILS if fuses else 0)
    for model in nets.both:
        for conv in swallowed(model):
            undo(conv)
    computed_tails.clear()
    train(nets, range(2, 4))
    nets.assert_alike()
    assert len(computed_tails) == 2 * TAILS


def test_a_network_fused_while_its_weights_are_parametrized_stays_fused_after(nets, computed_tails):
    for model in nets.both:
        for conv in swallowed(model):
            parametrize.register_parametrization(conv, "weight", Doubled())
    assert len(fused_resnet.fuse(nets.fused, strict=True).fused) == TAILS
    train(nets, [0])
    for model in nets.both:
        for conv in swallowed(model):
            removed(conv)
    train(nets, [1])
    nets.assert_alike()
    assert len(computed_tails) == 2 * TAILS


def test_cached_parametrizations_serve_several_calls(nets):
    for model in nets.both:
        for conv in swallowed(model):
            parametrize.register_parametrization(conv, "weight", Doubled())
        with parametrize.cached():
            (nets.loss(model, 0) + nets.loss(model, 1)).backward()
    nets.assert_alike()


def test_masked_weights_are_zero_after_training_and_once_the_mask_is_permanent(nets):
    for model in nets.both:
        for conv in swallowed(model):
            torch.manual_seed(2)
            prune.random_unstructured(conv, "weight", amount=0.5)
    train(nets, range(2))
    for model in nets.both:
        for conv in swallowed(model):
            mask = conv.weight_mask.clone()
            prune.remove(conv, "weight")
            assert not conv.weight[mask == 0].any()
    nets.assert_alike()
