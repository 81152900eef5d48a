"""Norms whose statistics several processes share, by the compiled module: each process computes a part of the batch.

What processes exchange is exchanged by the test (``simulated_processes.py``). Results are those of the whole batch.
"""

import pytest
import torch
from compare import assert_accurate
from emulated import multiprocessors, on_kernels, only_emulated, thread_order
from kernel_samples import SMALL, each, each_dtype
from refused import BackwardCall, refusal
from same_bits import assert_same_bits
from samples import Branch, Sample
from simulated_processes import Case, processes_of, reference, results_of, run_backward, run_forward
from tf32 import tf32, with_rounding_convolutions

from benchmarks.emulator import recorded_launches

SHAPE = (5, 24, 6, 5)
SHARED = {
    "direct": Sample(Branch("direct", "training"), None, shape=SHAPE),
    "direct and an identity": Sample(Branch("direct", "training"), Branch("direct"), shape=SHAPE),
    "two direct sources": Sample(Branch("direct", "training"), Branch("direct", "training"), shape=SHAPE),
    "projection": Sample(Branch("projection", "training"), Branch("direct"), shape=SHAPE),
    "projection without a relu": Sample(Branch("projection", "training"), None, None, SHAPE),
    "two projections": Sample(
        Branch("projection", "training"), Branch("projection", "training", in_channels=19, stride=2), shape=SHAPE
    ),
    "direct and a projection": Sample(
        Branch("direct", "training"), Branch("projection", "training", stride=2), shape=SHAPE
    ),
    "zero padding and a projection": Sample(Branch("zero_pad"), Branch("projection", "training"), shape=SHAPE),
    "no affine parameters": Sample(
        Branch("projection", "training", affine=False), Branch("direct", "training", affine=False), shape=SHAPE
    ),
    "convolution biases": Sample(
        Branch("projection", "training", bias=True), Branch("projection", "eval", bias=True), shape=SHAPE
    ),
    "a frozen shortcut": Sample(Branch("projection", "training"), Branch("projection", "eval", stride=2), shape=SHAPE),
    "a frozen main branch": Sample(Branch("direct", "eval"), Branch("projection", "training"), shape=SHAPE),
    "channels last": Sample(
        Branch("projection", "training", 16, layout="channels_last"),
        Branch("projection", "training", 24, stride=2, layout="channels_last"),
        shape=(5, 32, 6, 5),
        gradient_layout="channels_last",
    ),
}
LARGE = {
    "several tiles": Sample(
        Branch("projection", "training", 130), Branch("projection", "training", 140, stride=2), shape=(5, 150, 9, 9)
    ),
    "several ranges": Sample(Branch("projection", "training", 9), Branch("direct", "training"), shape=(5, 8, 40, 40)),
}
SINGLE_ROWS = {
    "direct": Sample(Branch("direct", "training"), Branch("direct"), shape=(40, 24, 1, 1)),
    "two projections": Sample(
        Branch("projection", "training"),
        Branch("projection", "training", in_channels=19, stride=2),
        shape=(40, 24, 1, 1),
    ),
}
each_split = pytest.mark.parametrize("parts", [(1, 3, 1), (2, 3)], ids=str)


def assert_as_accurate_as_the_whole_batch(case, processes, other=None):
    """The rule of compare.py, with the error of plain PyTorch on the whole batch, of another tail if given."""
    tested = results_of(processes)
    mask = tested["output"] > 0 if case.tail.activation == "relu" else None
    eager, exact = reference(case, mask, other=other), reference(case, mask, torch.float64)
    assert tested.keys() == eager.keys()
    for name, result in tested.items():
        assert_accurate(name, result, eager[name], exact[name], dtype=tested["output"].dtype)


def check(backend, device, sample, parts, local=()):
    case = Case(sample, parts, device, local)
    processes = processes_of(backend, case)
    run_backward(processes, run_forward(processes))
    assert_as_accurate_as_the_whole_batch(case, processes)


@on_kernels
@each_dtype
@each_split
@each(SHARED)
def test_parts_of_a_batch_give_the_results_of_the_whole(sample, parts, dtype, backend, device):
    check(backend, device, sample.with_dtype(dtype), parts)


@on_kernels
@each_dtype
@each(LARGE)
def test_parts_of_several_tiles_give_the_results_of_the_whole(sample, dtype, backend, device):
    check(backend, device, sample.with_dtype(dtype), (1, 3, 1))


@on_kernels
@each_dtype
@each(SINGLE_ROWS)
def test_parts_of_one_row_give_the_results_of_the_whole(sample, dtype, backend, device):
    """A row has no variance, but it has its part in that of the others."""
    check(backend, device, sample.with_dtype(dtype), (1, 32, 7))


@on_kernels
@each_dtype
@pytest.mark.parametrize("local", ["main", "shortcut"])
@pytest.mark.parametrize("name", ["two direct sources", "two projections", "direct and a projection"])
def test_norm_beside_a_shared_one_keeps_its_own_statistics(name, local, dtype, backend, device):
    check(backend, device, SHARED[name].with_dtype(dtype), (1, 3, 1), [local])


@only_emulated
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each(SMALL)
def test_sanitize_smoke_shared_norms(sample, dtype, backend):
    """What runs under the sanitizers: a tail of each kind."""
    check(backend, "cpu", sample.with_dtype(dtype), (1, 1))


@on_kernels
@pytest.mark.parametrize("name", ["two projections", "direct and a projection", "channels last"])
def test_shared_norms_with_tf32_are_as_accurate_as_convolutions_in_tf32(name, backend, device):
    case = Case(SHARED[name], (1, 3, 1), device)
    with tf32(True):
        processes = processes_of(backend, case)
        run_backward(processes, run_forward(processes))
        assert_as_accurate_as_the_whole_batch(case, processes, with_rounding_convolutions(case.tail))


@on_kernels
def test_far_apart_means_of_processes_cost_no_accuracy(backend, device):
    """Each process centres about its own mean, which is not that of all."""
    case = Case(SHARED["two projections"], (1, 3, 1), device)
    for name, parts in case.inputs.items():
        case.inputs[name] = tuple(x + 3 * rank for rank, x in enumerate(parts))
    processes = processes_of(backend, case)
    run_backward(processes, run_forward(processes))
    assert_as_accurate_as_the_whole_batch(case, processes)


def run_whole(process):
    process.forward.run()
    process.backward(None, {}).run()


def run_apart(process):
    """Nothing is exchanged."""
    process.forward.summarise()
    process.forward.apply()
    call = process.backward(None, {})
    assert call.sums().shape == (0, 2, process.dy.shape[1])
    call.summarise()
    call.complete()


def run_alone(process):
    run_backward([process], run_forward([process]))


@on_kernels
@each_dtype
@each(SHARED | LARGE)
@pytest.mark.parametrize("run", [run_apart, run_alone])
def test_one_process_gives_the_bits_of_a_single_launch(run, sample, dtype, backend, device):
    case = Case(sample.with_dtype(dtype), sample.shape[:1], device)
    results = []
    for compute in (run_whole, run):
        processes = processes_of(backend, case)
        compute(processes[0])
        results.append(results_of(processes))
    assert_same_bits(*results)


@only_emulated
@each_dtype
@pytest.mark.parametrize("name", LARGE)
def test_shared_norms_give_the_same_bits_on_any_gpu_and_for_any_order_of_threads(name, dtype, backend):
    case = Case(LARGE[name].with_dtype(dtype), (2, 3), "cpu")

    def results():
        processes = processes_of(backend, case)
        run_backward(processes, run_forward(processes))
        return results_of(processes)

    expected = results()
    with multiprocessors(1):
        assert_same_bits(results(), expected)
    for seed in (1, 2):
        with thread_order(seed), multiprocessors(7):
            assert_same_bits(results(), expected)


def kernels(launches):
    return [(launch.kernel, launch.cooperative) for launch in launches]


@only_emulated
@each(SHARED)
def test_shared_norms_take_two_launches_forward_and_two_backward(sample, backend):
    case = Case(sample, sample.shape[:1], "cpu")
    processes = processes_of(backend, case)
    with recorded_launches() as forward:
        own_means = run_forward(processes)
    with recorded_launches() as backward:
        run_backward(processes, own_means)
    assert kernels(forward) == [("summarise", True), ("apply", False)]
    projects = any(branch.conv is not None for branch in case.branches.values())
    rest = ("grad_complete", True) if projects else ("grad_apply", False)
    assert kernels(backward) == [("grad_summarise", True), rest]


@only_emulated
def test_evaluation_has_nothing_to_summarise(backend):
    sample = Sample(Branch("projection", "eval"), Branch("direct"), shape=SHAPE)
    process = processes_of(backend, Case(sample, (5,), "cpu"))[0]
    with recorded_launches() as launches:
        process.forward.summarise()
    assert launches == []


@on_kernels
def test_sums_are_those_of_shared_norms_alone(backend, device):
    case = Case(SHARED["two projections"], (5,), device, ["main"])
    (process,) = processes_of(backend, case)
    (own_means,) = run_forward([process])
    call = process.backward(True, own_means)
    call.summarise()
    dbeta, dgamma = (process.gradients[f"shortcut.norm.{part}"] for part in ("bias", "weight"))
    assert torch.equal(call.sums(), torch.stack([dbeta, dgamma])[None])


def shared_statistics(call, branch):
    """What describes those of a projection."""
    inputs = branch["x"].shape[1]
    own = {"own_mean": call.floats(6), "mu": call.floats(inputs), "cov": call.floats(inputs, inputs)}
    return {"shared": True, "training": True, "mean": call.floats(6), **own}


@on_kernels
def test_bias_ahead_of_shared_norms_gets_a_gradient_of_zero(backend, device):
    call = BackwardCall(backend, device)
    for branch in (call.main, call.shortcut):
        branch["norm"] |= shared_statistics(call, branch)
    made = call.made()
    made.summarise()
    made.complete()
    assert torch.equal(call.main["dbias"], torch.zeros(6, device=device))
    assert torch.equal(call.shortcut["dbias"], torch.zeros(6, device=device))


@on_kernels
def test_sums_of_no_rows_are_zeros(backend, device):
    """An empty part takes part in the exchange."""
    call = BackwardCall(backend, device)
    call.dy, call.mask = call.dy[:0], call.mask[:0]
    for branch in (call.main, call.shortcut):
        branch |= {"x": branch["x"][:0], "dx": branch["dx"][:0]}
        branch["norm"] |= shared_statistics(call, branch)
    made = call.made()
    made.summarise()
    assert torch.equal(made.sums(), torch.zeros(2, 2, 6, device=device))
    made.complete()


GIVEN = "expected a tensor where"


@on_kernels
@pytest.mark.parametrize(
    ("branch", "changes", "message"),
    [
        ("main", {"own_mean": None}, f"own_mean is None, {GIVEN} the statistics of a projection's norm are shared"),
        ("shortcut", {"own_mean": None}, f"own_mean is None, {GIVEN} the statistics of a projection's norm are shared"),
        ("main", {"mean": None}, f"mean is None, {GIVEN} statistics are shared"),
        ("main", {"shared": False}, "own_mean is given, expected None where statistics are not shared"),
        ("shortcut", {"training": False}, "shared is True, expected False where training is False"),
    ],
)
def test_backward_refuses_what_does_not_describe_shared_statistics(branch, changes, message, backend, device):
    call = BackwardCall(backend, device)
    arguments = vars(call)[branch]
    arguments["norm"] |= {**shared_statistics(call, arguments), **changes}
    assert refusal(call) == f"{branch}.norm.{message}"


@on_kernels
@pytest.mark.parametrize(
    ("own_mean", "message"),
    [
        (torch.ones(5), "own_mean is of shape [5], expected of shape [6]"),
        (torch.ones(6, dtype=torch.float64), "own_mean.dtype is Double, expected Float"),
        (torch.ones(12)[::2], "own_mean is strided [2], expected contiguous"),
    ],
)
def test_backward_refuses_a_mean_of_its_own_that_is_no_such_vector(own_mean, message, backend, device):
    call = BackwardCall(backend, device)
    call.main["norm"] |= {"shared": True, "mean": call.floats(6), "own_mean": own_mean.to(device)}
    assert refusal(call) == f"main.norm.{message}"


@on_kernels
def test_shared_statistics_of_one_row_are_taken(backend, device):
    """Its mean, and a variance of zero."""
    sample = Sample(Branch("projection", "training"), None, shape=(1, 24, 1, 1))
    (process,) = processes_of(backend, Case(sample, (1,), device))
    process.forward.summarise()
    statistics = process.forward.statistics(0)
    x, w = process.inputs["main.x"], process.case.tail.main.conv.weight.detach()
    torch.testing.assert_close(statistics.mean, (w[:, :, 0, 0].double() @ x[0, :, 0, 0].double()).float())
    torch.testing.assert_close(statistics.var, torch.zeros(24, device=device))
