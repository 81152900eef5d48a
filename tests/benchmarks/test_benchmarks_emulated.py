"""What the kernels do in the emulator is counted and held against the formulas; a count that differs is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from emulated import needs_emulator

from benchmarks.errors import EXTRA

for dependency in EXTRA:
    pytest.importorskip(dependency)

from benchmarks import emulated, pictures  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.emulated import shown  # noqa: E402
from benchmarks.emulated.formulas import cases, expected  # noqa: E402
from benchmarks.emulated.rows import rows_of  # noqa: E402
from benchmarks.result import Result, read  # noqa: E402
from fused_resnet.backends.kernels import launches  # noqa: E402
from fused_resnet.cost import traffic  # noqa: E402

pytestmark = needs_emulator


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``--quick`` filled, in two processes."""
    folder = tmp_path_factory.mktemp("emulated")
    files = ["--json", str(folder / "emulated.json"), "--plot", str(folder / "emulated.svg")]
    assert main(["emulated", "--quick", "--jobs", "2", *files]) == 0
    return folder


@pytest.fixture
def result(quick_run: Path) -> Result:
    return read(quick_run / "emulated.json")


def counted(result: Result, tail: str, mode: str, direction: str) -> dict[str, object]:
    (row,) = [row for row in result.rows if result.key(row) == (tail, mode, direction)]
    return dict(row)


def test_every_tail_of_the_networks_is_counted_in_every_mode() -> None:
    chosen = cases(quick=False)
    assert len({case.shape.name for case in chosen}) == 38
    assert len({(case.shape.name, case.mode) for case in chosen}) == len(chosen)
    assert {case.mode for case in chosen} == {"training", "evaluation"}


def test_bytes_of_an_identity_are_those_of_the_design(result: Result) -> None:
    tail = "resnet50 layer1.1 projection+identity"
    y = 256 * 256 * 2
    forward, backward = (counted(result, tail, "training", direction) for direction in ("forward", "backward"))
    mask = 1 / 16
    # x, a quarter of y, twice, and the identity; dy, the mask and x read, g written, g and x read and dx written.
    assert (forward["bytes read"], forward["bytes written"]) == (1.5 * y, (1 + mask) * y)
    assert (backward["bytes read"], backward["bytes written"]) == ((2.5 + mask) * y, 1.25 * y)
    assert (forward["bytes by formula"], forward["formula"]) == ((2.5 + mask) * y, 2.5 + mask)
    assert (backward["bytes by formula"], backward["formula"]) == ((3.75 + mask) * y, 3.75 + mask)
    assert forward["launched"] == "1 forward, coop."
    assert forward["expected launch"] == "1 forward<1>, coop."


def test_multiply_adds_leave_out_what_symmetry_saves(result: Result) -> None:
    forward = counted(result, "resnet50 layer1.1 projection+identity", "training", "forward")
    product, gram, matrices = 256 * 64 * 256, 256 * 64 * 64, 256 * 64 * 64
    assert forward["operations by formula"] == 2 * (product + gram + matrices)
    # 64 channels are half a tile: nothing lies above its diagonal that could be left out. W Cov takes three products.
    assert forward["multiply-adds"] == forward["multiply-adds by formula"] == product + gram + 3 * matrices


def test_frozen_norms_are_one_pass(result: Result) -> None:
    forward = counted(result, "resnet50 layer1.0 direct+projection", "evaluation", "forward")
    assert (forward["launched"], forward["expected launch"]) == ("1 apply", "1 apply<1>")


def test_rows_are_in_the_order_of_the_networks_whoever_counted_first(result: Result) -> None:
    expected = [(c.shape.name, c.mode, d) for c in cases(quick=True) for d in ("forward", "backward")]
    assert [result.key(row) for row in result.rows] == expected
    assert result.provenance.backend == "emulated"


def test_picture_caption_and_headline_come_from_the_file(result: Result, quick_run: Path) -> None:
    svg = (quick_run / "emulated.svg").read_text(encoding="utf-8")
    assert svg == pictures.svg(shown.draw(result))
    assert "not measured" in shown.caption(result)
    header, rows = shown.headline(result)
    assert all(len(row) == len(header) for row in rows)
    assert ["resnet50 (projection+identity) layer1.1", "2.56 + 3.81", "2.31 + 3.56", "equal"] in rows


def one_byte_more(tail: object, needs: object) -> traffic.Traffic:
    found = true_backward(tail, needs)
    return found._replace(bytes=found.bytes + 1)


true_forward, true_backward = traffic.forward, traffic.backward


def run_and_read(folder: Path, status: int) -> Result:
    """In this process, where the formulas are exchanged."""
    assert main(["emulated", "--quick", "--jobs", "1", "--json", str(folder / "wrong.json")]) == status
    return read(folder / "wrong.json")


def test_a_byte_that_the_formula_has_too_many_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "backward", one_byte_more)
    result = run_and_read(tmp_path, status=1)
    assert {(row["direction"], row["differs"]) for row in result.rows} == {("forward", None), ("backward", "bytes")}
    assert result.notes[0].startswith("16 rows differ from their formulas")
    assert all(row[-1] == "differs: bytes" for row in shown.headline(result)[1])
    assert "≠" in "".join(text.get_text() for axes in shown.draw(result).axes for text in axes.texts)


def test_another_kernel_and_another_number_of_products_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "forward_kernel", lambda tail: "summarise + apply<1>")
    monkeypatch.setattr(traffic, "forward", lambda tail, keep: true_forward(tail, keep=keep)._replace(operations=2))
    result = run_and_read(tmp_path, status=1)
    different = {row["differs"] for row in result.rows if row["direction"] == "forward"}
    assert different == {"launches, multiply-adds"}


def test_without_the_emulator_it_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emulated, "missing", lambda: "not built")
    assert main(["emulated"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks: the emulator cannot be used (not built); to build it: FUSED_RESNET_EMULATOR=1")
    assert error.count("\n") == 1


def test_it_runs_on_a_cpu_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulated", "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "benchmarks: device is 'cuda', expected cpu: the emulator runs there\n"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_passes_are_the_same_in_every_dtype(dtype: str, result: Result, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    assert main(["emulated", "--quick", "--jobs", "1", "--dtype", dtype, "--json", str(path)]) == 0
    assert [row["formula"] for row in read(path).rows] == [row["formula"] for row in result.rows]
    assert json.loads(path.read_text())["settings"]["dtype"] == dtype


def test_products_of_channels_that_fill_no_tile_are_held_against_no_formula() -> None:
    named = {(case.shape.name, case.mode): case for case in cases(quick=False)}
    narrow = named["resnet20-B layer3.0 direct+projection", "evaluation"]  # from 32 channels to 64
    assert [of.multiply_adds for of in expected(narrow, torch.bfloat16)] == [None, None]
    assert [row["differs"] for row in rows_of(narrow, torch.bfloat16)] == [None, None]
    full = named["resnet18 layer2.0 direct+projection", "evaluation"]
    product = 256 * 64 * 128
    assert [of.multiply_adds for of in expected(full, torch.bfloat16)] == [product, 2 * product]
