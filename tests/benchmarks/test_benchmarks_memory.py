"""Saved activations of whole networks: exact, by hand and on real tensors."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compilers import needs_whole_graphs

import fused_resnet
from benchmarks.__main__ import main
from benchmarks.errors import EXTRA, UserError

for dependency in EXTRA:
    pytest.importorskip(dependency)


from benchmarks import emulator, memory, networks  # noqa: E402
from benchmarks.memory.cases import Conditions, count, kernels  # noqa: E402
from benchmarks.memory.shown import REST, WHOLE  # noqa: E402
from benchmarks.networks import COMPILE, EAGER, FUSED, FUSED_COMPILE  # noqa: E402
from benchmarks.result import Result, read  # noqa: E402
from benchmarks.saved_activations import saved_bytes  # noqa: E402

needs_emulator = pytest.mark.skipif(emulator.missing() is not None, reason="the emulator was not built")
FLOAT = 4
FULL = Conditions(torch.device("cpu"), torch.float32, batch=16, size=None)
SMALL = Conditions(torch.device("cpu"), torch.float32, batch=2, size=64)


@needs_emulator
def test_a_fused_resnet50_saves_two_thirds() -> None:
    eager, fused = (count("resnet50", way, FULL, by_block=True) for way in (EAGER, FUSED))
    assert round(fused.total / eager.total, 2) == 0.69
    assert (eager.fused_tails, fused.fused_tails, fused.refused_tails) == (0, 16, 0)
    assert len(eager.blocks) == len(fused.blocks) == 16
    outside = {way.total - sum(way.blocks.values()) for way in (eager, fused)}
    assert len(outside) == 1


@needs_emulator
@pytest.mark.parametrize(("block", "size", "channels"), [("layer1.1", 56, 64), ("layer3.2", 14, 256)])
def test_an_identity_block_saves_what_a_hand_counts(block: str, size: int, channels: int) -> None:
    eager, fused = (count("resnet50", way, FULL, by_block=True).blocks[block] for way in (EAGER, FUSED))
    pixels, wide = 16 * size**2, 4 * channels
    # Both convolutions' outputs for their norms, both relus' outputs, conv3's output for its norm, the block's output;
    # of each norm, a mean and a deviation a channel.
    statistics = 2 * (channels + channels + wide)
    assert eager == (pixels * (4 * channels + 2 * wide) + statistics) * FLOAT
    # In place of conv3's output and of its norm's statistics: the moments of conv3's input, a deviation a channel, and
    # a mask of a sixteenth of the block's output, which the next block's convolution saves.
    moments, mask = channels**2 + channels + wide, pixels * wide // 16
    assert eager - fused == (pixels * wide + 2 * wide - moments - mask) * FLOAT


@pytest.mark.parametrize("way", [EAGER, FUSED])
def test_tensors_without_data_count_as_real_ones(way: str) -> None:
    network = networks.make("tiny").train()
    if way == FUSED:
        fused_resnet.fuse(network)
    with kernels(SMALL.device):
        real = saved_bytes(network, torch.randn(2, 3, 64, 64))
    assert count("tiny", way, SMALL, by_block=False).total == real


@pytest.mark.slow
@needs_whole_graphs
def test_a_compiled_network_saves_less_than_eager_operations_and_less_fused() -> None:
    eager, compiled, both = (count("tiny", way, SMALL, by_block=True) for way in (EAGER, COMPILE, FUSED_COMPILE))
    assert both.total < compiled.total < eager.total
    assert not compiled.blocks


def test_autocast_saves_half_of_most() -> None:
    half = replace(FULL, dtype=torch.bfloat16)
    ratio = count("resnet50", EAGER, half, by_block=False).total / count("resnet50", EAGER, FULL, by_block=False).total
    assert 0.5 < ratio < 0.6


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    command = [
        "memory",
        "--quick",
        "--device",
        "cpu",
        "--json",
        str(folder / "m.json"),
        "--plot",
        str(folder / "m.svg"),
    ]
    assert main([*command, "--models", "tiny,resnet50,timm:no_such_model", "--ways", "eager,fused"]) == 0
    return folder


def test_parts_add_up_in_the_file(quick: Path) -> None:
    result = read(quick / "m.json")
    of: dict[str, int] = {}
    for row in result.rows:
        if (row["model"], row["way"]) == ("resnet50", FUSED):
            of[str(row["block"])] = row["saved"]  # type: ignore[assignment]
    assert len(of) == 18
    assert of.pop(WHOLE) == sum(of.values())
    assert REST in of
    assert (quick / "m.svg").read_text().count("<svg") == 1


def test_what_a_library_cannot_give_is_a_note(quick: Path) -> None:
    notes = read(quick / "m.json").notes
    assert len(notes) == 2
    assert all(note.startswith("timm:no_such_model: ") for note in notes)


def test_words_and_small_table_come_from_the_file_alone(quick: Path) -> None:
    result: Result = read(quick / "m.json")
    header, rows = memory.shown.headline(result)
    assert [row[0] for row in rows] == ["resnet50"]
    assert all("(counted)" in name for name in header[1:])
    assert "Counted exactly for batches of 2 images of 32x32, float32" in memory.shown.caption(result)


def test_nothing_counted_is_one_line() -> None:
    with pytest.raises(UserError, match="nothing was counted"):
        memory.run(arguments("--models", "timm:no_such_model"))


@pytest.mark.parametrize(("option", "value"), [("--models", "resnet19"), ("--ways", "slow"), ("--batch", "0")])
def test_wrong_arguments_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(option, value)
    assert f"argument {option}: is {value}, expected" in capsys.readouterr().err


def arguments(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    memory.add_arguments(parser)
    return parser.parse_args(options)
