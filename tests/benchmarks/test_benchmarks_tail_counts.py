"""The benchmark ``tail`` counts bytes, operations and launches exactly, and its ceilings are the quickest calls'."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_tails import SMALL, each_mode
from torch import Tensor

from benchmarks import trace
from benchmarks.clocks import Sample
from benchmarks.errors import EXTRA
from benchmarks.tail.counts import counted
from benchmarks.tail.passes import watch
from benchmarks.tail.work import Ceilings, Work, compulsory, measure_ceilings
from benchmarks.tail_shapes import NETWORKS, RESNET18, RESNET50, TailShape, distinct
from benchmarks.tails import MODES, Tail, counted_bytes

for dependency in EXTRA:
    pytest.importorskip(dependency)


CPU = torch.device("cpu")
MASK = Fraction(1, 16)  # of the output, each time that it is written or read


@pytest.mark.parametrize(
    ("shape", "forward", "both"),
    [
        (RESNET50[0], Fraction(27, 2), Fraction(27, 2) + 18),
        (RESNET50[1], Fraction(37, 4), Fraction(37, 4) + Fraction(21, 2)),
        (RESNET50[2], Fraction(55, 4), Fraction(55, 4) + 20),
        (RESNET50[4], Fraction(55, 4), Fraction(55, 4) + 20),
    ],
    ids=lambda value: value.name if isinstance(value, TailShape) else str(value),
)
def test_eager_traffic_of_resnet50(shape: TailShape, forward: Fraction, both: Fraction) -> None:
    """In units of the output's size, as README.md and docs/design.md have it."""
    assert in_outputs("eager", shape, "training") == forward
    assert in_outputs("eager", shape, "training+backward") == both
    assert in_outputs("eager-contiguous", shape, "training+backward") == both


@pytest.mark.parametrize(
    ("index", "both"),
    [(0, Fraction(41, 2) + 3 * MASK), (1, Fraction(55, 4) + 2 * MASK), (2, Fraction(91, 4) + 3 * MASK)],
)
def test_traffic_with_convolutions_apart(index: int, both: Fraction) -> None:
    assert in_outputs("library", RESNET50[index], "training+backward") == both


def in_outputs(way: str, shape: TailShape, mode: str) -> Fraction:
    count = counted(way, shape, MODES[mode], torch.bfloat16)
    assert count is not None
    return Fraction(count.bytes, shape.rows * shape.channels * 2)


@each_mode
def test_fused_traffic_is_that_of_the_kernels(mode: Any) -> None:
    for way in ("fused", "moments"):
        count = counted(way, RESNET50[2], mode, torch.bfloat16)
        assert count is not None
        assert count.bytes == counted_bytes(RESNET50[2], mode.training, 2, mode.backward)
        assert count.launches == 1 + mode.backward


@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tail_can_be_counted(mode: Any, dtype: torch.dtype) -> None:
    for tail in distinct(NETWORKS):
        fused, eager = (counted(way, tail.shape, mode, dtype) for way in ("fused", "eager"))
        assert fused is not None
        assert eager is not None
        assert fused.bytes < eager.bytes
        assert compulsory(tail.shape, mode, dtype.itemsize).bytes > 0
    assert counted("compile", SMALL, mode, dtype) is None


@each_mode
def test_eager_products_are_two_operations_a_multiply_add(mode: Any) -> None:
    shape = RESNET50[2]
    products = sum(2 * shape.rows * k * shape.channels for k in (128, 256))
    count = counted("eager", shape, mode, torch.bfloat16)
    assert count is not None
    assert count.operations == products * (3 if mode.backward else 1)


def test_operators_are_counted_one_by_one() -> None:
    x = torch.empty(2, 3, 4, 4, device="meta")
    watched = watch(lambda: (x.add_(x), x.relu_(), x[:, :2]))
    assert (watched.operators, watched.elements) == (2, (3 + 2) * 96)
    launches = {mode: counted("eager", RESNET18[1], MODES[mode], torch.float32) for mode in ("eval", "eval+backward")}
    # A convolution, two norms, an addition, a relu; in backward, the addition does nothing.
    assert [count and count.launches for count in launches.values()] == [5, 9]


def test_an_operator_without_declared_passes_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="the operator is exp, expected one whose passes are declared: convolution,"):
        watch(lambda: torch.empty(2, device="meta").exp())


def test_eager_operators_are_those_that_run() -> None:
    """What is counted on shapes alone is what a CPU dispatches."""
    for mode in MODES.values():
        tail = Tail(SMALL, torch.float32).train(mode.training)
        x, before = (t.requires_grad_(mode.grad_enabled) for t in tail.inputs("cpu", torch.float32))

        def call(tail: Tail = tail, x: Tensor = x, before: Tensor = before, backward: bool = mode.backward) -> None:
            y = tail(x, before)
            if backward:
                tail.gradients(y, (x, before), torch.empty_like(y))

        with torch.set_grad_enabled(mode.grad_enabled):
            watched = watch(call)
        count = counted("eager", SMALL, mode, torch.float32)
        assert count is not None
        assert (watched.elements * 4, watched.operators) == (count.bytes, count.launches)


@pytest.mark.parametrize(
    ("names", "expected"), [(["gemm", "Memcpy DtoD", "norm", "Memset"], 2), ([], None), (["Memset"], None)]
)
def test_launches_are_the_kernels_that_the_profiler_saw(
    names: list[str], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = SimpleNamespace(start=0.0, end=1.0)
    events = [SimpleNamespace(name=name, device_type=trace.DeviceType.CUDA, time_range=took) for name in names]
    events.append(SimpleNamespace(name="cudaLaunchKernel", device_type=trace.DeviceType.CPU))
    seen = nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(trace, "profile", lambda **_: seen)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    calls: list[None] = []
    assert trace.launched_kernels(lambda: calls.append(None)) == expected
    assert len(calls) == 1


def test_compulsory_work_is_every_tensor_once() -> None:
    shape = TailShape("net", "layer2.0", 1, 4, inner=3, channels=10, before=5, stride=2, batch=2)
    rows = 2 * 4 * 4
    forward, both = (compulsory(shape, MODES[name], 2) for name in ("eval", "eval+backward"))
    assert forward.bytes == 2 * (rows * (3 + 5 + 10) + (3 + 5) * 10)
    # dy is read; of the strided input all pixels have a gradient.
    assert both.bytes - forward.bytes == 2 * (rows * (10 + 3 + 4 * 5) + (3 + 5) * 10)
    products = 2 * rows * (3 + 5) * 10
    assert forward.operations == products + (2 * 2 + 2) * rows * 10
    assert both.operations == 3 * products + (2 * 2 + 2 + 2 * 4 + 1) * rows * 10


def test_the_roofline_takes_what_is_slower() -> None:
    ceilings = Ceilings(bytes_per_s=10.0, operations_per_s=100.0)
    assert ceilings.ridge == 10.0
    assert Work(bytes=20, operations=100).seconds(ceilings) == 2.0
    assert Work(bytes=20, operations=1000).seconds(ceilings) == 10.0


def test_ceilings_are_of_the_quickest_copy_and_of_the_quickest_product_by_either_library() -> None:
    copies, products, convolutions = [0.5, 0.25], [0.5, 2.0], [0.75, 0.125]
    seconds = iter([s for two in (copies, products, convolutions) for s in (*two, *[1.0] * 8)])
    found = measure_ceilings(CPU, torch.float32, lambda call: Sample(next(seconds), 0.0), quick=True)
    assert found == Ceilings(2 * 2**24 / 0.25, 2 * 256**3 / 0.125)
