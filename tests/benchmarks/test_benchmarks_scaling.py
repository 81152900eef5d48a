"""A tail's sizes vary one at a time, and processes' times are merged. No test looks at a time."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmarks.errors import EXTRA

for dependency in EXTRA:
    pytest.importorskip(dependency)

from benchmarks import pictures  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.result import (  # noqa: E402
    Result,
    Spread,
    read,
)
from benchmarks.scaling import ranks, shown, sizes  # noqa: E402

CPU = torch.device("cpu")
needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch is built without gloo"
)


@pytest.mark.parametrize("plan", [sizes.CPU, sizes.GPU, sizes.QUICK])
def test_one_size_varies_at_a_time(plan: sizes.Plan) -> None:
    points = list(plan.points("identity"))
    for sweep, attribute in sizes.SWEEPS.items():
        shapes = [point.shape for point in points if point.sweep == sweep]
        varying = {name for name in vars(plan.base) if len({getattr(shape, name) for shape in shapes}) > 1}
        assert varying == {attribute}
        assert any(shape == plan.base for shape in shapes)


def test_rows_are_counted_and_a_projections_input_follows() -> None:
    points = list(sizes.CPU.points("projection"))
    assert [point.value for point in points if point.sweep == "rows M"] == [8 * n * n for n in (4, 7, 14, 28, 56)]
    assert all(point.shape.before == point.shape.inner for point in points)


def timed(point: sizes.Point) -> dict[str, object]:
    row, problem = sizes.timed(point, sizes.QUICK.conditions(CPU, torch.float32), compiled=False)
    assert row is not None
    assert problem == ""
    return dict(row)


def test_a_point_has_both_sides_and_the_strategy_that_is_taken(computed_by: list[tuple[str, list[bool]]]) -> None:
    for point in list(sizes.QUICK.points("identity"))[:2]:
        computed_by.clear()
        row = timed(point)
        assert isinstance(row["fused"], Spread)
        assert isinstance(row["eager"], Spread)
        assert {any(projections) for _, projections in computed_by} == {row["strategy"] == "moments"}


def test_a_side_that_computes_something_else_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = sizes.Tail.fused
    monkeypatch.setattr(sizes.Tail, "fused", lambda tail, *inputs: right(tail, *inputs) * 1.1)
    path = tmp_path / "wrong.json"
    assert main(["scaling", "--quick", "--device", "cpu", "--ranks", "0", "--json", str(path)]) == 1
    result = read(path)
    assert result.rows == []
    assert len(result.notes) == 8
    assert "left out, fused is 1.0e-01 from eager" in result.notes[0]


def test_a_round_takes_as_long_as_its_slowest_process() -> None:
    plan = ranks.Training("resnet20", batch=8, image_size=1, classes=1, rounds=2, warm_up=0)
    alone = ranks.merged([{"fused": [1.0, 1.0], "eager": [2.0, 2.0]}], plan, None)
    assert alone["fused rate"] == Spread(8.0, 8.0, 8.0)
    assert (alone["fused efficiency"], alone["fused / eager"]) == (1.0, 0.5)
    two = ranks.merged(
        [{"fused": [2.0, 1.0], "eager": [2.0, 2.0]}, {"fused": [1.0, 2.0], "eager": [4.0, 4.0]}], plan, alone
    )
    assert (two["value"], two["fused rate"], two["eager rate"]) == (2, Spread(4.0, 4.0, 4.0), Spread(2.0, 2.0, 2.0))
    assert (two["fused efficiency"], two["eager efficiency"]) == (0.5, 0.5)


def test_processes_are_as_many_as_cores_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for cores in (1, 2, 6, 8):
        monkeypatch.setattr(ranks, "available_cores", lambda cores=cores: cores)
        found[cores] = ranks.counts(CPU)
    assert found == {1: [1], 2: [1, 2], 6: [1, 2, 4, 6], 8: [1, 2, 4, 8]}


@pytest.mark.slow
@needs_gloo
def test_processes_that_fail_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child's own error is told, what was timed before is kept, and the exit status is 1."""
    monkeypatch.setenv("FUSED_RESNET_REQUIRE", "cuda")  # there are no CUDA kernels for a CPU's tensors
    with pytest.raises(ranks.TorchrunError, match=r"exit status 1: .*Error: "):
        ranks.launch(1, CPU, "float32", quick=True)


def test_failing_processes_end_the_benchmark_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ranks.TorchrunError("exit status 1: RuntimeError: no network")

    monkeypatch.setattr(ranks, "launch", fail)
    path = tmp_path / "failed.json"
    assert main(["scaling", "--quick", "--device", "cpu", "--json", str(path)]) == 1
    result = read(path)
    assert len(result.rows) == 8
    assert result.notes[-1] == "1 processes failed: exit status 1: RuntimeError: no network"
    assert shown.draw(result) is not None


@pytest.mark.parametrize("ranks", ["none", "1,-2", "1,,2"])
def test_unusable_numbers_of_processes_are_refused(ranks: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["scaling", "--ranks", ranks])
    assert "--ranks" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``--quick`` filled, with two processes."""
    folder = tmp_path_factory.mktemp("scaling")
    files = ["--json", str(folder / "scaling.json"), "--plot", str(folder / "scaling.svg")]
    assert main(["scaling", "--quick", "--device", "cpu", "--shortcut", "projection", "--ranks", "2", *files]) == 0
    return folder


@pytest.mark.slow
@needs_gloo
def test_quick_run_times_all_sweeps_and_processes(quick_run: Path) -> None:
    result = read(quick_run / "scaling.json")
    expected = [*itertools.product(sizes.SWEEPS, range(2)), *itertools.product(["ranks"], range(2))]
    assert [row["sweep"] for row in result.rows] == [sweep for sweep, _ in expected]
    assert [row["value"] for row in result.rows[-2:]] == [1, 2]
    for side in ("fused", "eager", "fused, synchronised"):
        assert result.rows[-2][f"{side} efficiency"] == 1.0
        assert isinstance(result.rows[-1][f"{side} rate"], Spread)


@pytest.mark.slow
@needs_gloo
def test_picture_caption_and_headline_come_from_the_file(quick_run: Path) -> None:
    result: Result = read(quick_run / "scaling.json")
    svg = (quick_run / "scaling.svg").read_text(encoding="utf-8")
    assert svg == pictures.svg(shown.draw(result))
    assert shown.caption(result).startswith("Measured on ")
    header, rows = shown.headline(result)
    assert len(rows) == 12
    assert all(len(row) == len(header) for row in rows)
