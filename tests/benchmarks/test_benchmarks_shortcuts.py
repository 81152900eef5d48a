"""The study of shortcuts compares what it says, goes on where it was stopped, and its statistics are the books'."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from documents import ROOT

from benchmarks.__main__ import main
from benchmarks.errors import EXTRA, UserError

for dependency in EXTRA:
    pytest.importorskip(dependency)

import numpy as np  # noqa: E402

from benchmarks import result  # noqa: E402
from benchmarks.shortcuts.contrasts import contrast_table, contrasts, holm, sign_flip_p  # noqa: E402  # noqa: E402
from benchmarks.shortcuts.outcome import contrasts_of  # noqa: E402
from benchmarks.shortcuts.pool import Study  # noqa: E402
from benchmarks.shortcuts.settings import CPU, OPTIONS, QUICK, Job, Settings, build  # noqa: E402  # noqa: E402
from benchmarks.shortcuts.task import Task, load, random_crops  # noqa: E402
from benchmarks.shortcuts.training import Run, gradient_norms, rate, train  # noqa: E402
from benchmarks.trainer import Batch  # noqa: E402
from fused_resnet import models  # noqa: E402


def test_gradient_norms_are_of_each_blocks_output():
    network = models.cifar_resnet(8, in_channels=1)
    batch = Batch(torch.randn(4, 1, 8, 8), torch.arange(4))
    norms = gradient_norms(network, batch)
    # The classifier behind the last block, by hand: y -> mean over the pixels -> fc.
    kept = []
    network.layer3[0].register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    network(batch.images)
    y = kept[0].requires_grad_()
    F.cross_entropy(network.fc(y.mean((2, 3))), batch.labels).backward()
    assert len(norms) == 3
    assert norms[-1] == pytest.approx(float(y.grad.norm()), rel=1e-4)


def test_taking_gradient_norms_leaves_the_network_as_it_was():
    network = models.cifar_resnet(8, in_channels=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradient_norms(network, Batch(torch.randn(4, 1, 8, 8), torch.arange(4)))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_identity_only_leaves_the_shortcuts_out_where_the_shape_changes():
    network = build("identity only", 14)
    found = {name: type(module).__name__ for name, module in network.named_modules() if name.endswith("downsample")}
    missing = {"layer2.0.downsample", "layer3.0.downsample"}
    assert {name for name, kind in found.items() if kind == "NoShortcut"} == missing
    assert {kind for name, kind in found.items() if name not in missing} == {"IdentityShortcut"}


def test_options_differ_in_what_is_trained_as_they_should():
    trained = {option: sum(p.numel() for p in build(option, 14).parameters() if p.requires_grad) for option in OPTIONS}
    plain = trained["none"]
    # Two 1x1 convolutions and their norms' weights and biases; in C four more of each, where the shape stays.
    weights, vectors = 16 * 32 + 32 * 64, 2 * 32 + 2 * 64
    everywhere = 2 * 16**2 + 32**2 + 64**2 + 2 * (16 + 16 + 32 + 64)
    assert {option: count - plain for option, count in trained.items() if option != "v2"} == {
        "none": 0,
        "identity only": 0,
        "A": 0,
        "B": weights + vectors,
        "frozen B": vectors,
        "C": weights + vectors + everywhere,
        "D": weights + vectors,
    }


def test_random_crops_are_parts_of_their_images():
    images = torch.arange(3 * 2 * 7 * 6).reshape(3, 2, 7, 6).float()
    crops = random_crops(images, 4, torch.Generator().manual_seed(0))
    assert crops.shape == (3, 2, 4, 4)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    for image, crop in zip(images, crops, strict=True):
        row, column = divmod(int(crop[0, 0, 0] - image[0, 0, 0]), 6)
        assert torch.equal(crop, image[:, row : row + 4, column : column + 4])


def test_crops_come_from_everywhere():
    images = torch.arange(3 * 3).reshape(1, 1, 3, 3).expand(200, 1, 3, 3)
    corners = random_crops(images, 2, torch.Generator().manual_seed(0))[:, 0, 0, 0]
    assert set(corners.tolist()) == {0, 1, 3, 4}


def small_task(flips: bool = False) -> Task:
    pixels = torch.arange(4.0).repeat(60, 1, 4, 1)
    return Task("task", 2, Batch(pixels, torch.arange(60) % 2), Batch(pixels, torch.arange(60) % 2), 4, flips)


@pytest.mark.parametrize("flips", [False, True])
def test_batches_are_mirrored_where_that_is_usual(flips):
    batch = small_task(flips).batch(50, torch.Generator().manual_seed(0))
    assert {row[0] for row in batch.images[:, 0, 0].tolist()} == ({0.0, 3.0} if flips else {0.0})


def test_a_seed_draws_the_same_images_every_time_and_another_draws_others():
    task = load(None, CPU)
    assert (len(task.train.labels), len(task.test.labels), task.size) == (1000, 4000, 20)
    first, again, other = (task.drawn(30, seed).train.images for seed in (0, 0, 1))
    assert len(first) == 30
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_learning_rate_rises_over_a_tenth_and_falls_to_zero():
    rates = [rate(step, 100) for step in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == rates[10] == 1
    assert rates[55] == 0.5
    assert rates[100] == 0


def test_a_run_learns_and_is_the_same_again():
    pixels = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = Batch(pixels + 2 * (torch.arange(40) % 2)[:, None, None, None], torch.arange(40) % 2)
    task = Task("light and dark", 2, images, images, 8, flips=False)
    settings = Settings(steps=30, batch_size=16, train_images=None, probe=8)
    runs = [train("B", 8, 0, task, settings, torch.float32) for _ in range(2)]
    assert runs[0].losses[-1] < runs[0].losses[0]
    assert runs[0].accuracy > 0.9
    assert runs[0].accuracy == runs[1].accuracy
    assert runs[0].losses == runs[1].losses
    assert [len(runs[0].gradients_before), len(runs[0].gradients_after)] == [3, 3]


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0] * 5, 2 / 32),  # none of the other patterns is as far from zero
        ([1.0, -1.0], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([3.0, 2.0, -1.0], 4 / 8),  # as far or further: +-(3+2+1) and +-(3+2-1)
        ([0.3, 0.1, -0.2], 6 / 8),  # all but +-(0.3 - 0.1 - 0.2); 0.3 + 0.1 - 0.2 as often as it is 0.2 up to rounding
    ],
)
def test_p_is_the_part_of_sign_patterns_as_far_from_zero(differences, p):
    assert sign_flip_p(differences) == p
    assert sign_flip_p([-d for d in differences]) == p


def test_holms_correction_is_that_of_the_book():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def run_of(accuracy: float) -> Run:
    return Run(accuracy, [1.0], [1.0, 1.0], [1.0, 1.0], 0.0)


def test_contrasts_are_paired_by_seed_and_corrected_within_a_depth():
    settings = Settings(options=("none", "A", "B"), depths=(8,), seeds=3)
    accuracies = {"none": (0.5, 0.6, 0.7), "A": (0.6, 0.7, 0.8), "B": (0.8, 0.7, 0.6)}
    runs = {Job(o, 8, seed): run_of(a) for o, each in accuracies.items() for seed, a in enumerate(each)}
    by_pair = {(c.first, c.second): c for c in contrasts(runs, settings)}
    assert set(by_pair) == {("A", "none"), ("B", "A")}
    assert by_pair["A", "none"].differences == pytest.approx([0.1] * 3)
    assert by_pair["A", "none"].p == 2 / 8
    assert by_pair["A", "none"].adjusted == 4 / 8
    assert by_pair["B", "A"].differences == pytest.approx([0.2, 0.0, -0.2])
    assert "+10.00 +- 0.00        3 of 3" in contrast_table(list(by_pair.values()))


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory) -> Path:
    """The folder that ``--quick`` filled."""
    folder = tmp_path_factory.mktemp("study")
    assert run_quick(folder) == 0
    return folder


def run_quick(folder: Path, *options: str) -> int:
    files = ["--json", str(folder / "study.json"), "--plot", str(folder / "study.svg")]
    return main(["shortcuts", "--quick", "--device", "cpu", "--work", str(folder / "work"), *files, *options])


@pytest.mark.slow
def test_quick_run_has_every_option_and_draws_them(quick_run):
    found = result.read(quick_run / "study.json")
    assert [row["shortcuts"] for row in found.rows] == list(OPTIONS)
    assert len(found.details["runs"]) == len(OPTIONS) * QUICK.seeds
    for row in found.rows:
        assert row["saved, fused"] <= row["saved, eager"]
        assert all(row[column.name] is not None for column in found.columns)
    assert "</svg>" in (quick_run / "study.svg").read_text()


@pytest.mark.slow
def test_a_stopped_study_trains_what_is_missing_and_keeps_the_rest(quick_run):
    first = result.read(quick_run / "study.json").details["runs"]
    (folder,) = (quick_run / "work").iterdir()
    kept, missing = folder / "none-8-0.json", folder / "A-8-1.json"
    marked = json.loads(kept.read_text())
    kept.write_text(json.dumps({**marked, "accuracy": 0.125}))
    missing.unlink()
    (folder / "B-8-0.unfinished").write_text("{")
    assert run_quick(quick_run) == 0
    again = {Job(r["option"], r["depth"], r["seed"]): r for r in result.read(quick_run / "study.json").details["runs"]}
    assert again.pop(Job("none", 8, 0))["accuracy"] == 0.125
    for run in first:
        job = Job(run["option"], run["depth"], run["seed"])
        assert job not in again or {**again[job], "seconds": 0} == {**run, "seconds": 0}
    assert run_quick(quick_run, "--fresh") == 0
    assert result.read(quick_run / "study.json").details["runs"] != list(again.values())
    assert json.loads(kept.read_text())["accuracy"] == marked["accuracy"]


def test_runs_of_other_settings_are_kept_apart_and_more_seeds_are_not(tmp_path):
    folder = Study(CPU, None, "cpu", "float32").folder(tmp_path)
    assert Study(Settings(seeds=99, depths=(8,)), None, "cpu", "float32").folder(tmp_path) == folder
    assert Study(Settings(steps=99), None, "cpu", "float32").folder(tmp_path) != folder
    assert Study(CPU, tmp_path, "cpu", "float32").folder(tmp_path) != folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in /proc")
def test_nothing_is_left_running_behind_a_study_that_is_killed(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "shortcuts", "--quick", "--steps", "1000000", "--jobs", "1"]
    study = subprocess.Popen([*command, "--work", str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        workers = wait_for(lambda: with_spawned_main(study.pid))
    finally:
        os.kill(study.pid, signal.SIGKILL)
        study.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def with_spawned_main(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depths", "8,9"], "is 8,9, expected numbers 6n + 2"),
        (["--options", "A,E"], "is E, expected some of none, identity only, A,"),
        (["--seeds", "1"], "is 1, expected at least 2"),
    ],
)
def test_unusable_options_are_named(options, message, capsys):
    with pytest.raises(SystemExit):
        main(["shortcuts", *options])
    assert message in capsys.readouterr().err


def test_too_few_images_are_named(capsys):
    assert main(["shortcuts", "--quick", "--device", "cpu", "--train-images", "99999"]) == 2
    assert "images to train on, expected 99999" in capsys.readouterr().err


def cifar_folder(folder: Path) -> Path:
    """CIFAR-10 in the files and the pickled form of its authors, but small."""
    inner = folder / "cifar-10-batches-py"
    inner.mkdir()
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = random.integers(0, 256, (8, 3072), dtype=np.uint8)
        (inner / name).write_bytes(pickle.dumps({"data": pixels, "labels": list(range(8))}))
    (inner / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    return folder


def test_cifar_is_read_from_its_folder_padded_and_mirrored(tmp_path, monkeypatch):
    pytest.importorskip("benchmarks.torchvision_operators")
    datasets = pytest.importorskip("torchvision.datasets")
    # Its files would have to be the real ones.
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    task = load(cifar_folder(tmp_path), Settings(train_images=None, test_images=None))
    assert (task.name, task.classes, task.channels, task.size, task.flips) == ("CIFAR10", 8, 3, 32, True)
    assert task.train.images.shape == (40, 3, 40, 40)
    assert task.test.images.shape == (8, 3, 32, 32)
    assert task.batch(5, torch.Generator()).images.shape == (5, 3, 32, 32)


def test_folders_without_cifar_are_named(tmp_path):
    pytest.importorskip("benchmarks.torchvision_operators")
    with pytest.raises(UserError, match="found 0 of the folders cifar-10-batches-py and cifar-100-python"):
        load(tmp_path, CPU)
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match="corrupted"):
        load(tmp_path, CPU)


def test_the_page_shows_the_tests_of_the_committed_result():
    found = result.read(ROOT / "benchmarks" / "results" / "shortcuts-cpu.json")
    assert contrast_table(contrasts_of(found)) in (ROOT / "docs" / "shortcuts.md").read_text()
