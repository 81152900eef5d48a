"""The whole examination, and what of it is a problem."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..backend import Backend, available_backends
from ..operation.requirement import kernels_required
from . import facts
from .selftest import Check, run_checks


@dataclass(frozen=True)
class Diagnosis:
    """What was found; `backends` holds the reason why each cannot be used, None where it can."""

    versions: facts.Versions
    gpus: list[facts.Gpu]
    modules: list[facts.Module]
    backends: dict[Backend, str | None]
    checks: list[Check]
    problems: list[str]


def examine() -> Diagnosis:
    """Looks everything up and runs the self-test."""
    gpus, modules, backends = facts.gpus(), facts.modules(), available_backends()
    with _one_thread():
        checks = [check for target in _targets(gpus, backends) for check in run_checks(*target)]
    problems = [*_problems_of_installation(gpus, modules), *_problems_of_requirement(backends), *_failed(checks)]
    return Diagnosis(facts.versions(), gpus, modules, backends, checks, problems)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors are small: where the cores are in use, several threads would mostly wait for each other."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def _targets(gpus: list[facts.Gpu], backends: dict[Backend, str | None]) -> Iterator[tuple[Backend, torch.device]]:
    """What the self-test runs on: each backend on each device where it can be used."""
    cpu, all_gpus = torch.device("cpu"), [torch.device(gpu.device) for gpu in gpus]
    for gpu, device in zip(gpus, all_gpus, strict=True):
        if gpu.problem is None:
            yield "cuda", device
    if backends["emulated"] is None:
        yield "emulated", cpu
    for device in (cpu, *all_gpus):
        yield "reference", device


def _problems_of_installation(gpus: list[facts.Gpu], modules: list[facts.Module]) -> Iterator[str]:
    """Modules that were built and cannot be used, and GPUs without kernels: without a GPU, to have none is a choice."""
    found = [(module.name, module.problem) for module in modules if module.built]
    known = {problem for _, problem in found}
    found += [("_C", gpu.problem) for gpu in gpus if gpu.problem not in known]
    for name, problem in dict.fromkeys(found):
        if problem is not None:
            yield f"{name}: {problem}"


def _problems_of_requirement(backends: dict[Backend, str | None]) -> Iterator[str]:
    try:
        required = kernels_required()
    except ValueError as error:
        yield str(error)
        return
    if required and backends["cuda"] is not None:
        yield f"FUSED_RESNET_REQUIRE=cuda, but backend 'cuda' is not available: {backends['cuda']}"


def _failed(checks: list[Check]) -> Iterator[str]:
    for check in checks:
        if check.problem is not None:
            yield f"self-test: {check.backend} on {check.device}, {check.case}: {check.problem}"
