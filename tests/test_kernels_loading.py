"""Loading the extension modules: a module or the reason why there is none, in a copy of the package's loader."""

import importlib
import itertools
import json
import shutil
import sys
import sysconfig

import pytest
import torch

from fused_resnet import _kernels

PYTHON = "{}.{}".format(*sys.version_info)
RECORD = {"python": PYTHON, "torch": torch.__version__}
REINSTALL = "reinstall from the sources, pip install --no-build-isolation --no-deps --force-reinstall ."
numbers = itertools.count()


class Package:
    """A package with the loader in it, and what an installation leaves beside that."""

    def __init__(self, folder):
        self.name = f"package_{next(numbers)}"
        self.folder = folder / self.name
        self.folder.mkdir()
        (self.folder / "__init__.py").touch()
        shutil.copy(_kernels.__file__, self.folder / "_kernels.py")

    def record(self, name="_C", **facts):
        (self.folder / f"{name}.json").write_text(json.dumps(facts))

    def module(self, content, name="_C", suffix=".py"):
        (self.folder / f"{name}{suffix}").write_text(content)

    @property
    def loader(self):
        return importlib.import_module(f"{self.name}._kernels")

    def reason(self, name="_C"):
        module, reason = self.loader.load(name)
        assert module is None
        assert "\n" not in reason
        return reason


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return Package(tmp_path)


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


def test_library_that_is_none_is_explained_with_the_error_of_the_loader(package):
    package.record(**RECORD)
    package.module("not a library", suffix=sysconfig.get_config_var("EXT_SUFFIX"))
    reason = package.reason()
    assert f"torch {torch.__version__}" in reason
    assert "reinstall" in reason
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
    expected = f"built for torch 1.2.3, but torch {torch.__version__} is imported: {REINSTALL}"
    assert package.reason() == expected


def test_other_python_is_refused(package):
    package.record(python="3.1", torch=torch.__version__)
    assert package.reason() == f"built for Python 3.1, but this is Python {PYTHON}: {REINSTALL}"


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
    module, reason = _kernels.load(name)
    assert (module is None) == isinstance(reason, str)


def test_modules_that_were_built_load_side_by_side():
    """They define the same names and the same Python classes."""
    built = [name for name in ("_C", "_emulated") if "torch" in _kernels.built_with(name)]
    if len(built) < 2 or _kernels.built_with("_emulated").get("sanitized"):
        pytest.skip("not both are built")
    assert [_kernels.load(name)[1] for name in built] == [None, None]


@pytest.mark.emulated
def test_sanitize_smoke_emulated_module_loads():
    module, reason = _kernels.load("_emulated")
    if reason is not None and not reason.startswith("it does not load"):
        pytest.skip(reason)
    assert reason is None
    assert module.__name__ == "fused_resnet._emulated"
