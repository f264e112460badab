"""Test accuracy against bytes sent, or against steps: a curve per run."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import lines, ticker
from matplotlib.figure import Figure

from experiments import labels, results, style

_DIRECT = 5  # more names than these would hide each other


@dataclasses.dataclass(frozen=True)
class Curve:
    """A run as the picture shows it.

    Attributes:
        algorithm: decides colour and marker.
        rows: of its metrics.csv.
        text: written beside its end; none for a thin line without a name.
        dash: which line style: it tells apart runs of one algorithm.
    """

    algorithm: str
    rows: Sequence[Mapping[str, float]]
    text: str = ""
    dash: int = 0

    def points(self, x: str = "bytes") -> np.ndarray:
        """(bytes or steps, accuracy) [n, 2], from the first models sent on.

        Before them a few numbers may have been sent; if nothing else ever
        was, from those on.
        """
        sent = [row for row in self.rows if results.paper_bytes(row) > 0]
        found = [
            (
                results.paper_bytes(row) if x == "bytes" else row["step"],
                row["test_accuracy"],
            )
            for row in [row for row in sent if row["syncs"] > 0] or sent
        ]
        return np.array(found, float).reshape(-1, 2)


class _Accuracies(ticker.MaxNLocator):
    """Ticks at round accuracies, none above 1."""

    def tick_values(self, vmin, vmax):
        return super().tick_values(vmin, min(vmax, 1.0))


def draw(
    curves: Sequence[Curve], target: float, title: str, path: pathlib.Path
) -> None:
    """Saves accuracy against bytes as a PNG; see `accuracy`."""
    with style.drawing():
        accuracy(curves, target, title).savefig(path)


def accuracy(
    curves: Sequence[Curve], target: float, title: str, x: str = "bytes"
) -> Figure:
    """Draws the curves."""
    curves = [curve for curve in curves if len(curve.points())]
    figure = style.figure(6.4, 4.2)
    axes = figure.add_subplot()
    for curve in curves:
        _line(axes, curve, x)
    _frame(axes, curves, target, title, x)
    ends = [
        labels.Label(
            *curve.points(x)[-1],
            curve.text,
            style.LOOKS[curve.algorithm].colour,
        )
        for curve in curves
        if curve.text
    ]
    if len(ends) > _DIRECT:
        _legend(figure, curves)
    else:
        under = np.concatenate([curve.points(x) for curve in curves])
        labels.label_near(axes, ends, under)
    return figure


def _legend(figure: Figure, curves: Sequence[Curve]) -> None:
    """Names below the axes, in the order of the bytes sent."""
    named = [curve for curve in curves if curve.text]
    named.sort(key=lambda curve: curve.points()[-1, 0])
    handles = [
        lines.Line2D(
            [], [],
            color=style.LOOKS[curve.algorithm].colour,
            linestyle=style.dashes(curve.dash),
            marker=style.LOOKS[curve.algorithm].marker,
            label=curve.text.replace("\n", ": "),
        )
        for curve in named
    ]  # fmt: skip
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
        handlelength=3.2,
        columnspacing=1.6,
    )


def _line(axes: Any, curve: Curve, x: str) -> None:
    look, named = style.LOOKS[curve.algorithm], bool(curve.text)
    axes.plot(
        *curve.points(x).T,
        color=look.colour,
        linestyle=style.dashes(curve.dash),
        linewidth=1.6 if named else 0.7,
        alpha=1 if named else 0.45,
        zorder=3 if named else 2,
    )
    axes.plot(
        *curve.points(x)[-1],
        look.marker,
        color=look.colour,
        markersize=6 if named else 3,
        markeredgecolor=style.PAPER,
        markeredgewidth=0.6,
        zorder=4,
        clip_on=False,
    )


def _frame(
    axes: Any, curves: Sequence[Curve], target: float, title: str, x: str
) -> None:
    """Scales, units, the target and as little ink as possible."""
    across, reached = np.concatenate([c.points(x) for c in curves]).T
    if x == "bytes":
        style.log_axis(axes.xaxis, across, "B")
        axes.set_xlabel("sent by all workers until then (log scale)")
    else:
        axes.set_xlim(0, across.max() * 1.12)
        axes.set_xlabel("in-parallel steps")
    ends = [curve.points(x)[-1, 1] for curve in curves]
    floor = min(
        max(min(reached), target - 3 * (1 - target) - 0.1), *ends, target
    )
    direct = sum(bool(curve.text) for curve in curves) <= _DIRECT
    room = max(1.0 - floor, 0.05) * (0.16 if direct else 0.08)
    axes.set_ylim(floor - room / 4, max(target, max(reached)) + room)
    # No accuracy is above 1, though names may stand there.
    axes.yaxis.set_major_locator(_Accuracies(6, steps=[1, 2, 5, 10]))
    axes.set_ylabel("test accuracy")
    axes.axhline(
        target, color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.9
    )
    axes.annotate(
        f"target {target:g}",
        (0, target),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        color=style.MUTED,
        fontsize=8,
    )
    axes.set_title(title)
