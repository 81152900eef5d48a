"""A block that works on one item after another leaves nothing of the last one in the way of the next."""

import pytest
import torch
from emulated import (
    compiled_backward,
    compiled_forward,
    multiprocessors,
    only_emulated,
    shared_memory,
    thread_order,
)
from kernel_samples import each
from same_bits import assert_same_bits
from samples import Branch, Sample, build

# Three columns of tiles, several tiles in each, and several ranges of rows: all the work of one block.
SHAPE = (2, 264, 13, 11)
DIRECT = Branch("direct", "training", layout="channels_last")
TAILS = {
    "direct": Sample(DIRECT, Branch("direct", layout="channels_last"), shape=SHAPE),
    "projection": Sample(Branch("projection", "training", 136, layout="channels_last"), DIRECT, shape=SHAPE),
    "projections": Sample(
        Branch("projection", "training", 40, layout="channels_last"),
        Branch("projection", "training", 72, stride=2, layout="channels_last"),
        shape=SHAPE,
    ),
    # Both share tiles: of all gradients, and of the weights' alone.
    "narrow projections": Sample(
        Branch("projection", "training", 40, layout="channels_last"),
        Branch("projection", "training", 64, layout="channels_last"),
        shape=SHAPE,
    ),
    "narrow projections, one strided": Sample(
        Branch("projection", "training", 64, layout="channels_last"),
        Branch("projection", "training", 24, stride=2, layout="channels_last"),
        shape=SHAPE,
    ),
}


def results(backend, case):
    tail, inputs, _ = case
    call, y = compiled_forward(backend, tail, inputs)
    call.run()
    backward, gradients = compiled_backward(backend, *case)
    backward.run()
    return {"y": y, **gradients}


@only_emulated
@pytest.mark.parametrize("seed", [0, 1, 2])
@each(TAILS)
def test_one_block_does_what_many_do(sample, seed, backend):
    case = build(sample.with_dtype(torch.bfloat16))
    with multiprocessors(64):
        expected = results(backend, case)
    with multiprocessors(1), thread_order(seed):
        assert_same_bits(results(backend, case), expected)


@only_emulated
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@each({name: sample for name, sample in TAILS.items() if name != "direct"})
def test_a_gpu_with_little_shared_memory_gives_the_same_bits(sample, dtype, backend):
    """An A100 has it: there, one step less of a product is under way."""
    case = build(sample.with_dtype(dtype))
    expected = results(backend, case)
    with shared_memory(164), multiprocessors(1), thread_order(1):
        assert_same_bits(results(backend, case), expected)
