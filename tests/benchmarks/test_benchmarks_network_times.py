"""Whole networks in the parts of `make gpu`: what is compared before it is timed, and what a trace tells."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from emulated import needs_emulator  # type: ignore[import-not-found]

from benchmarks.gpu import counters, network_times, phase_launches, trace
from benchmarks.gpu.trace import Kernel
from benchmarks.training.trainer import Trainer


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small one, in the dtype that a CPU is quick in."""
    for name in ("_STEPS", "_HOST_STEPS", "_WARM_UP"):
        monkeypatch.setattr(network_times, name, 2)
    return replace(next(network_times.training_jobs(rehearse=True)), dtype="float32")


def reported(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = capsys.readouterr().out.splitlines()
    return [json.loads(line.removeprefix("@item ")) for line in lines if line.startswith("@item ")]


@pytest.mark.parametrize("what", [network_times.train, network_times.evaluate])
def test_every_way_of_a_network_is_told(what: Any, job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    network_times.attempt(what, job)
    items = reported(capsys)
    assert [item["way"] for item in items] == ["eager", "fused", "norms", "recompute"]
    for item in items:
        assert "problem" not in item
        for name in ("live_ms", "host_ms", "traced_host_ms"):
            assert item[name] > 0
        # Of a GPU alone.
        assert (item["graph_ms"], item["device_ms"], item["longest"]) == (None, None, [])


def test_way_that_learns_something_else_is_a_problem(
    job: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = iter([[1.0, 0.9], [2.0, 1.9]])
    monkeypatch.setattr(Trainer, "first_losses", lambda _: next(losses))
    network_times.attempt(network_times.train, replace(job, ways=["eager", "fused"]))
    eager, fused = reported(capsys)
    assert "live_ms" in eager
    assert fused["problem"].startswith("WrongError: losses of the first steps are 2.0000")


def test_jobs_of_a_gpu_are_real_networks() -> None:
    training, evaluation = list(network_times.training_jobs(False)), list(network_times.evaluation_jobs(False))
    assert [(job.model, job.batch, len(job.ways)) for job in training] == [("resnet50", 128, 2), ("resnet50", 256, 4)]
    assert [(job.model, job.batch) for job in evaluation] == [
        ("resnet50", 1),
        ("resnet50", 128),
        ("resnet18", 1),
        ("resnet18", 128),
    ]
    assert {(job.device, job.backend, job.dtype, job.size) for job in (*training, *evaluation)} == {
        ("cuda", "cuda", "bfloat16", 224)
    }


# Traces


def test_kernels_at_the_same_time_count_once() -> None:
    kernels = [Kernel("b", 5, 8), Kernel("a", 0, 10), Kernel("c", 20, 21), Kernel("d", 9, 12)]
    assert trace.busy(kernels) == 13
    assert trace.busy([]) == 0


def test_longest_kernels_are_told_with_their_runs() -> None:
    kernels = [Kernel(f"k{i}", 0, i) for i in range(1, 20)] + [Kernel("often", 0, 15), Kernel("often", 0, 15)]
    found = trace.longest(kernels, calls=2)
    assert len(found) == 10
    assert found[0] == {"kernel": "often", "ms": 0.015, "runs": 1.0}
    assert found[1]["kernel"] == "k19"


# Counters

NCU = """\
==PROF== Connected to process 1
"ID","Process Name","Kernel Name","gpu__time_duration.sum","sm__throughput.avg.pct_of_peak_sustained_elapsed"
"","","","ns","%"
{kernels}
"""


def test_ncu_table_is_turned_and_names_way_and_phase() -> None:
    names = ("moments", "finish", "apply", "grad_reduce", "grad_finish", "grad_apply") * 2
    signature = "void fused_resnet::{}_kernel<fused_resnet::HalfProducts<fused_resnet::BFloat16>>(fused_resnet::Tail)"
    rows = [f'"{i}","python","{signature.format(name)}","{1000 + i}","55.5"' for i, name in enumerate(names)]
    table = counters.transposed(NCU.format(kernels="\n".join(rows)).splitlines(), ["moments", "library"])
    assert list(table) == ["metric", "gpu__time_duration.sum", "sm__throughput.avg.pct_of_peak_sustained_elapsed"]
    assert table["gpu__time_duration.sum"] == ["ns", *(str(1000 + i) for i in range(12))]
    assert table["metric"][1] == "moments: forward moments: moments_kernel<HalfProducts<BFloat16>>"
    assert table["metric"][10] == "library: backward reduce: grad_reduce_kernel<HalfProducts<BFloat16>>"


def test_ncu_without_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="ncu printed no table"):
        counters.transposed(["==ERROR== ERR_NVGPUCTRPERM"], [])


def test_ncu_is_asked_for_each_metric_and_watches_the_phases_alone(tmp_path: Any) -> None:
    command = counters.command(tmp_path / "ncu", "layer1.1")
    metrics = command[command.index("--metrics") + 1].split(",")
    assert len(metrics) == len(set(metrics)) > 400
    assert "gpu__time_duration.sum" in metrics
    assert command[-1] == "layer1.1"


@pytest.mark.emulated
@pytest.mark.skipif(needs_emulator[1].args[0], reason="the emulator was not built")
def test_every_phase_is_launched_once_in_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    phase_launches.launch("layer3.1", rehearse=True)
    assert [item["way"] for item in reported(capsys)] == ["moments", "materialise", "library"]


def test_blocks_that_are_counted_are_there() -> None:
    assert torch.cuda.is_available() or counters.find_ncu({"PATH": ""}, opt=counters.METRICS) is None
    assert set(counters.BLOCKS) <= {shape.block for shape in phase_launches.RESNET50}
