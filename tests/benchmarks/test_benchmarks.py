"""The benchmarks measure what they say, and the whole demo runs at its smallest. No test looks at a time."""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.__main__ import main
from benchmarks.accuracy import errors_against_float64, relative_error
from benchmarks.clocks import WallClock, measure
from benchmarks.errors import EXTRA, UserError
from benchmarks.provenance import provenance
from benchmarks.result import Spread, number, read, table
from benchmarks.saved_activations import saved_bytes, saved_bytes_by_module
from fused_resnet.nn import BasicBlock

for dependency in EXTRA:
    pytest.importorskip(dependency)

import numpy as np  # noqa: E402

from benchmarks.data import load  # noqa: E402
from benchmarks.demo.learning import Learning  # noqa: E402
from benchmarks.demo.settings import both_sides  # noqa: E402

FLOAT = 4
CPU = torch.device("cpu")


def test_saved_bytes_of_convolution_and_relu() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    images, output = 2 * 3 * 8 * 8, 2 * 4 * 8 * 8
    # The convolution saves the images and its weight, the relu its output; the weight does not count.
    assert saved_bytes(model, torch.randn(2, 3, 8, 8)) == (images + output) * FLOAT


def test_saved_bytes_of_a_batch_norm_leave_its_buffers_out() -> None:
    values, statistics = 2 * 3 * 4 * 4, 2 * 3
    assert saved_bytes(nn.BatchNorm2d(3).train(), torch.randn(2, 3, 4, 4)) == (values + statistics) * FLOAT


def test_views_of_one_storage_count_once_and_whole() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            doubled = x * 2
            return doubled[:2] * doubled[2:4]

    assert saved_bytes(Halves(), torch.randn(5, 6, requires_grad=True)) == 5 * 6 * FLOAT


def test_saved_bytes_by_module_go_to_the_first_to_save() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(2, 3, 1)), nn.ReLU())
    x = torch.randn(1, 1, 4, 4)
    by_module = saved_bytes_by_module(model, x, ["0", "1", "2"])
    assert by_module == {"0": 16 * FLOAT, "1": 2 * 16 * FLOAT, "2": 3 * 16 * FLOAT}
    assert sum(by_module.values()) == saved_bytes(model, x)


def test_ratio_is_of_pairs_not_of_medians() -> None:
    ratio = Spread.of_ratios([2.0, 2.0, 2.0], [1.0, 2.0, 4.0])
    assert ratio == Spread(median=1.0, lower=0.75, upper=1.5)
    assert ratio.scaled(1e3) == Spread(median=1e3, lower=750.0, upper=1500.0)


def test_every_other_round_goes_backwards() -> None:
    calls: list[str] = []
    names = ("a", "b", "c")
    steps = {name: partial(calls.append, name) for name in names}
    times = measure(steps, WallClock(), runs=2, warm_up=1, advance=lambda: calls.append("|"))
    assert "".join(calls) == "cba|abc|cba|"
    assert [len(times[name].seconds) for name in names] == [2, 2, 2]


def test_relative_error_is_a_ratio_of_norms() -> None:
    assert relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]).double()) == pytest.approx(0.1)


def test_errors_are_of_rounding_and_leave_the_models_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(BasicBlock(3, 5, fused=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    models, _ = both_sides(model)
    before = {name: value.clone() for name, value in models["fused"].state_dict().items()}
    advances: list[None] = []
    errors = errors_against_float64(
        models, torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]), lambda: advances.append(None)
    )
    for side in ("unfused", "fused"):
        assert all(0 < error < 1e-5 for error in errors[side].values())
    assert len(advances) == 3
    assert all(torch.equal(before[name], value) for name, value in models["fused"].state_dict().items())
    assert all(parameter.grad is None for parameter in models["fused"].parameters())


@pytest.mark.parametrize(
    ("fused", "agrees"), [([2.0, 1.0], True), ([2.0, 1.0 + 1e-8], False), ([2.0, math.nan], False)]
)
def test_agreement_is_of_the_worst_step(fused: list[float], agrees: bool) -> None:
    data, both = load(None, 20), lambda unfused, fused: {"unfused": unfused, "fused": fused}
    learning = Learning("a network", data, both([1.0], [1.0]), both(0.5, 0.5), exact=both([2.0, 1.0], fused))
    assert learning.agrees is agrees


def test_table_aligns_the_first_column_left_and_the_others_right() -> None:
    assert table(("", "ms"), [("one", "1.5"), ("twelve", "12.5")]).splitlines() == [
        "          ms",
        "------------",
        "one      1.5",
        "twelve  12.5",
    ]


def test_mnist_is_shuffled_and_split() -> None:
    data = load(None, None)
    assert (data.name, data.classes, data.channels) == ("MNIST", 10, 1)
    assert data.train.images.shape == (4000, 1, 28, 28)
    assert data.test.images.shape == (1000, 1, 28, 28)
    assert torch.bincount(data.test.labels, minlength=10).min() > 50
    assert data.train.images.mean().abs() < 1e-4
    assert data.train.images.std().sub(1).abs() < 1e-4


@pytest.mark.parametrize(("shape", "channels"), [((20, 6, 5), 1), ((20, 6, 5, 3), 3)])
def test_own_images(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    path = save(tmp_path, images=np.arange(np.prod(shape)).reshape(shape).astype(np.uint8), labels=np.arange(20) % 3)
    data = load(path, limit=15)
    assert (data.name, data.classes, data.channels) == ("own.npz", 3, channels)
    assert data.train.images.shape == (12, channels, 6, 5)
    assert len(data.test.labels) == 3


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return path


IMAGES, LABELS = np.zeros((10, 4, 4), np.uint8), np.arange(10)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES, "targets": LABELS}, "found the arrays images, targets, expected an .npz file with"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, "images is float32, expected uint8"),
        ({"images": IMAGES[0], "labels": LABELS}, r"images has shape \(4, 4\), expected \(N, H, W\) or"),
        ({"images": IMAGES[:, :0], "labels": LABELS}, r"images has shape \(10, 0, 4\), expected no size to be 0"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels is float64, expected integers"),
        ({"images": IMAGES, "labels": LABELS[1:]}, r"labels has shape \(9,\), expected \(10,\)"),
        ({"images": IMAGES[:9], "labels": LABELS[:9]}, "9 images, expected at least 10"),
        ({"images": IMAGES, "labels": LABELS - 1}, "labels has -1, expected labels from 0"),
        ({"images": IMAGES, "labels": LABELS * 0}, "labels has only 0, expected two classes"),
        ({"images": IMAGES, "labels": np.array([None] * 10)}, "cannot be read"),
    ],
)
def test_unusable_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(save(tmp_path, **arrays), None)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.npz: no such file, expected an \.npz file"):
        load(tmp_path / "none.npz", None)
    text = tmp_path / "text.npz"
    text.write_text("not a zip file")
    with pytest.raises(UserError, match=r"text\.npz: not an \.npz file, expected an \.npz file"):
        load(text, None)


def test_provenance_tells_nothing_about_the_owner(tmp_path: Path) -> None:
    origin = vars(provenance(CPU, argparse.Namespace(data=tmp_path / "own.npz", pairs=3)))
    assert origin["arguments"] == {"data": "own.npz", "pairs": 3}
    assert origin["backend"] == "reference"
    assert origin["torch"] == torch.__version__
    assert platform.node() not in origin.values()
    for path in (tmp_path, Path.cwd(), Path.home(), Path(sys.prefix)):
        assert str(path) not in json.dumps(origin) or path == Path("/")


def test_unknown_benchmark_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dmeo"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks: there is no benchmark 'dmeo', expected one of 'demo', 'tail', ")
    assert error.count("\n") == 1


def test_missing_dependency_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    assert main([]) == 2
    expected = "benchmarks: mlxtend not installed: pip install 'fused_resnet[benchmarks]'\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99"])
def test_unusable_device_is_one_line(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", device]) == 2
    assert capsys.readouterr().err.startswith(f"benchmarks: device is '{device}', ")


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``--quick`` filled."""
    folder = tmp_path_factory.mktemp("results")
    assert main(["--quick", "--device", "cpu", "--output", str(folder)]) == 0
    return folder


def test_quick_run_keeps_a_result(quick_run: Path) -> None:
    result = read(quick_run / "demo-quick-cpu.json")
    assert str(quick_run) not in (quick_run / "demo-quick-cpu.json").read_text(encoding="utf-8")
    rows = {result.key(row): row for row in result.rows}
    for network, tails, blocks, share in (("ResNet-18", 8, 0, 1.0), ("ResNet-50", 16, 16, 0.857)):
        fused, unfused = (rows[network, "whole network", side] for side in ("fused", "unfused"))
        assert (fused["fused tails"], fused["refused tails"]) == (tails, 0)
        # With so few rows, most projections are PyTorch's convolutions.
        assert (number(fused["saved"]) or 0) / (number(unfused["saved"]) or 1) == pytest.approx(share, abs=0.005)
        assert fused["saved / unfused"] == pytest.approx(
            (number(fused["saved"]) or 0) / (number(unfused["saved"]) or 1)
        )
        assert all(isinstance(fused[f"{what} / unfused"], Spread) for what in ("step", "evaluation"))
        assert sum(key[0] == network and key[2] == "fused" for key in rows) == 1 + blocks
    assert [len(losses) for losses in result.details["losses"].values()] == [4, 4]
    assert [len(losses) for losses in result.details["losses in float64"].values()] == [5, 5]


def test_quick_run_draws_a_picture(quick_run: Path) -> None:
    picture = (quick_run / "demo-quick-cpu.svg").read_text(encoding="utf-8")
    assert "<svg" in picture
    assert len(picture) > 20_000
