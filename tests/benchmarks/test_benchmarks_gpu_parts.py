"""What the parts of `make gpu` make of the processes that they run. No test looks at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from emulated import needs_emulator  # type: ignore[import-not-found]

from benchmarks import process
from benchmarks.gpu import counters, parts, phase_launches
from benchmarks.gpu.record import Record
from benchmarks.result import Result, read

MACHINE: dict[str, Any] = {"gpu": {"capability": "9.0"}, "torch": "2.11.0", "sources": "0123"}
MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "phases-h100.json"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, "part", MACHINE, 60.0)


Code = Callable[[str], str]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the parts' commands leave a result and run other code; the commands, and how they are run."""

    def set_to(code: str | Code = "", result: Result | None = None) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        run = process.run

        def run_other(command: list[str], **options: Any) -> process.Ended:
            text = " ".join(command)
            seen.append({"command": text, **options})
            if result is not None:
                result.write(Path(command[command.index("--json") + 1]))
            return run([sys.executable, "-c", code if isinstance(code, str) else code(text)], **options)

        monkeypatch.setattr(parts, "run", run_other)
        return seen

    return set_to


@pytest.fixture
def measured() -> Result:
    return read(MEASURED)


def test_build_is_the_command_that_users_have(record: Record, instead: Any, tmp_path: Path) -> None:
    seen = instead("raise SystemExit('fused_resnet: the kernels were not built: no')")
    parts.build(record, rehearse=False)
    assert seen[0]["command"].endswith("-m fused_resnet build")
    assert record.problems == ["fused_resnet: exit status 1"]
    assert "the kernels were not built: no" in (tmp_path / "gpu.log").read_text()


def test_rehearsed_build_leaves_the_users_cache_alone(record: Record, instead: Any) -> None:
    seen = instead()
    parts.build(record, rehearse=True)
    assert seen[0]["environment"]["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert not Path(seen[0]["environment"]["FUSED_RESNET_CACHE"]).exists()


def test_doctor_that_crashes_is_a_problem_and_the_checks_run(record: Record, instead: Any) -> None:
    crash = "import os; os.abort()"
    instead(lambda command: crash if "doctor" in command else "print('case ok: a'); print('case WRONG: b'); exit(1)")
    parts.check(record, rehearse=False)
    assert record.problems == ["fused_resnet: ended by signal 6", "benchmarks.gpu.small_cases: exit status 1"]
    assert record.headline == "2 small cases"


def test_every_case_of_the_tests_for_gpus_runs(record: Record, instead: Any) -> None:
    seen = instead("print('FAILED a - no'); print('==== 1 failed, 19 passed, 2 skipped in 3.21s ===='); exit(1)")
    parts.test(record, rehearse=False)
    assert " --all " in seen[0]["command"]
    assert parts.TESTS in seen[0]["command"]
    assert (Path(__file__).parents[2] / parts.TESTS).is_file()
    assert record.headline == "1 failed, 19 passed, 2 skipped"
    assert record.problems == ["pytest: exit status 1"]


def test_tests_of_which_none_ran_fail_the_part(record: Record, instead: Any) -> None:
    instead("print('==== 21 skipped in 0.21s ====')")
    parts.test(record, rehearse=False)
    assert record.problems == ["no test passed"]


def test_benchmarks_never_fall_back_from_the_kernels(record: Record, instead: Any) -> None:
    seen = instead()
    parts.time_phases(record, rehearse=False)
    assert "-m benchmarks phases --device cuda --backend cuda" in seen[0]["command"]
    assert seen[0]["environment"]["FUSED_RESNET_REQUIRE"] == "cuda"
    assert record.problems == ["phases: nothing was timed; None"]


def test_benchmark_that_crashes_leaves_what_it_measured(record: Record, instead: Any, measured: Result) -> None:
    instead("import os; os.abort()", measured)
    parts.time_phases(record, rehearse=False)
    assert record.problems == ["phases: ended by signal 6"]
    assert record.items == [{"file": "phases.json", "rows": len(measured.rows)}]


def test_benchmark_that_is_stopped_at_its_limit_leaves_what_it_measured(
    record: Record, instead: Any, measured: Result
) -> None:
    instead("import time; time.sleep(60)", measured)
    record.limit_s = record.seconds + 1
    parts.time_phases(record, rehearse=False)
    assert record.passed
    assert any("what was measured until then is kept" in note for note in record.notes)
    assert record.headline == "15 tails"


def test_results_of_an_earlier_run_do_not_count(record: Record, instead: Any, measured: Result) -> None:
    measured.write(record.folder / "phases.json")
    instead("raise SystemExit(2)")
    parts.time_phases(record, rehearse=False)
    assert record.problems == ["phases: nothing was timed; exit status 2"]


def test_problems_of_a_result_are_the_part_s(record: Record, instead: Any, measured: Result) -> None:
    wrong = replace(measured, details={**measured.details, "problems": ["moments differs"]})
    instead("raise SystemExit(1)", wrong)
    parts.time_phases(record, rehearse=False)
    assert record.problems == ["phases: exit status 1", "moments differs"]


def test_what_a_compiler_does_wrong_is_no_problem_of_the_kernels(
    record: Record, instead: Any, measured: Result
) -> None:
    failed = [("compile", "error"), ("eager", "memory"), ("eager", "wrong")]
    failures = [{"where": f"resnet50, {way}", "way": way, "kind": kind, "what": kind} for way, kind in failed]
    row = {"model": "resnet50", "batch": 128, "way": "eager", "step": 34.5, "tail": "t", "time": 1.0}
    instead("", replace(measured, rows=[row], details={"failures": failures, "problems": []}))
    parts.compile_peers(record, rehearse=False)
    assert record.problems == ["resnet50, eager: wrong"]
    assert record.headline == "resnet50 128 eager 34.5 ms; 0 tails by torch.compile"


def test_networks_are_trained_and_evaluated_in_the_ways_that_matter(record: Record, instead: Any) -> None:
    seen = instead()
    parts.train(record, rehearse=False)
    parts.evaluate(record, rehearse=False)
    commands = [one["command"] for one in seen]
    assert ["--evaluation" in command for command in commands] == [False, False, True]
    assert "--batches 256 --ways eager,fused,norms,recompute" in commands[1]
    assert all("--dtype bfloat16" in command and "--no-largest" in command for command in commands)


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
    assert set(counters.BLOCKS) <= {shape.block for shape in phase_launches.RESNET50}


@pytest.mark.emulated
@pytest.mark.skipif(needs_emulator[1].args[0], reason="the emulator was not built")
def test_every_phase_is_launched_once_in_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    phase_launches.launch("layer3.1", rehearse=True)
    lines = capsys.readouterr().out.splitlines()
    items = [json.loads(line.removeprefix("@item ")) for line in lines if line.startswith("@item ")]
    assert [item["way"] for item in items] == ["moments", "library"]
