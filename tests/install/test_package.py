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

# From the top down: a module imports modules of rooms below its own, or of its own.
ROOMS = (
    *("__main__", "__init__", "command_line", "doctor", "explanation", "fusion", "models", "nn", "conversion"),
    *("functional", "cost", "operators", "backend", "backends", "strategy", "operation", "examined", "kernel_build"),
)


def sources():
    return sorted(FOLDER.rglob("*.py"))


def imported_rooms(path):
    """First names of the package's own modules that a file imports."""
    package = path.relative_to(FOLDER).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            around = (*package[: len(package) + 1 - node.level], *(node.module or "").split("."))
            first = next(filter(None, around), None)
            yield from [first] if first else (alias.name for alias in node.names if not alias.name.startswith("__"))


def test_modules_import_downward_only():
    for path in sources():
        own = path.relative_to(FOLDER).parts[0].removesuffix(".py")
        for room in imported_rooms(path):
            assert room == own or ROOMS.index(room) > ROOMS.index(own), f"{path} imports {room}"


def test_each_room_but_the_entrance_is_imported_by_another():
    assert {room for path in sources() for room in imported_rooms(path)} == {*ROOMS} - {"__main__", "__init__"}


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


def test_every_module_opens_with_what_it_is():
    assert [path for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_import_brings_in_torch_alone():
    unwanted = ("torchvision", "timm", "matplotlib", "numpy.testing", "hypothesis", "pytest", "torch._dynamo")
    code = f"import sys, fused_resnet; print([m for m in {unwanted!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent)
    assert out.stdout.strip() == "[]"


def test_import_initialises_no_gpu():
    code = "import torch, fused_resnet; print(torch.cuda.is_initialized())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent)
    assert out.stdout.strip() == "False"


def test_version_is_a_release():
    assert re.fullmatch(r"\d+\.\d+\.\d+", fused_resnet.__version__)
