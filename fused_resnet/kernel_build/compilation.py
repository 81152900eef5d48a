"""Runs a recipe with ninja, which compiles again only what has changed, headers and commands included."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from .recipes import Recipe

RULES = """\
ninja_required_version = 1.5
rule compile
  command = {compile} $in -o $out -MD -MF $out.d
  depfile = $out.d
  deps = gcc
  description = compile $source
rule link
  command = {link} $in {libraries} -o $out
  description = link $out
"""
# Words by which compilers and linkers begin to say what went wrong, also where the system has killed one of them.
_ERROR = re.compile(r"\berror\b|undefined reference|cannot find|\bkilled\b|not found", re.IGNORECASE)
_MOST_CHARACTERS = 200

# Called with the number of steps done, the number of all, and what the last one was.
OnStep = Callable[[int, int, str], object]


class CompilationError(Exception):
    """What went wrong first, in one line, and where all that the compilers said can be read."""


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
        text += f"build {objects[-1]}: compile {_path(root / source)}\n  source = {source}\n"
    return f"{text}build {module}: link {' '.join(objects)}\n"


def incremental_folder(root: Path, module: str, recipe: Recipe) -> Path:
    """One for each set of commands and versions: going from one to another and back compiles nothing twice.

    The list of sources is no part of it: a file more must not compile the others again.
    """
    commands = [recipe.compile, recipe.link, recipe.libraries, sorted(recipe.facts.items())]
    name = hashlib.sha256(repr((RULES, commands)).encode()).hexdigest()[:12]
    return root / "build" / "kernels" / f"{module.split('.')[0]}-{name}"


def compile_module(
    root: Path, module: str, recipe: Recipe, ninja: Path, *, folder: Path, jobs: int, log: Path, on_step: OnStep
) -> Path:
    """Builds in the folder; returns the module's path there.

    Args:
        root: what the recipe's sources are relative to.
        module: file name of the module.
        folder: keeps the objects, so that the next build there compiles only what has changed.
        log: keeps all that the compilers say, where they fail.

    Raises:
        CompilationError: a compiler or the linker failed.
    """
    text = ninja_file(root, module, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "build.ninja"
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    said = _run([ninja, "-C", folder, "-j", str(jobs)], log, on_step)
    if said is not None:
        raise CompilationError(f"{_first_error(said)} (full output: {log})")
    log.unlink()
    return folder / module


def _run(command: list[str | Path], log: Path, on_step: OnStep) -> list[str] | None:
    """What was said, where it failed."""
    said = []
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            said.append(line.strip())
            if step := re.match(r"\[(\d+)/(\d+)\] (.*)", line):
                on_step(int(step[1]), int(step[2]), step[3])
    return said if process.returncode else None


def _first_error(said: list[str]) -> str:
    """The first error that the compilers print; ninja's own lines name steps and whole commands."""
    theirs = [line for line in said if line and not re.match(r"\[\d+/\d+\]|ninja: |FAILED: ", line)]
    errors = [line for line in theirs if _ERROR.search(line)]
    first = (errors or theirs or said or ["ninja failed"])[0]
    return first if len(first) <= _MOST_CHARACTERS else f"{first[:_MOST_CHARACTERS]}..."
