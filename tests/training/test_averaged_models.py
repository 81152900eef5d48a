"""Averaged copies of a fused network: stochastic weight averaging and exponential moving averages."""

import pytest
import torch
from small_nets import TAILS, assert_alike
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

AVERAGES = {"equal": {}, "exponential": {"multi_avg_fn": get_ema_multi_avg_fn(0.7)}}


def averaged(nets, **options):
    """The average of each network over three steps of training."""
    averages = []
    for model in nets.both:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        average = AveragedModel(model, **options)
        for step in range(3):
            optimizer.zero_grad()
            nets.loss(model, step).backward()
            optimizer.step()
            average.update_parameters(model)
        averages.append(average)
    return averages


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_is_a_fused_network_with_the_averaged_weights(nets, kind, use_buffers, computed_tails):
    mine, theirs = averaged(nets, use_buffers=use_buffers, **AVERAGES[kind])
    nets.assert_alike()
    assert_alike(mine, theirs, nets.tolerance)
    computed_tails.clear()
    images, _ = nets.batch(5)
    with torch.no_grad():
        torch.testing.assert_close(mine.eval()(images), theirs.eval()(images), rtol=1e-3, atol=nets.tolerance)
    assert len(computed_tails) == TAILS


def test_statistics_are_estimated_anew_for_an_average(nets, computed_tails):
    """They are the plain mean over several batches, whatever the norms' own momentum."""
    averages = averaged(nets)
    computed_tails.clear()
    for average in averages:
        update_bn([nets.batch(seed) for seed in range(4)], average)
    assert len(computed_tails) == 4 * TAILS
    assert_alike(*averages, nets.tolerance)
    norms = [module for module in averages[0].modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked == 4 and norm.momentum == 0.1 for norm in norms)


def test_an_average_trains_on_by_itself(nets):
    averages = averaged(nets)
    for average, model in zip(averages, nets.both, strict=True):
        before = [parameter.clone() for parameter in model.parameters()]
        optimizer = torch.optim.SGD(average.parameters(), lr=0.05)
        optimizer.zero_grad()
        nets.loss(average).backward()
        optimizer.step()
        assert all(map(torch.equal, before, model.parameters()))
    assert_alike(*averages, nets.tolerance)
