"""The backward of a tail gives the same bits however it runs: in one launch or several, on any GPU, in any order."""

from contextlib import contextmanager
from functools import cache

import pytest
import torch
from dispatched import Operators
from emulated import compiled_backward, multiprocessors, on_kernels, only_emulated, thread_order
from kernel_samples import SEVERAL_RANGES, each, each_dtype
from same_bits import assert_same_bits
from samples import FUSED, SAMPLES, build

each_size = pytest.mark.parametrize("size", SEVERAL_RANGES)


def run_whole(call):
    call.run()


def run_in_phases(call):
    call.reduce()
    call.finish()
    call.apply()


def gradients(backend, case, run):
    call, found = compiled_backward(backend, *case)
    run(call)
    return found


@on_kernels
@each_dtype
@each(FUSED)
def test_backward_phase_by_phase_gives_the_same_bits(sample, dtype, backend, device):
    case = build(sample.with_dtype(dtype), device)
    assert_same_bits(gradients(backend, case, run_in_phases), gradients(backend, case, run_whole))


@cache
def run_once(backend, size, dtype):
    """A call that has run, the gradients that it writes, and what they were then. For all tests of a size."""
    torch.manual_seed(0)
    device = "cuda" if backend == "cuda" else "cpu"
    call, found = compiled_backward(backend, *build(SEVERAL_RANGES[size].with_dtype(dtype), device))
    call.run()
    return call, found, {name: gradient.clone() for name, gradient in found.items()}


def assert_same_bits_again(once, run=run_whole):
    """The call writes what it has written before, over NaN."""
    call, found, before = once
    for gradient in found.values():
        gradient.fill_(torch.nan)
    run(call)
    assert_same_bits(found, before)


@on_kernels
@each_dtype
@each_size
def test_backward_of_several_ranges_phase_by_phase_gives_the_same_bits(size, dtype, backend):
    assert_same_bits_again(run_once(backend, size, dtype), run_in_phases)


@on_kernels
@each_dtype
@each_size
def test_backward_run_again_gives_the_same_bits(size, dtype, backend):
    assert_same_bits_again(run_once(backend, size, dtype))


@only_emulated
@each_dtype
@each_size
def test_backward_gives_the_same_bits_on_any_size_of_gpu(size, dtype, backend):
    once = run_once(backend, size, dtype)
    for count in (1, 7):
        with multiprocessors(count):
            assert_same_bits_again(once)


@only_emulated
@each_dtype
@each_size
def test_backward_gives_the_same_bits_for_any_order_of_threads(size, dtype, backend):
    """flash-attention issue 359: a race that one level of optimisation hides."""
    once = run_once(backend, size, dtype)
    with thread_order(1):
        assert_same_bits_again(once)


@contextmanager
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def differentiated(case):
    tail, inputs, dy = case
    tail.zero_grad()
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    tail.fused(leaves).backward(dy)
    return {name: tensor.grad for name, tensor in (*leaves.items(), *tail.named_parameters())}


@on_kernels
def test_deterministic_algorithms_change_nothing(device):
    """No error, the same bits, and no operator beside the kernels."""
    case = build(SAMPLES["bottleneck projection"], device)
    expected = differentiated(case)
    with deterministic_algorithms(), Operators() as operators:
        found = differentiated(case)
    assert_same_bits(found, expected)
    assert operators.calls == []
