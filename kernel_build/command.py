"""The commands of setuptools that build the modules and record what was built, or why nothing was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from setuptools import Extension
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

from . import ninja_file
from .decision import Decision, Tools
from .jobs import available_memory, jobs, usable_cpus
from .recipes import recipe

PACKAGE = "fused_resnet"


def extensions(root: Path, decisions: Iterable[Decision]) -> list[Extension]:
    """What makes the wheel one of this platform."""
    return [
        Extension(f"{PACKAGE}.{decision.module}", [str(path) for path in recipe(root, decision.tools).sources])
        for decision in decisions
        if decision.tools is not None
    ]


def _replace(path: Path, content: bytes) -> None:
    """Never half a file, nor a new one in the memory of a process that has loaded the old one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _record(folder: Path, decision: Decision, facts: dict[str, Any]) -> None:
    _replace(folder / f"{decision.module}.json", (json.dumps(facts, indent=2) + "\n").encode())


class BuildKernels(build_ext):
    root: Path
    decisions: tuple[Decision, ...]

    def run(self) -> None:
        """Leaves the modules that were decided on in the package, and no others of an earlier build."""
        in_place = self.inplace or self.editable_mode
        folder = (self.root if in_place else Path(self.build_lib)) / PACKAGE
        folder.mkdir(parents=True, exist_ok=True)
        for decision in self.decisions:
            self._announce(decision)
        number = self._jobs() if any(decision.tools for decision in self.decisions) else 0
        for decision in self.decisions:
            target = folder / f"{decision.module}{sysconfig.get_config_var('EXT_SUFFIX')}"
            if decision.tools is None:
                target.unlink(missing_ok=True)
                _record(folder, decision, {"reason": decision.reason})
            else:
                self._build(decision, decision.tools, target, number)

    def _announce(self, decision: Decision) -> None:
        if decision.required and decision.tools is None:
            raise SystemExit(decision.line)
        if decision.tools is not None or decision.module == "_C":
            print(decision.line, flush=True)

    def _jobs(self) -> int:
        number, warning = jobs(os.environ, usable_cpus(), available_memory())
        if warning:
            print(f"fused_resnet: {warning}", flush=True)
        return number

    def _build(self, decision: Decision, tools: Tools, target: Path, number: int) -> None:
        made = recipe(self.root, tools)
        try:
            built = ninja_file.build(self.root, target.name, made, tools.ninja, number)
        except subprocess.CalledProcessError:
            without = "; FUSED_RESNET_CUDA=0 installs without it" if decision.module == "_C" else ""
            raise SystemExit(f"fused_resnet: {decision.module} did not compile, see above{without}") from None
        _replace(target, built.read_bytes())
        shutil.copymode(built, target)
        _record(target.parent, decision, {"python": "{}.{}".format(*sys.version_info), **made.facts})


class Build(build):
    # With nothing to compile, too: the reason is recorded.
    sub_commands = [(name, None if name == "build_ext" else when) for name, when in build.sub_commands]  # noqa: RUF012


def commands(root: Path, decisions: Iterable[Decision]) -> dict[str, type]:
    """As `cmdclass` of `setup`."""
    decided = type("BuildKernels", (BuildKernels,), {"root": root, "decisions": tuple(decisions)})
    return {"build": Build, "build_ext": decided}
