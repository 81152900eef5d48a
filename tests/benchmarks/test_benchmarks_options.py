"""The options that benchmarks share refuse in one line what they cannot do, and write what is asked for."""

import argparse

import pytest
import torch

from benchmarks.errors import EXTRA, UserError

for dependency in EXTRA:
    pytest.importorskip(dependency)

from sample_results import sample, stand_in  # noqa: E402

from benchmarks import options  # noqa: E402
from benchmarks.result import read  # noqa: E402

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    options.add_arguments(parser, quick="a moment")
    return parser.parse_args(arguments)


def test_defaults_ask_for_nothing():
    assert vars(parsed()) == {"device": None, "dtype": None, "json": None, "plot": None, "quick": False}


def test_default_device_is_a_gpu_where_there_is_one(monkeypatch):
    for there, device in ((False, CPU), (True, GPU)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert options.device_of(None) == device


def test_one_of_several_gpus_can_be_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert options.device_of("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="device is 'cuda:2', but PyTorch sees 2 GPUs"):
        options.device_of("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "meta", "mps", ""])
def test_other_devices_are_refused(name):
    with pytest.raises(UserError, match=f"device is '{name}', expected cpu, cuda or cuda:N"):
        options.device_of(name)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        (None, CPU, torch.float32),
        (None, GPU, torch.bfloat16),
        ("float16", CPU, torch.float16),
        ("float32", GPU, torch.float32),
    ],
)
def test_dtype_defaults_to_that_of_the_device(name, device, dtype):
    assert options.dtype_of(name, device) is dtype


def test_unknown_dtype_is_refused(capsys):
    with pytest.raises(SystemExit):
        parsed("--dtype", "float64")
    assert "invalid choice: 'float64'" in capsys.readouterr().err


def test_a_picture_of_an_unknown_format_is_refused_before_the_run():
    with pytest.raises(UserError, match=r"--plot is 'a\.gif', expected a name that ends in \.svg or \.png or \.pdf"):
        options.check_files(parsed("--plot", "a.gif"))


def test_folders_of_files_are_made_before_the_run(tmp_path):
    options.check_files(parsed("--json", f"{tmp_path}/a/b/r.json", "--plot", f"{tmp_path}/c/r.svg"))
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "c").is_dir()


@pytest.mark.usefixtures(stand_in.__name__)
def test_finish_prints_the_result_and_writes_both_files(tmp_path, capsys):
    arguments = parsed("--json", f"{tmp_path}/r.json", "--plot", f"{tmp_path}/r.png")
    options.finish(sample(), arguments)
    said = capsys.readouterr().out
    assert said.startswith("Model <T> & Sons, 2 CPU cores")
    assert sample().table() in said
    assert "- Nothing was <measured>." in said
    assert said.endswith(f"Written: {tmp_path}/r.json, {tmp_path}/r.png\n")
    assert read(tmp_path / "r.json") == sample()
    assert (tmp_path / "r.png").stat().st_size > 0


def test_finish_writes_nothing_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options.finish(sample(), parsed())
    assert "Written" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_one_or_more_of_takes_names_separated_by_commas():
    chosen = options.one_or_more_of(["forward", "backward", "both"])
    assert chosen("both") == ["both"]
    assert chosen("backward,forward") == ["backward", "forward"]
    with pytest.raises(argparse.ArgumentTypeError, match="is up, down, expected some of forward, backward, both"):
        chosen("up,forward,down")


def test_at_least_takes_integers_from_there_on():
    assert options.at_least(2)("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match="is 1, expected at least 2"):
        options.at_least(2)("1")
    with pytest.raises(ValueError, match="two"):
        options.at_least(2)("two")
