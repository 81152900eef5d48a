"""Rows and notes from what the processes report."""

from __future__ import annotations

from typing import Any

from ..networks import EAGER
from ..result import Column, Result, Row, Spread, amount
from .job import Job
from .processes import Item

APART = ("host", "graph", "device")
COLUMNS = [
    Column("model", "key"),
    Column("size", "key", "px"),
    Column("batch", "key"),
    Column("way", "key"),
    Column("step", "measured", "ms", "lower"),
    Column("images/s", "measured", "", "higher"),
    Column("time / eager", "measured", "", "lower"),
    *(Column(name, "measured", "ms", "lower") for name in APART),
    Column("peak", "measured", "MB", "lower"),
    Column("held", "measured", "MB", "lower", shown=False),
    Column("largest batch", "measured", "images", "higher"),
]


class Collected:
    """A result that grows."""

    def __init__(self, result: Result, on_cpu: bool) -> None:
        self.result = result
        result.details.update(losses=[], longest=[], failures=[])
        record = ", by the profiler's record; libraries' own workspaces are not in it" if on_cpu else ""
        result.notes.append(f"Peak memory is what PyTorch's allocator had handed out at a step's height{record}.")

    def take(self, job: Job, items: list[Item]) -> None:
        """What a job's process reported."""
        merged: dict[str, dict[str, Any]] = {}
        for item in items:
            merged.setdefault(item["way"], {}).update(item)
        seconds = {way: item["seconds"] for way, item in merged.items() if len(item.get("seconds", ())) > 1}
        for way, item in merged.items():
            if "failed" in item or "left_out" in item:
                self._fail(job, way, item)
            if way in seconds:
                self.result.rows.append(_row(job, way, item, seconds))
                self._keep_details({"model": job.model, "batch": job.batch, "way": way}, item)
            self._set_largest(job.model, way, item.get("largest"))

    def _keep_details(self, of: dict[str, Any], item: Item) -> None:
        """Losses of the first steps; the kernels that take longest."""
        if "losses" in item:
            self.result.details["losses"].append({**of, "losses": item["losses"]})
        if "apart" in item:
            self.result.details["longest"].append({**of, "kernels": item["apart"]["longest"]})
            if why := item["apart"].get("not captured"):
                self.result.notes.append(f"{of['model']}, batch {of['batch']}, {of['way']}: not captured: {why}")

    def extrapolate(self, limit: int) -> None:
        """On a CPU, the largest batch of every way whose peaks with two batches are known."""
        self.result.notes.append(
            f"The largest batch is what would fit into {limit / 2**30:.0f} GiB, computed from the peaks of two batches"
            " and not tried; a way with one batch has none."
        )
        for model, way in dict.fromkeys((row["model"], row["way"]) for row in self.result.rows):
            peaks = {int(amount(row, "batch")): int(amount(row, "peak") * 1e6) for row in self._rows(model, way)}
            self._set_largest(model, way, extrapolated(peaks, limit))

    def _rows(self, model: object, way: object) -> list[Row]:
        return [row for row in self.result.rows if (row["model"], row["way"]) == (model, way)]

    def _set_largest(self, model: object, way: object, largest: int | None) -> None:
        """In the row of the largest batch that was timed."""
        if largest is not None and (rows := self._rows(model, way)):
            rows[-1]["largest batch"] = largest

    def _fail(self, job: Job, way: str, item: Item) -> None:
        where = f"{job.model}, {'its largest batch' if job.search_from else f'batch {job.batch}'}, {way}"
        self.result.notes.append(f"{where}: {item.get('failed', 'no time was left.')}")
        if "failed" in item:
            failure = {"where": where, "way": way, "kind": item["kind"], "what": item["failed"]}
            self.result.details["failures"].append(failure)


def _row(job: Job, way: str, item: Item, seconds: dict[str, list[float]]) -> Row:
    own, eager = seconds[way], seconds.get(EAGER)
    return {
        "model": job.model,
        "size": job.size,
        "batch": job.batch,
        "way": way,
        "step": Spread.of([one * 1e3 for one in own]),
        "images/s": Spread.of([job.batch / one for one in own]),
        "time / eager": Spread.of_ratios(own, eager) if eager and way != EAGER else None,
        **{name: item.get("apart", {}).get(name) for name in APART},
        "peak": item["peak_bytes"] / 1e6,
        "held": item["held_bytes"] / 1e6,
    }


def extrapolated(peaks: dict[int, int], limit: float) -> int | None:
    """What would fit into `limit` bytes, where peaks grow by the same for each image: from those of two batches."""
    if len(peaks) < 2:
        return None
    (small, low), *_, (large, high) = sorted(peaks.items())
    an_image = (high - low) / (large - small)
    return int((limit - low) / an_image + small) if an_image > 0 else None
