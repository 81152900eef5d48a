"""The type stubs of the extension modules say what the built ones have: names, methods, arguments, what may be None."""

import ast
import inspect
import pathlib

import pytest

import fused_resnet
from fused_resnet.backends.kernels import loading

FOLDER = pathlib.Path(fused_resnet.__file__).parent


def signature(function):
    """A function in Python's syntax: each argument's name, kind, default and whether it may be None; the result."""
    of = function.args
    defaults = [None] * (len(of.args) - len(of.defaults)) + of.defaults
    positional = [(arg, "positional", default) for arg, default in zip(of.args, defaults, strict=True)]
    keywords = [(arg, "keyword", default) for arg, default in zip(of.kwonlyargs, of.kw_defaults, strict=True)]
    arguments = [
        (arg.arg, kind, default and ast.unparse(default), may_be_none(arg.annotation))
        for arg, kind, default in (*positional, *keywords)
        if arg.arg != "self"
    ]
    return arguments, ast.unparse(function.returns).rsplit(".", maxsplit=1)[-1]


def may_be_none(annotation):
    """However the version of pybind11 writes it."""
    return "None" in (text := ast.unparse(annotation)) or "Optional" in text


def in_stub(path):
    """What a stub declares, by the dotted name."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = signature(node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = "class"
            for member in node.body:
                is_property = any(ast.unparse(decorator) == "property" for decorator in member.decorator_list)
                found[f"{node.name}.{member.name}"] = "property" if is_property else signature(member)
        elif isinstance(node, ast.AnnAssign):
            found[ast.unparse(node.target)] = ast.unparse(node.annotation)
        elif isinstance(node, ast.ImportFrom) and node.module == "_C":
            found |= in_stub(path.with_name("_C.pyi"))
    return found


def documented(function):
    """The signature that pybind11 puts into the first line of a docstring."""
    line = function.__doc__.splitlines()[0]
    (definition,) = ast.parse(f"def {line}: ...").body
    return signature(definition)


def in_module(module):
    """What a built module has, by the dotted name."""
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if isinstance(value, tuple):
            found[name] = f"tuple[{', '.join(type(part).__name__ for part in value)}]"
            continue
        if not inspect.isclass(value):
            found[name] = documented(value)
            continue
        found[name] = "class"
        if value.__init__.__doc__.startswith("__init__("):
            found[f"{name}.__init__"] = documented(value.__init__)
        for member, of in vars(value).items():
            if not member.startswith("_"):
                found[f"{name}.{member}"] = "property" if isinstance(of, property) else documented(of)
    return found


@pytest.mark.parametrize("name", ["_C", pytest.param("_emulated", marks=pytest.mark.emulated)])
def test_stub_and_built_module_agree(name):
    module, reason = loading.load(name)
    if module is None:
        pytest.skip(f"{name}: {reason}")
    assert in_stub(FOLDER / f"{name}.pyi") == in_module(module)


def test_disagreement_of_any_kind_is_seen(tmp_path):
    stub = (FOLDER / "_C.pyi").read_text()
    expected = in_stub(FOLDER / "_C.pyi")
    changes = {
        "    def moments(self) -> None: ...\n": "",  # a method
        "        y: Tensor,\n": "",  # an argument
        "y: Tensor,": "y: Tensor | None,",
        "eps: float": "epsilon: float",
        "keep: bool,": "keep: bool = False,",
        "branch: int": "*, branch: int",
        "-> NormStatistics": "-> Tensor",
        "def launch_needs": "def needs",
        "class Backward:": "class BackwardCall:",
    }
    for number, (before, after) in enumerate(changes.items()):
        assert before in stub
        changed = tmp_path / f"{number}.pyi"
        changed.write_text(stub.replace(before, after, 1))
        assert in_stub(changed) != expected, before
