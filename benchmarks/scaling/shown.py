"""All sweeps and the processes as one picture, in words and in a few rows."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from .. import pictures
from ..pictures import COLOURS, FAINT, INK
from ..result import Result, Row, Spread, amount, number, text
from .ranks import SIDES, SWEEP, SYNCHRONISED
from .sizes import SWEEPS

FUSED, EAGER, COMPILED = "fused", "eager", "torch.compile"


def of_sweep(result: Result, sweep: str) -> list[Row]:
    """The sweep's rows, by value; those of `SWEEP` are of processes."""
    return sorted((row for row in result.rows if row["sweep"] == sweep), key=lambda row: amount(row, "value"))


def caption(result: Result) -> str:
    """What the picture shows."""
    of = result.settings
    return (
        f"Measured on {result.provenance.device}: time of forward and backward of one tail ({of['shortcut']} shortcut,"
        f" {of['dtype']}) against rows, channels and batch, fused and eager, and images a second of each of several"
        f" processes that train {of['network'].replace('resnet', 'ResNet-')}."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """The ends of every sweep, and each number of processes."""
    header = ["", "fused (measured)", "eager (measured)", "fused / eager (measured)"]
    sweeps = [of_sweep(result, sweep) for sweep in SWEEPS]
    lines = [_point(row) for rows in sweeps for row in ([rows[0], rows[-1]] if len(rows) > 1 else rows)]
    processes = of_sweep(result, SWEEP)
    for row in processes:
        lines.append([f"ranks = {row['value']}", _rate(row, FUSED), _rate(row, EAGER), text(row["fused / eager"])])
    for row in processes:
        if row.get(f"{SYNCHRONISED} rate") is not None:
            lines.append([f"ranks = {row['value']}, norms of tails synchronised", _rate(row, SYNCHRONISED), "", ""])
    return header, lines


def _point(row: Row) -> list[str]:
    times = [f"{text(number(row[side]))} ms" for side in (FUSED, EAGER)]
    return [f"{row['sweep']} = {row['value']:,} ({row['strategy']})", *times, text(row["fused / eager"])]


def _rate(row: Row, side: str) -> str:
    return f"{text(number(row[f'{side} rate']))} images/s a rank ({row[f'{side} efficiency']:.0%})"


_COLOURS = {
    FUSED: COLOURS["red"],
    EAGER: COLOURS["sky"],
    COMPILED: COLOURS["green"],
    SYNCHRONISED: COLOURS["orange"],
}
_MARKERS = {FUSED: "o", EAGER: "s", COMPILED: "^", SYNCHRONISED: "D"}


def draw(result: Result) -> Figure:
    """Time against each size, where the strategy turns, and efficiency against the number of processes."""
    with pictures.style():
        figure = Figure(figsize=(10, 10), layout="constrained")
        grid = figure.add_gridspec(3, 2)
        first: Axes | None = None
        for place, sweep in enumerate(SWEEPS):
            axes = figure.add_subplot(grid[place // 2, place % 2], sharey=first)
            first = first or axes
            _draw_sweep(axes, sweep, of_sweep(result, sweep))
            if place % 2 == 0:
                axes.set_ylabel("forward + backward [ms]")
        _draw_rates(figure.add_subplot(grid[2, 0]), of_sweep(result, SWEEP), result)
        _draw_efficiency(figure.add_subplot(grid[2, 1]), of_sweep(result, SWEEP))
        drawn = [line for axes in figure.axes for line in axes.get_lines()]
        lines = {str(line.get_label()): line for line in drawn if line.get_label() in _COLOURS}
        figure.legend(list(lines.values()), list(lines), loc="outside upper center", ncols=len(_COLOURS))
        figure.supxlabel(_label(result), fontsize=10)
    return figure


def _label(result: Result) -> str:
    base = result.settings["base"]
    return (
        f"{result.provenance.device}, {result.settings['dtype']}; elsewhere M = {base['M']:,}, K = {base['K']},"
        f" C = {base['C']}, batch {base['batch']}; median and quartiles"
    )


def _draw_sweep(axes: Axes, sweep: str, rows: list[Row]) -> None:
    for side in (EAGER, COMPILED, FUSED):
        timed = [row for row in rows if row.get(side) is not None]
        if timed:
            _draw_line(axes, side, timed)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _plain_ticks(axes, [int(amount(row, "value")) for row in rows])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.12)
    axes.set_title(f"against {sweep}")
    axes.grid()
    _mark_strategies(axes, rows)


def _draw_line(axes: Axes, name: str, rows: list[Row], column: str | None = None) -> None:
    spreads = [value for row in rows if isinstance(value := row[column or name], Spread)]
    values = [int(amount(row, "value")) for row in rows]
    colour = _COLOURS[name]
    lower, upper = ([getattr(spread, edge) for spread in spreads] for edge in ("lower", "upper"))
    axes.fill_between(values, list(lower), list(upper), color=colour, alpha=0.25, linewidth=0)
    axes.plot(values, [s.median for s in spreads], color=colour, marker=_MARKERS[name], linewidth=2, label=name)


def _mark_strategies(axes: Axes, rows: list[Row]) -> None:
    """The strategy's name over each run of points that have it, with a line between two."""
    edges = [i for i in range(1, len(rows)) if rows[i]["strategy"] != rows[i - 1]["strategy"]]
    values = [int(amount(row, "value")) for row in rows]
    for edge in edges:
        axes.axvline((values[edge - 1] * values[edge]) ** 0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for begin, end in zip([0, *edges], [*edges, len(rows)], strict=True):
        if begin < end:
            middle = (values[begin] * values[end - 1]) ** 0.5
            place = axes.get_xaxis_transform()
            name = str(rows[begin]["strategy"])
            axes.text(middle, 0.96, name, transform=place, ha="center", va="top", fontsize=9, style="italic")


def _plain_ticks(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_rates(axes: Axes, rows: list[Row], result: Result) -> None:
    for side in _trained(rows):
        _draw_line(axes, side, rows, f"{side} rate")
    axes.set_title(f"{result.settings['network'].replace('resnet', 'ResNet-')} in several processes")
    axes.set_ylabel("images a second and process")
    _finish_ranks(axes, rows)


def _draw_efficiency(axes: Axes, rows: list[Row]) -> None:
    values = [int(amount(row, "value")) for row in rows]
    for side in _trained(rows):
        heights = [amount(row, f"{side} efficiency") for row in rows]
        axes.plot(values, heights, color=_COLOURS[side], marker=_MARKERS[side], linewidth=2)
    axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_title("against one process (weak scaling)")
    _finish_ranks(axes, rows)


def _trained(rows: list[Row]) -> list[str]:
    return [side for side in SIDES if all(row.get(f"{side} rate") is not None for row in rows)]


def _finish_ranks(axes: Axes, rows: list[Row]) -> None:
    if not rows:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=INK)
    else:
        axes.set_xscale("log", base=2)
        _plain_ticks(axes, [int(amount(row, "value")) for row in rows])
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    axes.set_xlabel("processes")
    axes.grid(color=FAINT)
