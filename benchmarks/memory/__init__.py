"""Saved activations of whole networks and of single blocks: what a training step's forward pass keeps for backward.

Counted to the byte on tensors that have sizes alone, so no network is computed and no memory is needed. Parameters,
buffers, gradients and the optimizer's state are left out. A storage counts once, however many tensors view it. What
torch.compile saves is what its partitioner decides for "inductor". Fused tails save what the kernels need; on a CPU
without the emulator, what plain PyTorch needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from .. import emulator, network_ways, networks, options
from ..errors import UserError
from ..network_ways import EAGER, FUSED, RECOMPUTE
from ..progress import progress
from ..provenance import provenance
from ..result import Column, Result, Row
from .cases import Conditions, Saved, count
from .shown import REST, WHOLE

_OWN = [name for name in networks.OWN if name != networks.TINY]
_MODELS = [*_OWN, "torchvision:resnet50", "timm:resnet50d", "timm:seresnet50"]
_QUICK_MODELS = ["resnet18", "resnet50", "resnet20-A", "torchvision:resnet50"]
_BLOCKS = ["resnet50"]
_WAYS = (EAGER, FUSED, RECOMPUTE)
# Tracing a network for torch.compile takes long.
_COMPILED = ["resnet18", "resnet50"]
_COLUMNS = [
    Column("model", "key"),
    Column("block", "key"),
    Column("way", "key"),
    Column("saved", "counted", "B", "lower"),
    Column("an image", "counted", "MB", "lower"),
    Column("ratio to eager", "counted", "", "lower"),
    Column("fused tails", "counted"),
    Column("refused tails", "counted"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's options."""
    options.add_arguments(parser, quick="a few networks on small images")
    parser.add_argument(
        "--models",
        type=networks.names,
        metavar="NAMES",
        help=f"separated by commas: {networks.EXPECTED}; default: {','.join(_MODELS)}",
    )
    parser.add_argument(
        "--blocks", type=networks.names, metavar="NAMES", help="networks counted block by block; default: resnet50"
    )
    parser.add_argument(
        "--ways",
        type=options.one_or_more_of(network_ways.WAYS),
        metavar="NAMES",
        help=f"some of {','.join(network_ways.WAYS)}; default: all of {','.join(_COMPILED)}, else {','.join(_WAYS)}",
    )
    parser.add_argument("--batch", type=options.at_least(1), metavar="N", help="images; default: 16")
    parser.add_argument("--size", type=options.at_least(1), metavar="N", help="of images; default: 224, of CIFAR's 32")


def run(arguments: argparse.Namespace) -> int:
    """Counts, prints and writes what is asked for."""
    options.check_files(arguments)
    device = options.device_of(arguments.device)
    dtype = options.dtype_of(arguments.dtype, device)
    quick = arguments.quick
    batch, size = arguments.batch or (2 if quick else 16), arguments.size or (32 if quick else None)
    conditions = Conditions(device, dtype, batch, size)
    models = arguments.models or (_QUICK_MODELS if quick else _MODELS)
    ways = {model: arguments.ways or _ways(model, quick) for model in models}
    result = Result(
        "memory",
        provenance(device, arguments),
        {"batch": batch, "size": size, "dtype": str(dtype).removeprefix("torch."), "device": device.type},
        _COLUMNS,
        [],
    )
    with progress("saved activations", sum(map(len, ways.values()))) as advance:
        for model in models:
            counted = {}
            for way in ways[model]:
                try:
                    counted[way] = count(model, way, conditions, model in (arguments.blocks or _BLOCKS))
                except Exception as error:  # of a library or of the compiler: the others are counted
                    result.notes.append(_failure(model, way, error))
                advance()
            result.rows.extend(_rows(model, counted, batch))
    if device.type == "cpu" and emulator.missing() is not None:
        result.notes.append(
            "Plain PyTorch saves outputs of relus where the kernels save masks of a sixteenth of the size."
        )
    if not result.rows:
        raise UserError(f"nothing was counted: {result.notes[0]}")
    options.finish(result, arguments)
    return 0


def _ways(model: str, quick: bool) -> Sequence[str]:
    return network_ways.WAYS if model in _COMPILED[: 1 if quick else None] else _WAYS


def _failure(model: str, way: str, error: Exception) -> str:
    if isinstance(error, networks.UnavailableError):
        return f"{error}, {way}: left out."
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{model}, {way}: left out, {type(error).__name__}: {text[:200]}"


def _rows(model: str, counted: dict[str, Saved], batch: int) -> Iterator[Row]:
    """The whole network in each way, then each block; what no block saves comes last, so that all of it adds up."""
    for way, saved in counted.items():
        row = _row(model, WHOLE, way, saved.total, batch, counted[EAGER].total if EAGER in counted else None)
        tails = {"fused tails": saved.fused_tails, "refused tails": saved.refused_tails}
        yield {**row, **(tails if network_ways.fuses(way) else {})}
    parts = {way: _parts(saved) for way, saved in counted.items() if saved.blocks}
    for block in next(iter(parts.values()), ()):
        for way, bytes_of in parts.items():
            eager = parts[EAGER][block] if EAGER in parts else None
            yield _row(model, block, way, bytes_of[block], batch, eager)


def _parts(saved: Saved) -> dict[str, int]:
    return {**saved.blocks, REST: saved.total - sum(saved.blocks.values())}


def _row(model: str, block: str, way: str, saved: int, batch: int, eager: int | None) -> dict[str, Any]:
    ratio = saved / eager if eager else None
    return {
        "model": model,
        "block": block,
        "way": way,
        "saved": saved,
        "an image": saved / batch / 1e6,
        "ratio to eager": ratio,
    }
