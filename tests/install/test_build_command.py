"""``python -m fused_resnet build``, with a stand-in for nvcc and sources of one file."""

import json
import multiprocessing
import pathlib

import pytest
import torch
from stand_in_compilers import fake_nvcc, nvcc_that_compiles

from fused_resnet.backends.kernels import loading
from fused_resnet.command_line import main
from fused_resnet.kernel_build import command as build_command
from fused_resnet.kernel_build.cache import built_folder

MODULE = """
#include <Python.h>
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
"""

pytestmark = pytest.mark.skipif(
    torch.__version__ < torch.torch_version.TorchVersion("2.11"), reason="beside an older torch there are no kernels"
)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Its folder: sources, a compiler, a cache that is empty, no GPU."""
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "module.cpp").write_text(MODULE)
    nvcc_that_compiles(tmp_path / "cuda")
    monkeypatch.setattr(build_command, "sources_root", lambda: tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    for name, value in {
        "CUDA_HOME": tmp_path / "cuda",
        "FUSED_RESNET_CACHE": tmp_path / "cache",
        "TORCH_CUDA_ARCH_LIST": "9.0",
    }.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path


def compilations(machine):
    """How many there were: the probe of the compilers and the sources."""
    return (machine / "cuda" / "compiled").read_text().count("compiled")


def left(machine):
    """What lies in the cache."""
    return sorted(path.name for path in (machine / "cache").rglob("*") if path.is_file())


def test_kernels_are_built_into_the_cache_and_the_loader_finds_them(machine, capsys):
    assert main(["build"]) == 0
    printed = capsys.readouterr().out
    assert "nvcc 13.0" in printed
    assert f"torch {torch.__version__}" in printed
    assert "[1/2]    " in printed
    assert "compile csrc/module.cpp" in printed
    loading._chosen.cache_clear()
    try:
        folder, record = loading._chosen("_C")
        assert folder.parent == machine / "cache"
        assert record["architectures"] == "9.0"
        assert loading._mismatch("_C", record) is None
    finally:
        loading._chosen.cache_clear()


def test_package_stays_as_it_is(machine):
    """It may lie where the user must not write."""
    package = pathlib.Path(build_command.__file__).parent

    def files():
        return {p: p.stat().st_mtime_ns for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"}

    before = files()
    assert main(["build"]) == 0
    assert files() == before
    assert {path.parent.parent for path in (machine / "cache").glob("*/_C*")} == {machine / "cache"}


def test_what_is_built_is_not_built_again(machine, capsys):
    assert main(["build"]) == main(["build"]) == 0
    assert compilations(machine) == 3  # two probes, one source
    assert "they are built already" in capsys.readouterr().out


@pytest.mark.slow
def test_module_that_no_longer_loads_is_built_again(machine):
    assert main(["build"]) == 0
    (module,) = (machine / "cache").glob("*/*.so")
    module.write_text("not a library")
    assert main(["build"]) == 0
    assert loading.load_from(module.parent, "_C")[1] is None


@pytest.mark.slow
def test_two_at_once_build_once(machine):
    processes = [multiprocessing.get_context("fork").Process(target=lambda: exit(main(["build"]))) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert compilations(machine) == 3  # two probes, one source
    assert [name for name in left(machine) if not name.endswith(".lock")] == [loading.file_name("_C"), "_C.json"]


def test_compiler_that_fails_is_one_line(machine, capsys):
    (machine / "csrc" / "module.cpp").write_text("int x = unknown;\n" * 50)
    assert main(["build"]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("fused_resnet: the kernels were not built: ")
    assert "was not declared" in line
    assert "was not declared" not in captured.out
    assert [name.split(".")[-1] for name in left(machine)] == ["log", "lock"]


def test_module_that_does_not_load_is_a_failure(machine, capsys):
    (machine / "csrc" / "module.cpp").write_text("int x = 1;\n")
    assert main(["build"]) == 1
    assert "does not define module export function" in capsys.readouterr().err


def test_missing_compiler_is_one_line(machine, monkeypatch, capsys):
    fake_nvcc(machine / "old", "11.8")
    monkeypatch.setenv("CUDA_HOME", str(machine / "old"))
    assert main(["build"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "nvcc 11.8" in line
    assert "older than 12.0" in line


def test_cache_that_cannot_be_written_is_one_line_that_names_the_variable(machine, monkeypatch, capsys):
    (machine / "file").touch()
    monkeypatch.setenv("FUSED_RESNET_CACHE", str(machine / "file" / "cache"))
    assert main(["build"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "FUSED_RESNET_CACHE chooses another folder" in line


@pytest.mark.parametrize("said", ["", "8.0"])
def test_kernels_are_for_the_gpus_that_are_here_unless_others_are_named(machine, monkeypatch, said):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", said)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(9, 0), (12, 1)][index])
    assert main(["build"]) == 0
    (record,) = (machine / "cache").glob("*/_C.json")
    assert json.loads(record.read_text())["architectures"] == (said or "9.0 12.0")


def test_builds_for_different_things_lie_side_by_side(tmp_path):
    folders = {
        built_folder(tmp_path, torch_version, nvcc, architectures)
        for torch_version in ("2.13.0+cu130", "2.14.1+cu130")
        for nvcc in ("12.8", "13.0")
        for architectures in (["9.0"], ["8.0", "9.0"])
    }
    assert len(folders) == 8
    assert built_folder(tmp_path, "2.14.0", "13.0", ["9.0"]) == built_folder(tmp_path, "2.14.1", "13.2", ["9.0"])
