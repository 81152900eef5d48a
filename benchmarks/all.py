"""Runs the benchmarks one after the other and keeps their results.

Each with its own defaults for the device, in a process of its own. FOLDER
gets NAME-DEVICE.json and a picture of each. One that fails does not keep the
others from running; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from . import options

NAMES = ("memory", "emulated", "tail", "training", "scaling", "shortcuts")
_ROOT = Path(__file__).parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    parser.add_argument(
        "--only", type=options.one_or_more_of(NAMES), metavar="NAME,...", help=f"of {', '.join(NAMES)}; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run of each: its numbers mean nothing")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=_ROOT / "benchmarks" / "results",
        help="default: benchmarks/results in the repository",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs those that are asked for; the exit status is 1 where one of them failed."""
    device = options.device_of(arguments.device)
    failed = []
    for name in arguments.only or NAMES:
        print(f"\n{name}\n{'=' * len(name)}", flush=True)
        if subprocess.run(_command(name, device.type, str(device), arguments), cwd=_ROOT).returncode:
            failed.append(name)
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def _command(name: str, kind: str, device: str, arguments: argparse.Namespace) -> list[str]:
    """The emulator is on the CPU also where the others are on a GPU."""
    emulated = name == "emulated"
    file = arguments.output.resolve() / f"{name}-{'cpu' if emulated else kind}"
    files = ["--json", str(file.with_suffix(".json")), "--plot", str(file.with_suffix(".svg"))]
    quick = ["--quick"] if arguments.quick else []
    return [sys.executable, "-m", "benchmarks", name, "--device", "cpu" if emulated else device, *files, *quick]
