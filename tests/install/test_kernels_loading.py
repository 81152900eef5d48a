"""Loading the extension modules: a module or the reason why there is none, in a copy of the package's loader."""

import importlib
import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

import fused_resnet
from fused_resnet.backends.kernels import loading
from fused_resnet.kernel_build.cache import file_name, sources_digest

PYTHON = "{}.{}".format(*sys.version_info)
RECORD = {"python": PYTHON, "torch": torch.__version__}
BUILD = "run `python -m fused_resnet build`"
FOR_ALL = "8.0 9.0+PTX"
numbers = itertools.count()


class Package:
    """A package with the loader in it, what an installation leaves beside that, a cache. Modules are Python files."""

    def __init__(self, folder, monkeypatch):
        self.name = f"package_{next(numbers)}"
        self.folder, self.cache = folder / self.name, folder / "cache"
        self.folder.mkdir()
        (self.folder / "__init__.py").touch()
        own, loaders = Path(fused_resnet.__file__).parent, self.folder / "backends" / "kernels"
        loaders.mkdir(parents=True)
        for name in ("loading.py", "compatibility.py"):
            shutil.copy(Path(loading.__file__).with_name(name), loaders)
        for name in ("kernel_build", "csrc"):
            (self.folder / name).symlink_to(own / name if name == "kernel_build" else own.parent / name)
        monkeypatch.setenv("FUSED_RESNET_CACHE", str(self.cache))
        self._monkeypatch = monkeypatch

    def record(self, name="_C", **facts):
        (self.folder / f"{name}.json").write_text(json.dumps(facts))

    def module(self, content, name="_C"):
        (self.folder / f"{name}.py").write_text(content)

    def cached(self, content, age=0, **facts):
        """As the command has built it, some seconds ago."""
        folder = self.cache / str(next(numbers))
        folder.mkdir(parents=True)
        (folder / "_C.py").write_text(content)
        record = folder / "_C.json"
        record.write_text(json.dumps({"sources": sources_digest(), "architectures": FOR_ALL, **facts}))
        os.utime(record, (1e9 - age, 1e9 - age))

    @property
    def loader(self):
        loader = importlib.import_module(f"{self.name}.backends.kernels.loading")
        for module in (loader, importlib.import_module(f"{self.name}.kernel_build.cache")):
            self._monkeypatch.setattr(module, "file_name", lambda name: f"{name}.py")
        return loader

    def reason(self, name="_C"):
        module, reason = self.loader.load(name)
        assert module is None
        assert "\n" not in reason
        return reason


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return Package(tmp_path, monkeypatch)


@pytest.fixture
def gpus(monkeypatch):
    """Compute capabilities of the GPUs that torch finds."""

    def set_to(*capabilities):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])

    return set_to


@pytest.mark.parametrize("name", ["_C", "_emulated"])
def test_module_that_loads_has_no_reason(package, name):
    package.record(name, **RECORD)
    package.module("x = 1", name)
    module, reason = package.loader.load(name)
    assert module.x == 1
    assert reason is None


def test_module_is_loaded_once_and_only_when_it_is_asked_for(package):
    package.module("import torch\ntorch.loads_in_this_test = getattr(torch, 'loads_in_this_test', 0) + 1")
    try:
        loader = package.loader
        assert not hasattr(torch, "loads_in_this_test")
        assert loader.load("_C") == loader.load("_C")
        assert torch.loads_in_this_test == 1
    finally:
        del torch.loads_in_this_test


def test_reason_that_was_recorded_is_kept(package):
    package.record(reason="installed without CUDA kernels: no nvcc was found in PATH")
    assert package.reason() == "not built (installed without CUDA kernels: no nvcc was found in PATH)"


def test_recorded_reason_holds_whatever_module_lies_there(package):
    """An older one that another installation left."""
    package.record(reason="because")
    package.module("raise AssertionError('imported')")
    assert package.reason() == "not built (because)"


def test_without_a_record_the_module_is_not_built(package):
    assert "not built" in package.reason()
    assert package.loader.built_with("_C") == {}


def test_library_that_is_none_is_explained_with_the_error_of_the_loader(tmp_path):
    (tmp_path / file_name("_C")).write_text("not a library")
    module, reason = loading.load_from(tmp_path, "_C")
    assert module is None
    assert f"torch {torch.__version__}" in reason
    assert BUILD in reason
    assert "_C.cpython" in reason  # as the dynamic linker's own message begins


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_error_of_the_initialisation_is_told(package, error):
    package.record(**RECORD)
    package.module(f"raise {error}('undefined symbol: c10')")
    assert "undefined symbol: c10" in package.reason()


def test_error_of_another_patch_release_of_torch_names_both(package):
    built_for = ".".join([*torch.__version__.split(".")[:2], "99"])
    package.record(python=PYTHON, torch=built_for)
    package.module("raise ImportError('undefined symbol: c10')")
    reason = package.reason()
    assert built_for in reason
    assert torch.__version__ in reason


def test_other_patch_release_of_torch_loads(package):
    package.record(python=PYTHON, torch=".".join([*torch.__version__.split(".")[:2], "99"]))
    package.module("")
    assert package.loader.load("_C")[1] is None


def test_other_minor_release_of_torch_is_refused_without_loading(package):
    package.record(python=PYTHON, torch="1.2.3")
    package.module("raise AssertionError('imported')")
    expected = f"built for torch 1.2.3, but torch {torch.__version__} is imported: {BUILD}"
    assert package.reason() == expected


def test_other_python_is_refused(package):
    package.record(python="3.1", torch=torch.__version__)
    assert package.reason() == f"built for Python 3.1, but this is Python {PYTHON}: {BUILD}"


@pytest.mark.parametrize(("cuda", "loads"), [("13.2", True), ("12.8", False), (None, True)])
def test_kernels_of_another_major_version_of_cuda_are_refused(package, monkeypatch, cuda, loads):
    package.record(**RECORD, nvcc="13.0")
    package.module("")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    module, reason = package.loader.load("_C")
    assert (module is not None) == loads
    if not loads:
        assert reason == f"built by nvcc 13.0, but torch {torch.__version__} is for CUDA 12.8: {BUILD}"


# The cache


def test_module_in_the_cache_is_used_where_the_package_has_none(package):
    package.record(reason="torch is not in the environment that builds")
    package.cached("x = 'cached'", **RECORD)
    module, reason = package.loader.load("_C")
    assert (module.x, reason) == ("cached", None)
    assert package.loader.was_built("_C")


def test_newest_of_the_cache_is_used_and_ahead_of_the_packages_own(package):
    package.record(**RECORD, architectures=FOR_ALL)
    package.module("x = 'own'")
    package.cached("x = 'older'", age=60, **RECORD)
    package.cached("x = 'newer'", **RECORD)
    assert package.loader.load("_C")[0].x == "newer"


def test_module_that_runs_on_more_of_the_gpus_is_used(package, gpus):
    """As where machines with different GPUs share a home."""
    gpus((8, 0), (9, 0))
    package.cached("x = 'both'", age=60, **RECORD, architectures="8.0 9.0")
    package.cached("x = 'one'", **RECORD, architectures="9.0")
    assert package.loader.load("_C")[0].x == "both"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"torch": "1.2.3"}, "built for torch 1.2.3"),
        ({"python": "3.1"}, "built for Python 3.1"),
        ({"sources": "other"}, "built from other sources than these"),
    ],
)
def test_module_in_the_cache_that_does_not_fit_says_what_mends_it(package, changed, words):
    package.record(reason="torch is not in the environment that builds")
    package.cached("raise AssertionError('imported')", **{**RECORD, **changed})
    reason = package.reason()
    assert words in reason
    assert BUILD in reason


def test_module_in_the_cache_that_does_not_fit_leaves_the_packages_own(package):
    """As after a change of the sources, which were compiled in place."""
    package.record(**RECORD)
    package.module("x = 'own'")
    package.cached("raise AssertionError('imported')", **RECORD, sources="other")
    assert package.loader.load("_C")[0].x == "own"


def test_unfinished_builds_and_foreign_files_in_the_cache_are_passed_over(package):
    package.record(reason="because")
    for name, content in {"broken": "{", "unfinished": "{}"}.items():
        (package.cache / name).mkdir(parents=True)
        (package.cache / name / "_C.json").write_text(content)
    (package.cache / "broken" / "_C.py").touch()
    assert package.reason() == "not built (because)"


def test_emulator_is_never_taken_from_the_cache(package):
    package.cached("", **RECORD)
    assert "not built" in package.reason("_emulated")


# What was recorded


def test_sanitized_module_wants_its_library_loaded_first(package, monkeypatch):
    """Without, the process would end."""
    package.record("_emulated", **RECORD, sanitized=True)
    package.module("", "_emulated")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert "LD_PRELOAD" in package.reason("_emulated")


@pytest.mark.parametrize(
    ("record", "built"), [(RECORD, True), ({"python": "3.1", "torch": "1.2.3"}, True), ({"reason": "no nvcc"}, False)]
)
def test_module_that_was_built_is_told_from_one_that_never_was(package, record, built):
    package.record(**record)
    assert package.loader.was_built("_C") is built
    assert package.loader.was_built("_emulated") is False


def test_facts_of_the_build_can_be_read(package):
    package.record(**RECORD, architectures="8.0 9.0+PTX")
    assert package.loader.built_with("_C")["architectures"] == "8.0 9.0+PTX"


@pytest.mark.parametrize("name", ["_C", "_emulated"])
def test_installed_package_has_the_module_or_a_reason(name):
    module, reason = loading.load(name)
    assert (module is None) == isinstance(reason, str)


def test_modules_that_were_built_load_side_by_side():
    """They define the same names and the same Python classes."""
    built = [name for name in ("_C", "_emulated") if "torch" in loading.built_with(name)]
    if len(built) < 2 or loading.built_with("_emulated").get("sanitized"):
        pytest.skip("not both are built")
    assert [loading.load(name)[1] for name in built] == [None, None]


@pytest.mark.emulated
def test_sanitize_smoke_emulated_module_loads():
    module, reason = loading.load("_emulated")
    if reason is not None and not reason.startswith("it does not load"):
        pytest.skip(reason)
    assert reason is None
    assert module.__name__ == "fused_resnet._emulated"
