"""Writes docs/kernels.md, the registers and the occupancy of each kernel, from the built module `_C`.

python -m kernel_resources.report            writes the table
python -m kernel_resources.report --check    fails where the table is out of date or a kernel breaks its promises
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from . import stages
from .binary import ToolMissingError
from .occupancy import MULTIPROCESSORS, REGISTERS, Occupancy, collect, problems

TABLE = Path(__file__).resolve().parents[1] / "docs" / "kernels.md"
# One of each generation, as `make test` builds them.
ARCHITECTURES = ("8.0", "9.0", "12.0")

TEXT = """\
# What the kernels take of a multiprocessor

`make resources` writes this file, and the test suite fails where it is out of date. The compiler was nvcc {nvcc}:
another one gives other numbers.

A multiprocessor holds as many blocks at the same time as its {registers} registers, its shared memory and its threads
allow. All kernels have blocks of {threads} threads, with {shared} bytes of shared memory. Of such blocks there fit:

{limits}

Kernels with projections take 38 KiB more where two such blocks fit a multiprocessor, as on 9.0 (`step_slots` in
csrc/launch.cuh).

The table of the kernels has three numbers side by side, for {architectures}:

- *kernel*: as in csrc/forward.cuh and csrc/backward.cuh, with how products are computed, and whether the tail has
  projections.
- *shared*: bytes of shared memory a block.
- *registers* of a thread.
- *stack*: bytes a thread. There must be none: registers that are spilled to memory would lie there.
- *blocks* at the same time: the least of what registers, shared memory and threads allow.
- *claim*: how many there have to be. The kernel's launch bounds (*bounds*) make the compiler leave registers for as
  many; where shared memory allows fewer, the claim is these.

{kernels}

A stage of a pipeline is 128 x 128 x 32 multiply-adds in half precision: 32 instructions of the tensor cores for each of
8 warps. This is how many instructions a warp issues for one or two in all, in bfloat16 on {staged}, where rows are
dense and come 16 bytes at a time. In backward, the relu's mask is copied with g, and g is masked in shared memory. What
begins with a number is a turn of a loop without a product; a vector has 16 bytes.

{stages}
"""
# The architecture whose stages are counted: what has been measured is of this one.
STAGED = "9.0"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _limits(threads: int, shared: Sequence[int]) -> str:
    rows = []
    for name in ARCHITECTURES:
        of = MULTIPROCESSORS[name]
        by_shared = [of.blocks_by_shared(size) for size in shared]
        rows.append([name, f"{of.shared_kib} KiB", *by_shared, of.threads, of.blocks_by_threads(threads)])
    by_size = [f"blocks by {size}" for size in shared]
    return _markdown(["architecture", "shared memory", *by_size, "threads", "blocks by them"], rows)


def _row(kernels: Sequence[Occupancy]) -> list[str]:
    """The row of one kernel, with each architecture."""
    columns = [
        [one.usage.registers for one in kernels],
        [one.usage.stack for one in kernels],
        [one.blocks for one in kernels],
        [one.claim for one in kernels],
        [kernels[0].needs.blocks],
        [kernels[0].needs.shared_bytes],
    ]
    return [f"`{kernels[0].kernel}`", *(", ".join(map(str, column)) for column in columns)]


def table(kernels: Iterable[Occupancy], stages: Mapping[tuple[str, str], int], nvcc: str) -> str:
    """The text of docs/kernels.md."""
    shown = [one for one in kernels if one.usage.architecture in ARCHITECTURES]
    (threads,) = {one.needs.threads for one in shown}  # it names them only once
    shared = sorted({one.needs.shared_bytes for one in shown})
    names = dict.fromkeys(one.kernel for one in shown)
    rows = [_row([one for one in shown if one.kernel == name]) for name in names]
    return TEXT.format(
        nvcc=nvcc,
        threads=threads,
        shared=" or ".join(map(str, shared)),
        registers=REGISTERS,
        limits=_limits(threads, shared),
        architectures=", ".join(ARCHITECTURES),
        kernels=_markdown(["kernel", "registers", "stack", "blocks", "claim", "bounds", "shared"], rows),
        staged=STAGED,
        stages=_markdown(["stage", "instructions"], [(f"{kind}: {stage}", n) for (kind, stage), n in stages.items()]),
    )


def incomparable(facts: dict[str, str], text: str) -> str | None:
    """Why a module with these facts of its build cannot be compared with the table, or None."""
    built_for = facts["architectures"].replace("+PTX", "").split()
    if missing := [name for name in ARCHITECTURES if name not in built_for]:
        return f"the kernels are built for {', '.join(built_for)}, without {', '.join(missing)}"
    if (found := re.search(r"nvcc (\d+\.\d+)", text)) and found[1] != facts["nvcc"]:
        return f"the kernels are built by nvcc {facts['nvcc']}, the table is of nvcc {found[1]}"
    return None


def _built() -> tuple[ModuleType, dict[str, str]]:
    from fused_resnet.backends.kernels import loading

    module, reason = loading.load("_C")
    if module is None:
        raise SystemExit(f"there are no kernels to look at: _C is {reason}")
    return module, loading.built_with("_C")


def _found_in(module: ModuleType) -> tuple[list[Occupancy], dict[tuple[str, str], int]]:
    assert module.__file__ is not None
    library = Path(module.__file__)
    try:
        return collect(library, module.launch_needs()), stages.collect(library, STAGED)
    except ToolMissingError as error:
        raise SystemExit(str(error)) from None


def _check(kernels: Sequence[Occupancy], expected: str, incomparable: str | None) -> None:
    found = problems(kernels)
    if incomparable:
        found.append(f"docs/kernels.md cannot be checked: {incomparable}")
    elif expected != (TABLE.read_text() if TABLE.exists() else ""):
        found.append("docs/kernels.md is out of date: run `make resources`")
    if found:
        raise SystemExit("\n".join(found))


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes docs/kernels.md from the built kernels.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where table or kernels are wrong")
    check = parser.parse_args().check
    module, facts = _built()
    reason = incomparable(facts, TABLE.read_text() if check and TABLE.exists() else "")
    if reason and not check:
        raise SystemExit(reason)
    kernels, of_stages = _found_in(module)
    text = table(kernels, of_stages, facts["nvcc"])
    if check:
        return _check(kernels, text, reason)
    TABLE.write_text(text)
    for problem in problems(kernels):
        print(problem)
    return None


if __name__ == "__main__":
    main()
