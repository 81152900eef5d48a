"""The result in a few rows."""

from __future__ import annotations

from collections.abc import Iterator

from ..result import Result, Row, number

# A tail's modes by what is to be read of them; without a projection there is one way to train.
_TRAINING = (("moments", "training"), ("materialise", "training"))


def by_tail(result: Result) -> dict[str, dict[tuple[str, str], Row]]:
    """Rows of each tail by mode and direction."""
    tails: dict[str, dict[tuple[str, str], Row]] = {}
    for row in result.rows:
        tails.setdefault(str(row["tail"]), {})[str(row["mode"]), str(row["direction"])] = row
    return tails


def passes(row: Row) -> float:
    """Bytes read and written, in units of y's."""
    return (number(row.get("read")) or 0.0) + (number(row.get("written")) or 0.0)


def by_formula(row: Row) -> float:
    """The same, as the formula has them."""
    return number(row.get("formula")) or 0.0


def caption(result: Result) -> str:
    """What the picture shows."""
    return (
        f"Bytes that the kernels move for each tail of the ResNets, forward and backward, in passes over its output,"
        f" {result.settings['dtype']}: counted in the emulator on a CPU, not measured, with the formulas' marks."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """Tails with the same counts in one row: forward + backward in passes over the output."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for tail, rows in by_tail(result).items():
        network, block, branches = tail.split(" ")
        cells = (*(_both(rows, modes) for modes in _TRAINING), _both(rows, ("evaluation",)), _verdict(rows))
        alike.setdefault((f"{network} ({branches})", *cells), []).append(block)
    header = ["passes over y, forward + backward", "moments (counted)", "materialise (counted)"]
    header += ["frozen norms (counted)", "against the formulas"]
    return header, [[f"{key[0]} {', '.join(blocks)}", *key[1:]] for key, blocks in alike.items()]


def _both(rows: dict[tuple[str, str], Row], modes: tuple[str, ...]) -> str:
    found = next((mode for mode in modes if (mode, "forward") in rows), None)
    return "" if found is None else " + ".join(f"{passes(rows[found, d]):g}" for d in ("forward", "backward"))


def _verdict(rows: dict[tuple[str, str], Row]) -> str:
    different = sorted({what for row in rows.values() for what in _differences(row)})
    return f"differs: {', '.join(different)}" if different else "equal"


def _differences(row: Row) -> Iterator[str]:
    yield from str(row["differs"]).split(", ") if row.get("differs") else ()
