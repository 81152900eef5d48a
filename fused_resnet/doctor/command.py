"""Examines an installation: versions, GPUs, backends, and whether every kernel computes what it should.

``python -m fused_resnet doctor`` prints what it finds; ``--json`` prints the same as one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby

from .diagnosis import Diagnosis, examine
from .facts import Gpu, Module, Versions


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 0 where all is well and 1 where there is a problem."""
    diagnosis = examine()
    print(json.dumps(asdict(diagnosis), indent=2) if arguments.json else "\n".join(_lines(diagnosis)))
    return 1 if diagnosis.problems else 0


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield _versions(diagnosis.versions)
    yield from map(_gpu, diagnosis.gpus) if diagnosis.gpus else ["no GPU"]
    yield from map(_module, diagnosis.modules)
    for name, reason in diagnosis.backends.items():
        yield f"backend {name}: {'can be used' if reason is None else f'cannot be used, {reason}'}"
    for (backend, device), of_target in groupby(diagnosis.checks, lambda check: (check.backend, check.device)):
        problems = [check.problem for check in of_target]
        yield f"self-test: {backend} on {device}, {problems.count(None)} of {len(problems)} checks passed"
    for problem in diagnosis.problems:
        yield f"PROBLEM: {problem}"
    if not diagnosis.problems:
        yield "all is well"


def _versions(found: Versions) -> str:
    cuda = "without CUDA" if found.cuda is None else f"for CUDA {found.cuda}"
    driver = "" if found.driver is None else f", NVIDIA driver {found.driver}"
    return (
        f"fused_resnet {found.fused_resnet}, torch {found.torch} {cuda}, Python {found.python}, {found.system}{driver}"
    )


def _gpu(gpu: Gpu) -> str:
    return f"{gpu.device}: {gpu.name}, architecture {gpu.architecture}"


def _module(module: Module) -> str:
    if not module.built:
        return f"{module.name}: {module.problem or 'loads; nothing was recorded of its build'}"
    facts = ", ".join(f"{fact} {value}" for fact, value in module.record.items() if value is not False)
    return f"{module.name}: built for {facts} ({module.folder})"
