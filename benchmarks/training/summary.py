"""What training comes to, in words and in a small table."""

from __future__ import annotations

from ..network_ways import EAGER
from ..result import Result, Row, number, text


def timed(result: Result) -> dict[tuple[str, int], dict[str, Row]]:
    """Rows by network and batch, then by way."""
    rows: dict[tuple[str, int], dict[str, Row]] = {}
    for row in result.rows:
        rows.setdefault((str(row["model"]), int(number(row["batch"]) or 0)), {})[str(row["way"])] = row
    return rows


def largest_batches(result: Result) -> dict[tuple[str, int], dict[str, Row]]:
    """Those of `timed` with each network's largest batch."""
    last = {model: (model, batch) for model, batch in sorted(timed(result))}
    return {key: rows for key, rows in timed(result).items() if key in last.values()}


def caption(result: Result) -> str:
    """For the picture: what is shown, and on what it was measured."""
    what = "Evaluation" if result.settings.get("mode") == "evaluation" else "Training steps"
    return (
        f"{what} of whole ResNets on synthetic images in each way: images a second with the quartiles, and peak"
        f" memory. Measured on {result.provenance.device}, {result.settings['dtype']}, with the"
        f" {result.provenance.backend} backend."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line a network and way, with the largest batch that was timed."""
    header = ["network, batch", "way", "images/s (measured)", "time / eager (measured)", "peak, MB (measured)"]
    header.append(f"largest batch ({'computed' if result.settings['device'] == 'cpu' else 'measured'})")
    lines = []
    for (model, batch), rows in largest_batches(result).items():
        for way, row in rows.items():
            peak = number(row["peak"]) or 0.0
            cells = [text(row["images/s"]), "" if way == EAGER else text(row["time / eager"]), f"{peak:,.0f}"]
            cells.append(text(row.get("largest batch")))
            lines.append([f"{model}, {batch}", way, *cells])
    return header, lines
