"""Where a result comes from: the checkout as git knows it, the machine as far as it is needed."""

import argparse
import subprocess

import pytest
import torch

import fused_resnet
from benchmarks import provenance as module
from benchmarks.provenance import provenance


def origin(**arguments):
    return provenance(torch.device("cpu"), argparse.Namespace(**arguments))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git repository with one commit, from which the benchmarks seem to run."""
    monkeypatch.setattr(module, "_REPOSITORY", tmp_path)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "code.py").write_text("pass\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(
        tmp_path, *("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"), "commit", "--quiet", "-m", "First"
    )
    return tmp_path


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_is_that_of_the_checkout(checkout):
    found = origin()
    assert found.commit == git(checkout, "rev-parse", "HEAD")
    assert found.dirty is False


@pytest.mark.parametrize(
    ("file", "dirty"), [("code.py", True), ("new.py", True), ("benchmarks/results/earlier.json", False)]
)
def test_changes_are_told_but_results_are_none(checkout, file, dirty):
    (checkout / file).write_text("changed\n")
    assert origin().dirty is dirty


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_REPOSITORY", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = origin()
    assert (found.commit, found.dirty) == (None, None)


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert origin().commit is None


def test_machine_and_versions_are_those_of_this_process():
    found = origin()
    assert found.device == found.cpu
    assert found.threads == torch.get_num_threads()
    assert found.cores >= 1
    assert (found.torch, found.fused_resnet) == (torch.__version__, fused_resnet.__version__)
    assert found.tf32 is False
    assert found.date.endswith("+00:00")


def test_of_a_path_the_last_part_is_kept(tmp_path):
    assert origin(json=tmp_path / "out.json", pairs=3).arguments == {"json": "out.json", "pairs": 3}
