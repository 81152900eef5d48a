"""Removes each barrier and each wait of the kernels in turn, and tells whether the test suite sees it.

``python -m tests.mutants`` takes about half a minute a mutant on two cores. It works on a copy of the sources, and ends
with 1 if a mutant survives. ``--only`` takes places such as ``csrc/tile.cuh:145``, ``--from`` goes on at one of them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
_CALL = re.compile(r"device::(?:block_sync|grid_sync|warp_sync|copy_async_wait<[^;]*>)\(\);")
# The tests that see most come first: values of all samples, then everything else that runs in the emulator.
_SELECTIONS = (
    [f"tests/kernels/test_{name}.py" for name in ("forward_bits", "backward_bits", "several_items")],
    ["tests"],
)


class Mutant(NamedTuple):
    """A call of a primitive that is to be left out."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    def apply(self, copy: Path) -> None:
        """Leaves the call out, in a copy of the sources."""
        lines = (ROOT / self.path).read_text().split("\n")
        lines[self.line - 1] = _CALL.sub("(void)0;", lines[self.line - 1])
        (copy / self.path).write_text("\n".join(lines))


def mutants() -> Iterator[Mutant]:
    """All places."""
    for path in sorted((ROOT / "csrc").glob("*.cuh")):
        for number, line in enumerate(path.read_text().split("\n"), 1):
            if _CALL.search(line):
                yield Mutant(path.relative_to(ROOT), number)


def survives(mutant: Mutant, copy: Path) -> bool:
    """Whether all tests pass without the call."""
    mutant.apply(copy)
    try:
        _build(copy)
        return all(_pass(copy, selection) for selection in _SELECTIONS)
    finally:
        shutil.copy(ROOT / mutant.path, copy / mutant.path)


def _build(copy: Path) -> None:
    environment = {**os.environ, "FUSED_RESNET_EMULATOR": "1", "FUSED_RESNET_CUDA": "0"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True)


def _pass(copy: Path, selection: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "auto", "-m", "emulated", *selection]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    passed, failed = done.returncode == 0, " failed" in done.stdout  # stopped early, pytest ends with 1 or 2
    if passed == failed:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return passed


def _copy_of_sources(folder: Path) -> Path:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def main() -> int:
    """Tries the mutants, and prints those that survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PLACE", help="these alone")
    parser.add_argument("--from", dest="first", metavar="PLACE", help="this one and those behind it")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in mutants() if not arguments.only or str(mutant) in arguments.only]
    if arguments.first:
        chosen = chosen[[*map(str, chosen)].index(arguments.first) :]
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = _copy_of_sources(Path(folder))
        for mutant in (progress := tqdm(chosen)):
            progress.set_description(str(mutant))
            if survives(mutant, copy):
                survivors.append(mutant)
                tqdm.write(f"{mutant} survives")
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants are seen")
    return bool(survivors)


if __name__ == "__main__":
    raise SystemExit(main())
