"""Which projections PyTorch's convolution computes, and why."""

from dataclasses import replace

import pytest
import torch

import fused_resnet
from fused_resnet.cost import choice
from fused_resnet.functional import Direct, Norm, Projection
from fused_resnet.strategy import current_strategy, use_strategy


def branches(rows, inputs=16, outputs=24, dtype=torch.float32, training=True):
    """A projection's norm beside an identity, of so many rows."""
    running = torch.zeros(outputs), torch.ones(outputs)
    norm = Norm(running_mean=running[0], running_var=running[1], training=training)
    x, weight = torch.zeros(rows, inputs, 1, 1, dtype=dtype), torch.zeros(outputs, inputs, 1, 1, dtype=dtype)
    return [Projection(x, weight, norm), Direct(torch.zeros(rows, outputs, 1, 1, dtype=dtype))]


def chosen(*arguments, **options):
    return choice.by_library(branches(*arguments, **options), backward=True)


@pytest.fixture(autouse=True)
def _by_pytorch():
    with fused_resnet.use_backend("reference"):
        yield


def test_plain_pytorch_takes_moments_of_many_rows():
    assert chosen(rows=8 * 16) == [False, False]


def test_plain_pytorch_convolves_where_matrices_of_channels_are_more_work():
    assert chosen(rows=8 * 16 - 1) == [True, False]


def test_plain_pytorch_leaves_projections_that_add_no_channels_to_the_convolution():
    assert chosen(rows=10_000, inputs=24, outputs=24) == [True, False]
    assert chosen(rows=10_000, inputs=23, outputs=24) == [False, False]


def test_running_statistics_are_folded_into_any_projection():
    assert chosen(rows=3, training=False) == [False, False]


@pytest.mark.parametrize("training", [True, False])
def test_plain_pytorch_convolves_in_half_precision(training):
    """It cannot multiply half precision into float32."""
    assert chosen(rows=1000, dtype=torch.bfloat16, training=training) == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_projection_without_a_norm_is_part_of_the_operation(dtype):
    """It is a convolution there, too, and without it there might be nothing but an addition."""
    projection, identity = branches(rows=3, dtype=dtype)
    assert choice.by_library([replace(projection, norm=None), identity], backward=True) == [False, False]


def test_emulated_kernels_take_moments(monkeypatch):
    monkeypatch.setattr(fused_resnet.backend, "chosen_for", lambda device: "emulated")
    assert chosen(rows=3) == [False, False]


def test_a_strategy_that_is_forced_is_taken():
    with use_strategy("moments"):
        assert chosen(rows=3) == [False, False]
    with use_strategy("library"):
        assert chosen(rows=1000) == [True, False]


def test_function_sets_the_strategy_until_further_notice():
    assert current_strategy() == "auto"
    try:
        use_strategy("moments")
        assert current_strategy() == "moments"
    finally:
        use_strategy("auto")
    assert current_strategy() == "auto"


def test_context_manager_restores_the_former_strategy():
    with use_strategy("moments"):
        with use_strategy("library"):
            assert current_strategy() == "library"
        assert current_strategy() == "moments"
        with pytest.raises(KeyError), use_strategy("library"):
            raise KeyError
        assert current_strategy() == "moments"
    assert current_strategy() == "auto"


@pytest.mark.parametrize("name", ["Moments", "", None, 1, "materialise"])
def test_unknown_strategy_lists_the_choices_and_changes_nothing(name):
    with use_strategy("moments"):
        with pytest.raises(ValueError, match=r"strategy is .*, expected one of 'moments', 'library', 'auto'"):
            use_strategy(name)
        assert current_strategy() == "moments"


def test_a_graph_is_given_what_a_gpu_computes_fastest_and_never_pytorchs_own_operations(monkeypatch):
    """What a compiler would make of those is not what eager ones take."""
    asked = []

    def fastest(problem, device, plain_too):
        asked.append((problem.rows, device, plain_too))
        return "library", None

    monkeypatch.setattr(choice, "_fastest", fastest)
    monkeypatch.setattr(fused_resnet.backend, "chosen_for", lambda device: "cuda")
    monkeypatch.setattr(choice.availability, "missing_on", lambda index: None)
    described = choice._described(branches(rows=7))
    with fused_resnet.use_backend("auto"):
        arguments = torch.float32, torch.device("cuda", 1), True
        assert choice._decided_for_a_graph(described, *arguments) == (True, False)
        assert choice._decided(described, *arguments, True) == (True, False)
    assert asked == [(7, 1, False), (7, 1, True)]
