"""The command that keeps all results runs each benchmark as a user would, and tells which failed."""

import subprocess
from types import SimpleNamespace

import pytest

from benchmarks import all as every
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.errors import EXTRA

for dependency in EXTRA:
    pytest.importorskip(dependency)


@pytest.fixture
def commands(monkeypatch):
    """The commands that were run, of which "tail" fails."""
    run = []

    def fake(command, **_):
        run.append(command)
        return SimpleNamespace(returncode=command[3] == "tail")

    monkeypatch.setattr(subprocess, "run", fake)
    return run


def test_each_benchmark_is_run_into_its_own_files_whatever_became_of_the_others(commands, tmp_path, capsys):
    assert main(["all", "--device", "cpu", "--output", str(tmp_path)]) == 1
    assert [command[3] for command in commands] == list(every.NAMES)
    assert set(every.NAMES) < set(BENCHMARKS)
    for name, command in zip(every.NAMES, commands, strict=True):
        assert command[1:3] == ["-m", "benchmarks"]
        assert command[4:] == [
            *("--device", "cpu"),
            *("--json", str(tmp_path / f"{name}-cpu.json"), "--plot", str(tmp_path / f"{name}-cpu.svg")),
        ]
    assert capsys.readouterr().err == "benchmarks: failed: tail\n"


def test_some_can_be_chosen(commands, tmp_path):
    arguments = ["--only", "memory,emulated", "--quick", "--device", "cpu", "--output", str(tmp_path)]
    assert main(["all", *arguments]) == 0
    assert [command[3] for command in commands] == ["memory", "emulated"]
    assert all(command[-1] == "--quick" for command in commands)


def test_unknown_ones_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["all", "--only", "memry"])
    assert "is memry, expected some of memory, emulated, tail," in capsys.readouterr().err
