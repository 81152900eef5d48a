"""Runs one benchmark: ``python -m benchmarks [NAME] [options]``.

A benchmark is a module or package ``benchmarks.NAME`` listed below, whose docstring is its help text and which has
``add_arguments(parser)`` and ``run(arguments) -> exit status``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from .errors import UserError, check_dependencies

DEFAULT = "demo"
BENCHMARKS = {
    "demo": "everything at once, in a few minutes: learning, time, saved activations and accuracy",
    "tail": "time of every tail of the ResNets against PyTorch's other ways, on a roofline",
    "training": "whole ResNets: images a second, peak memory, the largest batch that fits",
    "phases": "each phase of the kernels by itself, beside eager operations; needs a GPU",
    "host": "microseconds that tails and blocks take to queue, fused against unfused",
    "model": "time of each phase by what is counted, for kernels that no GPU has met; needs no GPU",
    "calibrate": "what a tail's way is chosen by, from the times of phases",
    "memory": "saved activations of blocks and models, exact",
    "emulated": "bytes and launches of every tail as the kernels make them, against the formulas; needs no GPU",
    "scaling": "time against rows, channels, batch and the number of processes",
    "shortcuts": "the study: what a shortcut does to learning (docs/shortcuts.md)",
    "all": "tail, training, memory, emulated, scaling and shortcuts in a row, with their results kept",
    "compare": "two result files side by side",
    "report": "one HTML page with all results",
    "figures": "draws the pictures of all results again, and the README's tables",
}
# What `benchmarks.gpu` runs on machines that may have PyTorch alone; they need more to draw.
BARE = ("tail", "phases", "training")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark that ``argv`` (default: the command line) names and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else DEFAULT
    try:
        return _run(name, arguments)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


def _run(name: str, arguments: list[str]) -> int:
    if name not in BENCHMARKS:
        raise UserError(f"there is no benchmark {name!r}, expected one of {', '.join(map(repr, BENCHMARKS))}")
    if name not in BARE:
        check_dependencies()
    benchmark = importlib.import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=benchmark.__doc__,
        epilog="\n".join(["benchmarks:", *(f"  {name:<10} {what}" for name, what in BENCHMARKS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark.add_arguments(parser)
    status: int = benchmark.run(parser.parse_args(arguments))
    return status


if __name__ == "__main__":
    sys.exit(main())
