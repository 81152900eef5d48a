"""Saved activations of whole networks and of single blocks: what a training step's forward pass keeps for backward.

Counted to the byte on tensors that have sizes alone, so no network is computed and no memory is needed. Parameters,
buffers, gradients and the optimizer's state are left out. A storage counts once, however many tensors view it. What
torch.compile saves is what its partitioner decides for "inductor". Fused tails save what the kernels need; on a CPU
without the emulator, what plain PyTorch needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from .. import emulator, networks, options
from ..errors import UserError
from ..networks import EAGER, FUSED, RECOMPUTE, WAYS
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
    ways = f"some of {','.join(WAYS)}; default: all of {','.join(_COMPILED)}, else {','.join(_WAYS)}"
    for name, parse, what in (
        ("models", networks.names, f"of {networks.EXPECTED}; default: {','.join(_MODELS)}"),
        ("blocks", networks.names, "networks counted block by block; default: resnet50"),
        ("ways", options.one_or_more_of(WAYS), ways),
        ("batch", options.at_least(1), "images; default: 16"),
        ("size", options.at_least(1), "of images; default: 224, of CIFAR's 32"),
    ):
        parser.add_argument(f"--{name}", type=parse, metavar="N", help=what)


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
    settings = {"batch": batch, "size": size, "dtype": options.name_of(dtype), "device": device.type}
    result = Result("memory", provenance(device, arguments), settings, _COLUMNS, [])
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
    return WAYS if model in _COMPILED[: 1 if quick else None] else _WAYS


def _failure(model: str, way: str, error: Exception) -> str:
    if isinstance(error, networks.UnavailableError):
        return f"{error}, {way}: left out."
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{model}, {way}: left out, {type(error).__name__}: {text[:200]}"


def _rows(model: str, counted: dict[str, Saved], batch: int) -> Iterator[Row]:
    """The whole network in each way, then each block; what no block saves comes last, so that all of it adds up."""
    parts = {way: {WHOLE: saved.total, **_blocks(saved)} for way, saved in counted.items()}
    for block in dict.fromkeys(block for of in parts.values() for block in of):
        eager = parts.get(EAGER, {}).get(block)
        for way, saved in counted.items():
            if block in parts[way]:
                tails = {"fused tails": saved.fused_tails, "refused tails": saved.refused_tails}
                yield {
                    "model": model,
                    "block": block,
                    "way": way,
                    "saved": parts[way][block],
                    "an image": parts[way][block] / batch / 1e6,
                    "ratio to eager": parts[way][block] / eager if eager else None,
                    **(tails if block == WHOLE and networks.fuses(way) else {}),
                }


def _blocks(saved: Saved) -> dict[str, int]:
    return {**saved.blocks, REST: saved.total - sum(saved.blocks.values())} if saved.blocks else {}
