"""A benchmark that measures nothing, and results as if it had."""

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec

import pytest
from matplotlib.figure import Figure

from benchmarks import pictures
from benchmarks.provenance import Provenance
from benchmarks.result import Column, Result, Spread

PROVENANCE = Provenance(
    date="2026-01-02T03:04:05+00:00",
    device="Model <T> & Sons",
    cpu="Some CPU",
    cores=2,
    threads=2,
    load_average=0.1,
    system="Linux",
    python="3.11.7",
    torch="2.13.0",
    cuda=None,
    tf32=False,
    fused_resnet="0.1.0",
    commit="0123456789abcdef",
    dirty=False,
    backend="reference",
    arguments={"quick": False, "dtype": "float32"},
)
COLUMNS = [
    Column("tail", "key"),
    Column("direction", "key"),
    Column("time", "measured", "us", "lower"),
    Column("speed", "measured", "images/s", "higher"),
    Column("bytes", "counted", "B", "lower"),
    Column("kernels", "counted", shown=False),
    Column("fits", "counted"),
]


def row(tail, direction, time, speed, nbytes, kernels=1, fits=True):
    return dict(zip([c.name for c in COLUMNS], (tail, direction, time, speed, nbytes, kernels, fits), strict=True))


def sample(**changes):
    """A result of the stand-in."""
    rows = [
        row("layer1.0", "forward", Spread(100.0, 90.0, 110.0), 50.0, 1000),
        row("layer1.0", "backward", Spread(200.0, 190.0, 210.0), 40.0, 2000),
        row("layer2.0", "forward", Spread(400.0, 390.0, 410.0), None, 4000),
    ]
    whole = Result("stand_in", PROVENANCE, {"pairs": 3}, COLUMNS, rows, ["Nothing was <measured>."], {"more": [1, 2]})
    return replace(whole, **changes)


def draw(result):
    with pictures.style():
        figure = Figure(figsize=(10, 4), layout="constrained")
        axes = figure.subplots()
        axes.barh([f"{r['tail']} {r['direction']}" for r in result.rows], [r["bytes"] for r in result.rows])
        axes.set_title("Bytes")
    return figure


def caption(result):
    return f'Bytes of {len(result.rows)} "tails" [counted] on {result.provenance.device}.'


def headline(result):
    return ["tail", "bytes (counted)"], [[f"{r['tail']} | {r['direction']}", f"{r['bytes']:,}"] for r in result.rows]


@pytest.fixture
def stand_in(monkeypatch):
    """The benchmark ``stand_in`` is there."""
    for name in ("benchmarks.stand_in", "benchmarks.stand_in.shown"):
        monkeypatch.setitem(sys.modules, name, module_from_spec(ModuleSpec(name, None)))
    shown = sys.modules["benchmarks.stand_in.shown"]
    shown.draw, shown.caption, shown.headline = draw, caption, headline
