"""The benchmark ``tail`` as a command: options, notes, exit status, picture and tables. No test looks at a time."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import options, result
from benchmarks.__main__ import main
from benchmarks.errors import EXTRA
from benchmarks.tail import plan, ways
from benchmarks.tail.work import Ceilings, Work
from benchmarks.tails import MODES, Tail

for dependency in EXTRA:
    pytest.importorskip(dependency)

from benchmarks.tail.shown import caption, draw, headline  # noqa: E402

CPU = torch.device("cpu")


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser, quick="")
    plan.add_arguments(parser)
    return parser.parse_args(arguments)


def test_a_run_is_all_tails_without_compilers_and_then_with_them() -> None:
    some = parsed("--networks", "resnet18", "--peers", "compile-max-autotune,compile,eager", "--modes", "eval")
    turns = plan.plan_of(some, CPU, torch.float32).items[::7]
    assert [item.ways[2:] for item in turns] == [(), ("compile",), ("compile-max-autotune", "compile")]
    items = plan.plan_of(parsed("--networks", "resnet18,resnet34", "--modes", "eval"), CPU, torch.float32).items
    assert [item.turn for item in items] == [0] * 7 + [1] * 7
    assert items[0].ways == ("fused", "eager", "eager-contiguous")
    assert items[7].ways == ("fused", "eager", "eager-contiguous", "compile")
    assert items[0].tail.shape.batch == 4
    assert len(plan.plan_of(parsed("--peers", "eager"), CPU, torch.float32).items) == 30 * 4


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--networks", "resnet51", "is resnet51, expected some of resnet50,"),
        ("--modes", "evaluation", "is evaluation, expected some of training,"),
        ("--peers", "fused", "is fused, expected some of eager,"),
        ("--runs", "1", "is 1, expected at least 2"),
        ("--batch", "0", "is 0, expected at least 1"),
        ("--seconds", "0", "is 0, expected more than 0"),
    ],
)
def test_wrong_options_are_refused(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tail", option, value])
    assert message in capsys.readouterr().err


def test_a_backend_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["tail", "--backend", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: --backend is 'cuda': backend 'cuda' is not available: ")


SHORT = ["tail", "--device", "cpu", "--quick", "--networks", "resnet18", "--modes", "eval", "--peers", "eager"]


def test_a_wrong_fused_tail_is_a_problem_and_the_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Tail, "fused", lambda self, *inputs: self(*inputs) + 1)
    assert main([*SHORT, "--json", str(tmp_path / "tail.json")]) == 1
    found = result.read(tmp_path / "tail.json")
    assert [row["way"] for row in found.rows] == ["eager"] * 2
    assert len(found.details["problems"]) == 2
    problem = "fused differs from eager, so it was not timed: resnet18 layer1.0 eval, relative error"
    assert problem in capsys.readouterr().out


def test_a_wrong_peer_is_a_note_and_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = ways.Way("", lambda tail, _: lambda *inputs: tail(*inputs) + 1)
    monkeypatch.setitem(ways.WAYS, "eager-contiguous", wrong)
    assert main([*SHORT[:-1], "eager-contiguous", "--json", str(tmp_path / "tail.json")]) == 0
    found = result.read(tmp_path / "tail.json")
    assert [row["way"] for row in found.rows] == ["fused", "eager"] * 2
    assert any(note.startswith("eager-contiguous differs from eager") for note in found.notes)


def test_a_tail_that_cannot_be_measured_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forward = Tail.forward

    def too_large(self: Tail, x: Tensor, before: Tensor) -> Tensor:
        if self.shape.block == "layer1.0":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, before)

    monkeypatch.setattr(Tail, "forward", too_large)
    assert main([*SHORT, "--json", str(tmp_path / "tail.json")]) == 1
    found = result.read(tmp_path / "tail.json")
    assert found.details["problems"] == ["resnet18 layer1.0 eval: OutOfMemoryError: CUDA out of memory"]
    assert [row["tail"] for row in found.rows] == ["resnet18 layer2.0"] * 2


def test_measuring_needs_pytorch_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that the GPU stages run on machines where nothing can be installed; drawing is refused before the run."""
    for name in ("matplotlib", "mlxtend", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(SHORT) == 0
    assert "resnet18 layer1.0" in capsys.readouterr().out
    assert main([*SHORT, "--plot", str(tmp_path / "tail.png")]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: matplotlib, mlxtend, tqdm not installed: ")


def test_what_there_was_no_time_for_is_noted(tmp_path: Path) -> None:
    main([*SHORT, "--seconds", "1e-9", "--json", str(tmp_path / "tail.json")])
    found = result.read(tmp_path / "tail.json")
    assert found.rows == []
    assert found.details["left_out"] == ["resnet18 layer1.0 eval: anything", "resnet18 layer2.0 eval: anything"]
    assert "No time was left for anything in 2 of 2 tails and modes, from resnet18 layer1.0 eval on." in found.notes


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> result.Result:
    """What the benchmark writes, with every peer that a CPU has."""
    folder = tmp_path_factory.mktemp("tail")
    peers = ",".join(ways.PEERS[:3] + ways.PEERS[4:])
    files = ["--json", str(folder / "tail.json"), "--plot", str(folder / "tail.svg")]
    assert main(["tail", "--quick", "--device", "cpu", "--peers", peers, *files]) == 0
    assert (folder / "tail.svg").read_text().count("<svg") == 1
    return result.read(folder / "tail.json")


def test_quick_run_has_every_kind_mode_and_way(quick: result.Result) -> None:
    kinds = {"projection+projection", "projection+identity", "direct+identity", "direct+projection", "direct+padding"}
    assert {row["kind"] for row in quick.rows} == kinds
    assert {row["mode"] for row in quick.rows} == set(MODES)
    on_cpus = set(ways.WAYS) - {"cudnn-fused", "compile-max-autotune"}
    assert {row["way"] for row in quick.rows} == on_cpus
    assert quick.details["problems"] == []
    assert len({quick.key(row) for row in quick.rows}) == len(quick.rows)


def test_quick_run_shares_the_measured_ceilings(quick: result.Result) -> None:
    ceilings = Ceilings(**quick.details["ceilings"])
    for row in quick.rows:
        seconds = (result.number(row["time"]) or 0) / 1e6
        work = Work(row["needed bytes"], row["needed operations"])  # type: ignore[arg-type]
        assert row["roofline"] == pytest.approx(work.seconds(ceilings) / seconds)
        assert row["computed"] == pytest.approx(work.operations / seconds / 1e12)
        # Where plain PyTorch computes, the kernels' bytes are not what it moves.
        assert ("moved" in row and row["moved"] is None) == (row["way"] not in ("eager", "eager-contiguous"))


def test_quick_run_notes_what_was_not_there(quick: result.Result) -> None:
    assert "cudnn-fused is not there for 2 of 20 tails and modes: cuDNN needs a GPU." in quick.notes
    assert any("fused tails were computed by plain PyTorch here" in note for note in quick.notes)


def test_table_fits_a_terminal(quick: result.Result) -> None:
    assert max(map(len, quick.table().splitlines())) <= 160


def test_picture_has_a_panel_a_mode_and_every_way(quick: result.Result) -> None:
    figure = draw(quick)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Training, forward",
        "Training, forward + backward",
        "Evaluation, forward",
        "Evaluation, forward + backward",
    ]
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:2] == ["fused", "eager"]
    assert labels[-1].startswith("roof: ")
    for axes in figure.axes:
        marked = [text.get_text() for text in axes.texts]
        # Each tail has a label, or is one of the others of its neighbour's.
        assert sum(1 + int(label.partition("+")[2] or 0) for label in marked) == 5


def test_summary_is_of_all_tails(quick: result.Result) -> None:
    header, rows = headline(quick)
    assert header[:3] == ["mode", "tails", "fused time / eager (measured)"]
    assert header[-1] == "fused bytes / eager (counted)"
    assert [row[:2] for row in rows] == [[mode, "5"] for mode in MODES]
    assert {len(row) for row in rows} == {len(header)}
    assert caption(quick).startswith("Roofline of 5 residual tails of ResNets,")
    assert json.dumps(quick.settings)
