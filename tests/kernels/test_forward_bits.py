"""The forward of a tail gives the same bits however it runs: in one launch or several, on any GPU, in any order."""

import copy

import torch
from emulated import compiled_forward, multiprocessors, on_kernels, only_emulated, thread_order
from kernel_samples import SEVERAL_RANGES, TRAINING, each, each_dtype
from same_bits import assert_same_bits
from samples import build

each_training_sample = each(TRAINING)
each_size = each(SEVERAL_RANGES)


def results(backend, case, run):
    """Output, buffers and batch statistics of a call on copies of the tail's tensors."""
    tail, inputs = copy.deepcopy(case[0]), case[1]
    call, y = compiled_forward(backend, tail, inputs)
    run(call)
    found = {"output": y, **dict(tail.named_buffers())}
    for i in range(len(inputs)):
        statistics = call.statistics(i)
        found |= {f"{name} {i}": getattr(statistics, name) for name in ("mean", "var", "mu", "cov")}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def run_whole(call):
    call.run()


def run_in_phases(call):
    call.moments()
    call.finish()
    call.apply()


@on_kernels
@each_dtype
@each_training_sample
def test_forward_phase_by_phase_gives_the_same_bits(sample, dtype, backend, device):
    case = build(sample.with_dtype(dtype), device)
    assert_same_bits(results(backend, case, run_in_phases), results(backend, case, run_whole))


@on_kernels
@each_size
def test_forward_of_several_ranges_phase_by_phase_gives_the_same_bits(sample, backend, device):
    case = build(sample.with_dtype(torch.bfloat16), device)
    assert_same_bits(results(backend, case, run_in_phases), results(backend, case, run_whole))


@on_kernels
@each_dtype
@each_size
def test_forward_run_again_gives_the_same_bits(sample, dtype, backend, device):
    case = build(sample.with_dtype(dtype), device)
    assert_same_bits(results(backend, case, run_whole), results(backend, case, run_whole))


@only_emulated
@each_dtype
@each_size
def test_forward_gives_the_same_bits_on_any_size_of_gpu(sample, dtype, backend):
    case = build(sample.with_dtype(dtype))
    expected = results(backend, case, run_whole)
    for count in (1, 2, 7):
        with multiprocessors(count):
            assert_same_bits(results(backend, case, run_whole), expected)


@only_emulated
@each_dtype
@each_size
def test_forward_gives_the_same_bits_for_any_order_of_threads(sample, dtype, backend):
    case = build(sample.with_dtype(dtype))
    expected = results(backend, case, run_whole)
    for seed in (1, 2):
        with thread_order(seed):
            assert_same_bits(results(backend, case, run_whole), expected)
