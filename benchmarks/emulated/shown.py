"""The counts as one picture, a row of bars for each kind of tail; in words and in a few rows."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .. import pictures
from ..pictures import COLOURS, INK
from ..result import Result, Row, amount

_MODES = {"training": "blue", "evaluation": "grey"}
_LABELS = {"training": "training", "evaluation": "frozen norms"}
_TITLES = {
    ("resnet50", "projection"): "ResNet-50 to -152, conv3 inside the tail",
    ("resnet50", "direct"): "ResNet-50 to -152, conv3 left to cuDNN and not counted",
    ("wide_resnet50_2", "projection"): "Wide ResNets, conv3 inside the tail",
    ("resnet18", "direct"): "ResNet-18 and -34",
    ("resnet20", "direct"): "CIFAR's ResNets, options A and B",
    ("resnet20-B", "direct"): "CIFAR's ResNets, options A and B",
}
# Forward is below, and solid.
_BACKWARD_ALPHA = 0.5
_WIDTH = 0.27
# By mode and direction.
_Rows = dict[tuple[str, str], Row]


def by_tail(result: Result) -> dict[str, _Rows]:
    """Rows of each tail."""
    tails: dict[str, _Rows] = {}
    for row in result.rows:
        tails.setdefault(str(row["tail"]), {})[str(row["mode"]), str(row["direction"])] = row
    return tails


def passes(row: Row) -> float:
    """Bytes read and written, in units of y's."""
    return amount(row, "read") + amount(row, "written")


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
        both = (
            " + ".join(f"{round(passes(rows[mode, way]), 2):g}" for way in ("forward", "backward")) for mode in _MODES
        )
        different = sorted(
            {what for row in rows.values() if row.get("differs") for what in str(row["differs"]).split(", ")}
        )
        verdict = f"differs: {', '.join(different)}" if different else "equal"
        alike.setdefault((f"{network} ({branches})", *both, verdict), []).append(block)
    header = [
        "passes over y, forward + backward",
        "training (counted)",
        "frozen norms (counted)",
        "against the formulas",
    ]
    return header, [[f"{key[0]} {', '.join(blocks)}", *key[1:]] for key, blocks in alike.items()]


def draw(result: Result) -> Figure:
    """Bars of counted bytes in units of y's, forward and backward, with the formulas' marks."""
    groups: dict[str, dict[str, _Rows]] = {}
    for tail, rows in by_tail(result).items():
        network, block, branches = tail.split(" ")
        main, shortcut = branches.split("+")
        groups.setdefault(_TITLES[network, main], {})[f"{block.removeprefix('layer')}\n{shortcut}"] = rows
    with pictures.style():
        figure = Figure(figsize=(10, 0.9 + 2.9 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 1, squeeze=False, sharey=True)[:, 0]
        for axes, (name, tails) in zip(panels, groups.items(), strict=True):
            _draw_group(axes, name, tails)
        present = {row["mode"] for row in result.rows}
        handles: list[Patch | Line2D] = [
            Patch(color=COLOURS[colour], label=_LABELS[mode]) for mode, colour in _MODES.items() if mode in present
        ]
        handles.append(Patch(color=COLOURS["grey"], alpha=_BACKWARD_ALPHA, label="faded: backward"))
        handles.append(Line2D([], [], color=INK, linewidth=1.6, label="by formula"))
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        what = "counted in the emulator; weights, vectors and partial sums left out"
        figure.supxlabel(f"{result.settings['dtype']}, {what}", fontsize=10)
    return figure


def _draw_group(axes: Axes, title: str, tails: dict[str, _Rows]) -> None:
    for place, rows in enumerate(tails.values()):
        modes = [mode for mode in _MODES if (mode, "forward") in rows]
        for mode, (offset,) in zip(modes, pictures.places(len(modes), 1, 0.29 * len(modes)), strict=True):
            colour = COLOURS[_MODES[mode]]
            _draw_bar(axes, place + offset, colour, rows[mode, "forward"], rows[mode, "backward"])
    axes.set_xticks(range(len(tails)), list(tails))
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, max(7, len(tails)) - 0.5)
    axes.margins(y=0.1)
    axes.set_ylabel("passes over y")
    axes.set_title(title)
    axes.grid(axis="y")


def _draw_bar(axes: Axes, x: float, colour: str, forward: Row, backward: Row) -> None:
    lower, upper = passes(forward), passes(backward)
    axes.bar(x, lower, _WIDTH, color=colour)
    axes.bar(x, upper, _WIDTH, bottom=lower, color=colour, alpha=_BACKWARD_ALPHA)
    for height in (amount(forward, "formula"), amount(forward, "formula") + amount(backward, "formula")):
        axes.plot([x - _WIDTH / 2 - 0.02, x + _WIDTH / 2 + 0.02], [height] * 2, color=INK, linewidth=1.6)
    label = f"{'≠ ' if forward.get('differs') or backward.get('differs') else ''}{lower + upper:.4g}"
    axes.annotate(label, (x, lower + upper), (0, 3), textcoords="offset points", ha="center", fontsize=8)
