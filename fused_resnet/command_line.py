"""``python -m fused_resnet``: each command's help is the docstring of its module."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import ModuleType

from .doctor import command as doctor
from .kernel_build import command as build_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status. Wrong arguments exit with 2."""
    parser = argparse.ArgumentParser(prog="python -m fused_resnet")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "build", "compile the CUDA kernels for the PyTorch and the GPUs that are here", build_command)
    examine = _add(commands, "doctor", "examine this installation and run every kernel", doctor)
    examine.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_text: str, module: ModuleType
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=help_text, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=module.run)
    return parser
