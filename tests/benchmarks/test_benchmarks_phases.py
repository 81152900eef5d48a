"""The benchmark ``phases``: what it launches, counts and tells, on the emulator. No test sees a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.errors import EXTRA

for dependency in EXTRA:
    pytest.importorskip(dependency)

from benchmarks.emulator import missing, recorded_launches  # noqa: E402
from benchmarks.launches import BACKWARD, BACKWARD_PHASES, FORWARD, FORWARD_PHASES  # noqa: E402
from benchmarks.phases import calls, shown  # noqa: E402
from benchmarks.phases.run import ways_of  # noqa: E402
from benchmarks.result import Result, number, read  # noqa: E402
from benchmarks.tail_shapes import RESNET18, RESNET50  # noqa: E402
from benchmarks.tails import Tail, counted_bytes  # noqa: E402

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "phases-h100.json"
pytestmark = pytest.mark.emulated
needs_emulator = pytest.mark.skipif(missing() is not None, reason=f"_emulated: {missing()}")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phases")
    files = ["--json", str(folder / "p.json"), "--plot", str(folder / "p.svg")]
    assert main(["phases", "--quick", "--device", "cpu", "--dtype", "bfloat16", *files]) == 0
    return folder


@needs_emulator
def test_quick_run_tells_every_phase_of_every_way(quick: Path) -> None:
    result = read(quick / "p.json")
    kinds = {(str(row["kind"]), str(row["way"])) for row in result.rows}
    assert kinds == {
        *(("projection+projection", way) for way in ("eager", "moments", "library")),
        *(("projection+identity", way) for way in ("eager", "moments", "library")),
        *(("direct+projection", way) for way in ("eager", "moments")),
        *(("direct+identity", way) for way in ("eager", "direct")),
    }
    names = [f"{FORWARD} {phase}" for phase in FORWARD_PHASES] + [f"{BACKWARD} {phase}" for phase in BACKWARD_PHASES]
    for row in result.rows:
        for name in (FORWARD, BACKWARD, *(names if row["way"] != "eager" else [])):
            assert (number(row[name]) or 0) > 0, (row["tail"], row["way"], name)
        assert ("convolution forward" in row) == (row["way"] == "library")
        assert f"{FORWARD} moved" not in row  # the emulator's time says nothing about memory
    assert result.details["problems"] == []
    assert any("emulator" in note for note in result.notes)
    assert (quick / "p.svg").read_text().count("<svg") == 1


@needs_emulator
def test_bytes_are_those_of_both_launches() -> None:
    shape = RESNET50[0].shrunk(2, 7, 16)
    tail = Tail(shape, torch.bfloat16)
    x, before = tail.inputs("cpu", torch.bfloat16)
    made = calls.kernel_way("moments", tail, calls.Inputs(x, before, torch.ones_like(tail(x, before))), "emulated")
    mask = shape.rows * shape.channels // 8
    forward = counted_bytes(shape, True, 2) + mask
    both = counted_bytes(shape, True, 2, backward=True)
    assert made.bytes == {FORWARD: forward, BACKWARD: both - forward}


@needs_emulator
def test_every_call_is_one_launch_of_its_phase() -> None:
    shape = RESNET18[1].shrunk(2, 7, 16)
    tail = Tail(shape, torch.bfloat16)
    x, before = tail.inputs("cpu", torch.bfloat16)
    made = calls.kernel_way("moments", tail, calls.Inputs(x, before, torch.ones_like(tail(x, before))), "emulated")
    launched = {}
    for name, call in made.calls.items():
        with recorded_launches() as launches:
            call()
        (launch,) = launches
        launched[name] = launch.kernel
    assert launched == {
        "forward": "forward",
        "backward": "backward",
        **{f"forward {phase}": phase for phase in FORWARD_PHASES},
        **{f"backward {phase}": f"grad_{phase}" for phase in BACKWARD_PHASES},
    }


@needs_emulator
def test_way_that_computes_something_else_is_told_and_not_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = calls._named

    def spoilt(*arguments: object) -> dict[str, torch.Tensor]:
        return {name: gradient * 1.1 for name, gradient in named(*arguments).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(calls, "_named", spoilt)
    path = tmp_path / "p.json"
    command = ["phases", "--quick", "--device", "cpu", "--networks", "resnet18", "--dtype", "bfloat16"]
    assert main([*command, "--json", str(path)]) == 1
    result = read(path)
    assert {row["way"] for row in result.rows} == {"eager"}
    assert any("direct differs from eager, so it was not timed: resnet18 layer1.0" in note for note in result.notes)


def test_real_sizes_need_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phases", "--device", "cpu"]) == 2
    assert "phases of real tails need a GPU" in capsys.readouterr().err


def test_tails_without_projections_have_one_way() -> None:
    assert ways_of(RESNET18[0]) == ["eager", "direct"]
    assert ways_of(RESNET50[1]) == ["eager", "moments", "library"]


# What an H100 said


@pytest.fixture(scope="module")
def measured() -> Result:
    return read(MEASURED)


def test_small_table_of_the_h100_tells_the_slow_parts_too(measured: Result) -> None:
    header, rows = shown.headline(measured)
    lines = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert len(lines) == 15
    slow = lines["resnet50 layer4.0"]
    assert slow["eager"] == "0.506 + 0.584"
    assert slow["moments"] == "1.68 + 3.58"
    assert slow["library + convolution"] == "4.62"
    assert "H100" in shown.caption(measured)


def test_rates_of_the_h100_follow_from_bytes_and_times(measured: Result) -> None:
    copy = json.loads(MEASURED.read_text())["details"]["ceilings"]["bytes_per_s"]
    for row in measured.rows:
        for direction in (FORWARD, BACKWARD):
            if row["way"] != "eager":
                seconds = (number(row[direction]) or 0) / 1e3
                share = (number(row[f"{direction} bytes"]) or 0) / seconds / copy
                assert number(row[f"{direction} of a copy"]) == pytest.approx(share)
