"""Runs a recipe with ninja, which compiles again only what has changed, headers and commands included."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .recipes import Recipe

RULES = """\
ninja_required_version = 1.5
rule compile
  command = {compile} $in -o $out -MD -MF $out.d
  depfile = $out.d
  deps = gcc
  description = compile $in
rule link
  command = {link} $in {libraries} -o $out
  description = link $out
"""


def _command(words: Iterable[str]) -> str:
    return shlex.join(words).replace("$", "$$")


def _path(path: Path | str) -> str:
    return re.sub(r"([$ :])", r"$\1", str(path))


def ninja_file(root: Path, module: str, recipe: Recipe) -> str:
    text = RULES.format(
        compile=_command(recipe.compile), link=_command(recipe.link), libraries=_command(recipe.libraries)
    )
    objects = []
    for source in recipe.sources:
        objects.append(_path(f"{source}.o"))
        text += f"build {objects[-1]}: compile {_path(root / source)}\n"
    return f"{text}build {module}: link {' '.join(objects)}\n"


def build_folder(root: Path, module: str, text: str, recipe: Recipe) -> Path:
    """One for each set of commands and versions: going from one to another and back compiles nothing twice.

    The list of sources is no part of it: a file more must not compile the others again.
    """
    commands = [recipe.compile, recipe.link, recipe.libraries, sorted(recipe.facts.items())]
    name = hashlib.sha256(repr(commands).encode()).hexdigest()[:12]
    return root / "build" / "kernels" / f"{module.split('.')[0]}-{name}"


def build(root: Path, module: str, recipe: Recipe, ninja: Path, jobs: int) -> Path:
    """The path of the module that was built. Raises `subprocess.CalledProcessError` after the compilers' messages."""
    text = ninja_file(root, module, recipe)
    folder = build_folder(root, module, text, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "build.ninja"
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    subprocess.run([ninja, "-C", folder, "-j", str(jobs)], check=True)
    return folder / module
