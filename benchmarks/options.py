"""The options that benchmarks share, and what is done with a finished result."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from . import pictures
from .collection import shown
from .errors import UserError, check_dependencies
from .result import Result, provenance_line

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser, *, quick: str) -> None:
    """Adds ``--device``, ``--dtype``, ``--json``, ``--plot`` and ``--quick``; `quick` tells how long that takes."""
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, bfloat16 on a GPU")
    add_file_arguments(parser)
    parser.add_argument("--quick", action="store_true", help=f"a smoke run, {quick}: its numbers mean nothing")


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--json`` and ``--plot`` alone."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    suffixes = ", ".join(pictures.SUFFIXES)
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw the result: {suffixes} by the name's end")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Adds ``--backend``."""
    names = ("auto", "cuda", "emulated", "reference")
    parser.add_argument("--backend", choices=names, default="auto", help="what computes the fused tails")


def device_of(name: str | None) -> torch.device:
    """The device that is asked for, or the default.

    Raises:
        UserError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device is {name!r}, expected cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device is {name!r}, but PyTorch sees {torch.cuda.device_count()} GPUs")
    return device


def prepared(device: torch.device) -> torch.device:
    """The device for a benchmark of tails: a GPU becomes the current one, with its number."""
    if device.type != "cuda":
        return device
    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)
    # As whoever trains a network of fixed sizes has it.
    torch.backends.cudnn.benchmark = True
    return device


def dtype_of(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype that is asked for, or the device's default."""
    return DTYPES[name or ("bfloat16" if device.type == "cuda" else "float32")]


def name_of(dtype: torch.dtype) -> str:
    """Such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def check_files(arguments: argparse.Namespace) -> None:
    """Refuses, before anything is run, what could not be written at its end."""
    if arguments.plot is not None:
        check_dependencies()
        if arguments.plot.suffix not in pictures.SUFFIXES:
            suffixes = " or ".join(pictures.SUFFIXES)
            raise UserError(f"--plot is '{arguments.plot}', expected a name that ends in {suffixes}")
    for path in filter(None, (arguments.json, arguments.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)


def finish(result: Result, arguments: argparse.Namespace) -> None:
    """Prints the result and writes the files that are asked for."""
    print(f"{provenance_line(result)}\n\n{result.table()}\n")
    for note in result.notes:
        print(f"- {note}")
    write(result, arguments)


def write(result: Result, arguments: argparse.Namespace) -> None:
    """Writes the files that are asked for."""
    keep(result, arguments)
    if arguments.plot is not None:
        pictures.save(shown(result).draw(result), arguments.plot)
    if written := [str(path) for path in (arguments.json, arguments.plot) if path is not None]:
        print(f"Written: {', '.join(written)}")


def keep(result: Result, arguments: argparse.Namespace) -> None:
    """Writes the JSON file, where one is asked for: also while the result grows."""
    if arguments.json is not None:
        result.write(arguments.json)


def at_least(least: int) -> Callable[[str], int]:
    """An argument's type: an integer that is not below `least`."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"is {text}, expected at least {least}")
        return int(text)

    return integer


def one_or_more_of(names: Collection[str]) -> Callable[[str], list[str]]:
    """An argument's type: names among `names`, separated by commas."""

    def chosen(text: str) -> list[str]:
        asked = text.split(",")
        if unknown := [name for name in asked if name not in names]:
            raise argparse.ArgumentTypeError(f"is {', '.join(unknown)}, expected some of {', '.join(names)}")
        return asked

    return chosen
