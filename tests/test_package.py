"""The package as a whole: its public names, what importing it costs, and which module may import which."""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import fused_resnet

FOLDER = pathlib.Path(fused_resnet.__file__).parent
PUBLIC = ["fused_resnet", *(f"fused_resnet.{name}" for name in ("functional", "nn", "models", "fusion", "strategy"))]

# From the top down: a module imports modules of layers below its own, or of its own folder.
LAYERS = (
    {"__init__", "__main__"},
    {"command_line"},
    {"build_command", "doctor", "explanation"},
    {"fusion"},
    {"models"},
    {"nn"},
    {"modules"},
    {"recomputation"},
    {"functional"},
    {"choice", "ops", "remembered"},
    {"autograd"},
    {"implementations"},
    {"backend"},
    {"kernels"},
    {"kernel_branch", "plain"},
    {"shared_paths"},
    {"moments"},
    {"launches", "paths", "processes", "signature", "traffic"},
    {"memory", "work"},
    {"tail"},
    {"reference", "strategy", "checks", "_autocast", "_availability"},
    {"branches", "cost_model", "examined", "frozen_norms", "requirement"},
    {"_generators", "_kernels", "_setting", "_tracers"},
    {"_architectures", "kernel_build"},
)


def sources():
    return sorted(FOLDER.rglob("*.py"))


def layer_of(name):
    found = [i for i, layer in enumerate(LAYERS) if name in layer]
    assert found, f"{name} is in no layer"
    return found[0]


def imported_modules(path):
    """First names of the package's own modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fused_resnet."))
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and (node.module or "").split(".")[0] == "fused_resnet":
                names = node.module.split(".")[1:]
            elif node.level == 1 + len(path.parent.relative_to(FOLDER).parts):
                names = (node.module or "").split(".") if node.module else []
            else:
                continue  # another module of the same folder, or of another package
            candidates = names[:1] or [alias.name for alias in node.names]
            yield from (n for n in candidates if (FOLDER / f"{n}.py").exists() or (FOLDER / n).is_dir())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(FOLDER)))
def test_modules_import_downward_only(path):
    own = path.relative_to(FOLDER).parts[0].removesuffix(".py")
    for name in imported_modules(path):
        assert name == own or layer_of(name) > layer_of(own), f"{own} imports {name}"


def test_only_the_package_is_imported_from_above():
    """The layers were found: each module but the entry points is imported by another."""
    imported = {name for path in sources() for name in imported_modules(path)}
    assert imported >= {"functional", "backend", "moments", "paths", "reference", "strategy", "checks", "branches"}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_exist_and_are_documented(module):
    module = importlib.import_module(module)
    assert module.__doc__
    names = getattr(module, "__all__", None) or [
        n for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__ and n[0] != "_"
    ]
    assert names
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            # Not the signature that a dataclass writes for itself.
            assert not value.__doc__.startswith(f"{name}("), name


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_module_opens_with_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_import_brings_in_torch_alone():
    unwanted = ("torchvision", "timm", "matplotlib", "numpy.testing", "hypothesis", "pytest")
    code = f"import sys, fused_resnet; print([m for m in {unwanted!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent)
    assert out.stdout.strip() == "[]"


def test_import_initialises_no_gpu():
    code = "import torch, fused_resnet; print(torch.cuda.is_initialized())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent)
    assert out.stdout.strip() == "False"


def test_version_is_a_release():
    assert re.fullmatch(r"\d+\.\d+\.\d+", fused_resnet.__version__)
