"""The result's columns: a row is a tail or a block, in float32 or under autocast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..result import Column, Row, number

NETWORK = "resnet50"
# How many blocks of the network are of a kind.
BLOCKS_OF_NETWORK = {"projection+projection": 4, "projection+identity": 12}
SIDES, DIRECTIONS = ("unfused", "fused"), ("forward", "backward")

COLUMNS = [
    Column("what", "key"),  # "tail", "own block" or "torchvision block"
    Column("kind", "key"),  # of both branches
    Column("precision", "key"),
    *(Column(f"{side} {way}", "measured", "us", better="lower") for side in SIDES for way in DIRECTIONS),
    Column("ratio", "measured", better="lower"),  # of the sums of both directions
]


def summed(rows: Sequence[Row]) -> Iterator[Row]:
    """A row for all of the network, of each kind of thing in each precision."""
    for what, precision in dict.fromkeys((row["what"], row["precision"]) for row in rows):
        weighted = [
            (BLOCKS_OF_NETWORK[str(row["kind"])], row)
            for row in rows
            if row["what"] == what and row["precision"] == precision and row["kind"] in BLOCKS_OF_NETWORK
        ]
        sums = {
            f"{side} {way}": sum(count * (number(row[f"{side} {way}"]) or 0.0) for count, row in weighted)
            for side in SIDES
            for way in DIRECTIONS
        }
        unfused, fused = (sum(sums[f"{side} {way}"] for way in DIRECTIONS) for side in SIDES)
        yield {"what": what, "kind": NETWORK, "precision": precision, **sums, "ratio": fused / unfused}
