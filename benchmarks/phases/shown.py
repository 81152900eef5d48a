"""Each tail's training step in each way, and where its time goes: a picture, words and a small table."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..launches import BACKWARD, BACKWARD_PHASES, FORWARD, FORWARD_PHASES
from ..pictures import COLOURS, FAINT, INK, stacked, style
from ..result import Result, Row, grouped, number, text
from .columns import CONVOLUTION, EAGER, LIBRARY, whole

# A result of earlier kernels has a strategy more.
_WAYS = ("moments", "materialise", "library")


def caption(result: Result) -> str:
    """What the picture shows, for whoever does not see it."""
    settings = result.settings
    return (
        f"Time of {len({row['tail'] for row in result.rows})} residual tails, forward + backward, eager and in each way"
        " of the kernels, cut into phases that were launched alone. Measured on"
        f" {result.provenance.device} ({settings['dtype']}, batches of {settings['batch']}, {result.provenance.backend}"
        " backend)."
    )


def headline(result: Result) -> tuple[list[str], list[list[str]]]:
    """A line a tail: milliseconds of a training step in each way, and the share of a copy's rate that moments reach."""
    present = [way for way in _WAYS if any(row["way"] == way for row in result.rows)]
    header = ["forward + backward, ms (measured)", "blocks", EAGER]
    header += ["library + convolution" if way == LIBRARY else way for way in present]
    header += ["moments, of a copy's rate"]
    return header, [_line(tail, ways, present) for tail, ways in grouped(result.rows, "tail", "way").items()]


def _line(tail: str, ways: dict[str, Row], present: list[str]) -> list[str]:
    # A tail without projections has but one way.
    own = {"moments": ways.get("direct", {}), **{name: row for name, row in ways.items() if name != EAGER}}
    first = next(iter(ways.values()))
    shares = [number(own["moments"].get(f"{direction} of a copy")) for direction in (FORWARD, BACKWARD)]
    cells = [_milliseconds(ways.get(EAGER)), *(_milliseconds(own.get(name)) for name in present)]
    return [tail, _count(first), *cells, " + ".join(f"{share:.0%}" for share in shares if share is not None)]


def _count(row: Row) -> str:
    """How many blocks the row's own network has of it."""
    network = str(row["tail"]).split()[0]
    counts = dict(part.rsplit(" ", 1) for part in str(row["blocks"]).split(", "))
    return counts.get(network, "")


def _milliseconds(row: Row | None) -> str:
    if not row:
        return ""
    directions = [number(row.get(name)) for name in (FORWARD, BACKWARD)]
    return text(whole(row)) if row["way"] == LIBRARY else " + ".join(text(part) for part in directions)


def phases(row: Row) -> list[tuple[str, float]]:
    """Milliseconds of each phase of a row, in their order; of eager operations, of each direction."""
    names = [f"{FORWARD} {phase}" for phase in FORWARD_PHASES] + [f"{BACKWARD} {phase}" for phase in BACKWARD_PHASES]
    found = [(name, number(row.get(name))) for name in names]
    if all(value is None for _, value in found):
        found = [(name, number(row.get(name))) for name in (FORWARD, BACKWARD)]
    return [(name, value) for name, value in found if value is not None]


# Heights, in bars.
_BAR, _ABOVE_TITLE, _BELOW_TITLE = 0.78, 0.35, 0.75
_PHASE_COLOURS = {
    f"{FORWARD} moments": COLOURS["sky"],
    f"{FORWARD} finish": COLOURS["pink"],
    f"{FORWARD} apply": COLOURS["blue"],
    f"{BACKWARD} reduce": COLOURS["orange"],
    f"{BACKWARD} finish": COLOURS["pink"],
    f"{BACKWARD} apply": COLOURS["red"],
    CONVOLUTION[FORWARD]: COLOURS["green"],
    CONVOLUTION[BACKWARD]: COLOURS["green"],
}
_LEGEND = {
    "moments": f"{FORWARD} moments",
    "apply": f"{FORWARD} apply",
    "backward reduce": f"{BACKWARD} reduce",
    "backward apply": f"{BACKWARD} apply",
    "finish": f"{FORWARD} finish",
    "the library's convolution": CONVOLUTION[FORWARD],
}


def draw(result: Result) -> Figure:
    """Bars as long as the way takes, in units of eager operations' time; milliseconds are written at their ends."""
    tails = grouped(result.rows, "tail", "way")
    bars = sum(map(len, tails.values()))
    with style():
        height = 1.7 + 0.23 * (bars + (_ABOVE_TITLE + _BELOW_TITLE) * len(tails))
        figure = Figure(figsize=(10, height), dpi=120, layout="constrained")
        axes = figure.subplots()
        place = 0.0
        ticks: dict[float, str] = {}
        for tail, ways in tails.items():
            place += _ABOVE_TITLE
            axes.text(0, place, tail, transform=axes.get_yaxis_transform(), va="center", fontweight="bold", fontsize=10)
            place += _BELOW_TITLE
            for name, row in ways.items():
                _draw_bar(axes, place, row, whole(ways[EAGER]) if EAGER in ways else None)
                ticks[place] = name
                place += 1
        _finish(axes, ticks, place)
        settings = result.settings
        figure.supxlabel(
            f"Measured on {result.provenance.device}, {settings['dtype']}, batches of {settings['batch']};"
            " phases launched alone, which adds up to a little more or less than the launch of all",
            x=0.01,
            ha="left",
            fontsize=9,
        )
    return figure


def _draw_bar(axes: Axes, place: float, row: Row, eager: float | None) -> None:
    total = whole(row)
    if total is None:
        return
    parts = phases(row) + [(name, value) for name in CONVOLUTION.values() if (value := number(row.get(name)))]
    # Phases apart do not add up to their launch exactly: the bar is as long as the launch.
    scale = total / sum(value for _, value in parts) / (eager or total)
    drawn = [(_PHASE_COLOURS.get(name, COLOURS["grey"]), value * scale) for name, value in parts]
    end = stacked(axes, place, drawn, _BAR)
    axes.text(end + 0.04, place, f"{text(total)} ms", va="center", fontsize=9)


def _finish(axes: Axes, ticks: dict[float, str], end: float) -> None:
    axes.set_title("A tail's training step, forward + backward, in units of eager operations' time", pad=44)
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)
    axes.set_ylim(end - 0.4, -0.3)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.06)
    handles = [Patch(color=_PHASE_COLOURS[phase], label=label) for label, phase in _LEGEND.items()]
    handles.append(Patch(color=COLOURS["grey"], label="eager, either direction"))
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, fontsize=9, borderaxespad=0.2)
