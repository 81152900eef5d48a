"""Which strategy a projection with a norm takes, and why."""

from dataclasses import replace

import pytest

from fused_resnet.strategy import Cost, Problem, choose, cost, current_strategy, use_strategy


def problem(rows=1000, in_channels=10, out_channels=40, element_size=4, backward=False):
    return Problem(rows, in_channels, out_channels, element_size, backward)


def test_moments_read_the_input_once_more_and_multiply_it_with_itself():
    # 1000 x 10 values of 4 bytes; x^T x is 1000 * 10 * 10 multiply-adds, diag(W Cov W^T) 40 * 10 * 10.
    assert cost("moments", problem()) == Cost(40_000, 2 * 100_000, 2 * 4_000)


def test_moments_in_both_directions():
    # Backward reads x again; x Q is 1000 * 10 * 10 multiply-adds, twice, W Cov and Q are 40 * 10 * 10 each.
    assert cost("moments", problem(backward=True)) == Cost(80_000, 2 * 300_000, 2 * 12_000)


def test_materialising_writes_and_reads_the_pre_norm_tensor():
    # 1000 x 40 values of 4 bytes, written and read; its product is needed anyway.
    assert cost("materialise", problem()) == Cost(320_000, 0, 0)


def test_materialising_in_both_directions():
    # The same again of its gradient in backward, which also reads x twice more, 40,000 bytes each, and repeats the
    # product twice: 1000 * 10 * 40 multiply-adds each.
    assert cost("materialise", problem(backward=True)) == Cost(640_000 + 80_000, 2 * 2 * 400_000, 0)


def test_half_precision_halves_the_bytes_alone():
    for strategy in ("moments", "materialise"):
        wide, narrow = (cost(strategy, problem(element_size=size, backward=True)) for size in (4, 2))
        assert replace(narrow, bytes=2 * narrow.bytes) == wide


def test_time_counts_bytes_and_operations():
    assert Cost(100, 80, 16).seconds(operations_per_byte=8.0) == 112.0


def test_products_of_matrices_are_three_for_one_on_tensor_cores():
    assert Cost(0, 0, 28).seconds(operations_per_byte=14.0) == 2.0
    assert Cost(0, 0, 28).seconds(operations_per_byte=28.0) == 2.0  # no faster than on CUDA cores
    assert Cost(0, 0, 180).seconds(operations_per_byte=180.0) == 3.0


def test_matrices_of_many_channels_turn_the_choice_to_materialising():
    """The shortcut of ResNet-50's last stage: with 16 images, W Cov is as much work as the products of the rows."""
    shortcut = Problem(16 * 7 * 7, 1024, 2048, 2, backward=True)
    assert choose(shortcut, 180.0) == "materialise"
    assert choose(replace(shortcut, rows=256 * 7 * 7), 180.0) == "moments"


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("balance", [64.0, 200.0])
def test_many_rows_of_few_channels_take_moments(balance, backward):
    """ResNet-50's first stage: 256 images of 56x56."""
    assert choose(Problem(256 * 56 * 56, 64, 256, 2, backward), balance) == "moments"


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("balance", [8.0, 64.0, 200.0])
def test_few_rows_of_many_channels_materialise(balance, backward):
    """A 7x7 stage of one image."""
    assert choose(Problem(49, 1024, 2048, 2, backward), balance) == "materialise"


@pytest.mark.parametrize("backward", [False, True])
def test_more_input_channels_never_turn_the_choice_to_moments(backward):
    choices = [choose(Problem(4096, k, 512, 4, backward), 64.0) for k in (8, 32, 128, 512, 2048, 8192)]
    assert choices == sorted(choices, reverse=True)
    assert set(choices) == {"moments", "materialise"}


@pytest.mark.parametrize("backward", [False, True])
def test_more_output_channels_turn_the_choice_to_moments(backward):
    choices = [choose(Problem(4096, 256, c, 4, backward), 64.0) for c in (8, 32, 128, 512, 2048)]
    assert choices == sorted(choices)
    assert set(choices) == {"moments", "materialise"}


def test_slower_arithmetic_never_turns_the_choice_to_moments_in_forward():
    choices = [choose(problem(in_channels=128, out_channels=256), balance) for balance in (1000.0, 100.0, 10.0, 1.0)]
    assert choices == sorted(choices, reverse=True)
    assert set(choices) == {"moments", "materialise"}


def test_backward_can_decide():
    """Materialising repeats its product in backward, which forward alone does not see."""
    forward, both = (choose(Problem(4096, 128, 128, 4, backward), 40.0) for backward in (False, True))
    assert (forward, both) == ("materialise", "moments")


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
        with use_strategy("materialise"):
            assert current_strategy() == "materialise"
        assert current_strategy() == "moments"
        with pytest.raises(KeyError), use_strategy("materialise"):
            raise KeyError
        assert current_strategy() == "moments"
    assert current_strategy() == "auto"


@pytest.mark.parametrize("name", ["Moments", "", None, 1])
def test_unknown_strategy_lists_the_choices_and_changes_nothing(name):
    with use_strategy("moments"):
        with pytest.raises(
            ValueError, match=r"strategy is .*, expected one of 'moments', 'materialise', 'library', 'auto'"
        ):
            use_strategy(name)
        assert current_strategy() == "moments"
