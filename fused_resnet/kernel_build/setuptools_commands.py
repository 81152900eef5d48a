"""The commands of setuptools that build the modules, record what was built or why nothing was, and ship the sources."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from setuptools import Extension
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

from .cache import file_name, log_file, store_module, store_record
from .compilation import CompilationError, compile_module, incremental_folder
from .decision import Decision, Tools
from .jobs import available_memory, jobs, usable_cpus
from .recipes import KERNELS, recipe

PACKAGE = "fused_resnet"


def extensions(root: Path, decisions: Iterable[Decision]) -> list[Extension]:
    """What makes the wheel one of this platform."""
    return [
        Extension(f"{PACKAGE}.{decision.module}", [str(path) for path in recipe(root, decision.tools).sources])
        for decision in decisions
        if decision.tools is not None
    ]


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
            if decision.tools is None:
                self._leave_out(folder, decision.module, decision.reason)
            else:
                self._build(decision, decision.tools, folder, number)

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

    def _leave_out(self, folder: Path, module: str, reason: str) -> None:
        (folder / file_name(module)).unlink(missing_ok=True)
        store_record(folder, module, {"reason": reason})

    def _build(self, decision: Decision, tools: Tools, folder: Path, number: int) -> None:
        made, name = recipe(self.root, tools), file_name(decision.module)
        try:
            built = compile_module(
                self.root,
                name,
                made,
                tools.ninja,
                folder=incremental_folder(self.root, name, made),
                jobs=number,
                log=log_file(decision.module),
                on_step=lambda done, of, what: print(f"[{done}/{of}] {what}", flush=True),
            )
        except (CompilationError, OSError) as error:  # a full disk, a folder that is not ours
            self._take_failure(decision, folder, f"{decision.module} did not compile: {error}")
        else:
            store_module(built, folder, decision.module, made.facts)

    def _take_failure(self, decision: Decision, folder: Path, what: str) -> None:
        """Nobody who did not ask for the module should be left without a package."""
        if decision.required:
            raise SystemExit(f"fused_resnet: {what}")
        print(f"fused_resnet: installed without CUDA kernels: {what}", flush=True)
        self._leave_out(folder, decision.module, f"installed without CUDA kernels: {what}")
        self.extensions = [one for one in self.extensions if one.name != f"{PACKAGE}.{decision.module}"]


class BuildSources(build_py):
    root: Path

    def run(self) -> None:
        """The kernels' sources become part of the package: `python -m fused_resnet build` compiles them."""
        super().run()
        if not self.editable_mode:
            shutil.copytree(self.root / KERNELS, Path(self.build_lib, PACKAGE, KERNELS), dirs_exist_ok=True)


class Build(build):
    # With nothing to compile, too: the reason is recorded.
    sub_commands: ClassVar = [(name, None if name == "build_ext" else when) for name, when in build.sub_commands]


def commands(root: Path, decisions: Iterable[Decision]) -> dict[str, type]:
    """The `cmdclass` of `setup`."""
    return {
        "build": Build,
        "build_py": type("BuildSources", (BuildSources,), {"root": root}),
        "build_ext": type("BuildKernels", (BuildKernels,), {"root": root, "decisions": tuple(decisions)}),
    }
