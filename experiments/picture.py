"""The picture: test accuracy against bytes sent, a curve per algorithm."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from experiments import results

# Okabe and Ito's colours, which colour-blind people can tell apart.
_COLOURS = {
    "synchronous": "#000000",
    "linear": "#0072B2",
    "sketch": "#D55E00",
    "naive": "#009E73",
    "exact": "#CC79A7",
    "max": "#56B4E9",
    "local_sgd": "#E69F00",
}
_OTHERS = "#666666"
_INK = "#444444"


@dataclasses.dataclass(frozen=True)
class Curve:
    """A run as the picture shows it.

    Attributes:
        name: of the algorithm, written beside the curve.
        rows: of its metrics.csv.
        note: a second line under the name.
    """

    name: str
    rows: Sequence[Mapping[str, float]]
    note: str = ""

    @property
    def colour(self) -> str:
        """The algorithm's, the same in every picture."""
        return _COLOURS.get(self.name, _OTHERS)

    @property
    def points(self) -> list[tuple[float, float]]:
        """(bytes, accuracy) of each evaluation after anything was sent."""
        return [
            (results.paper_bytes(row), row["test_accuracy"])
            for row in self.rows
            if results.paper_bytes(row) > 0
        ]


def draw(
    curves: Sequence[Curve], target: float, title: str, path: pathlib.Path
) -> None:
    """Saves the picture as a PNG.

    Args:
        curves: of the runs to compare; those without a point are left out.
        target: test accuracy that all should pass, a dashed line.
        title: what was trained, on whose data.
        path: of the PNG.
    """
    curves = [curve for curve in curves if curve.points]
    figure = Figure(figsize=(7.5, 4.6), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        axes.plot(
            *zip(*curve.points, strict=True),
            "o-",
            color=curve.colour,
            markersize=3.5,
            linewidth=1.6,
        )
    _frame(axes, curves, target, title)
    _name(axes, curves, target)
    figure.savefig(path)


def _frame(
    axes: Any, curves: Sequence[Curve], target: float, title: str
) -> None:
    """Scales, units, the target and as little ink as possible."""
    sent, reached = zip(*(p for c in curves for p in c.points), strict=True)
    axes.set_xscale("log")
    axes.set_xlim(min(sent) / 1.6, max(sent) * 2.2)
    axes.xaxis.set_major_formatter(ticker.EngFormatter("B"))
    axes.set_xlabel("bytes sent by all workers until then (log scale)")
    ends = [curve.points[-1][1] for curve in curves]
    floor = min(
        max(min(reached), target - 3 * (1 - target) - 0.1), *ends, target
    )
    room = max(1.0 - floor, 0.05) * 0.2
    axes.set_ylim(floor - room / 4, max(target, max(reached)) + room)
    axes.set_ylabel("test accuracy")
    axes.axhline(target, color=_INK, linestyle=(0, (4, 3)), linewidth=0.9)
    axes.annotate(
        f"target {target:g}",
        (0, target),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        color=_INK,
        fontsize=9,
    )
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def _name(axes: Any, curves: Sequence[Curve], target: float) -> None:
    """Writes each curve's name near its end, where it hides least."""
    to_axes = axes.transData + axes.transAxes.inverted()
    points = [p for c in curves for p in to_axes.transform(c.points)]
    _, target_height = to_axes.transform((1, target))
    taken = [_Box(0, target_height, 0.13, 0.05)]  # what _frame wrote there
    ends = [(*to_axes.transform(c.points[-1]), c) for c in curves]
    for x, y, curve in sorted(ends, key=lambda end: end[:2]):
        boxes = [_Box(x + dx, y + dy) for dx, dy in _PLACES]
        best = min(boxes, key=lambda box: box.hides(taken, points))
        taken.append(best)
        left = best.x < x - best.width / 2
        axes.text(
            best.x + best.width * left,
            best.y,
            "\n".join(filter(None, [curve.name, curve.note])),
            transform=axes.transAxes,
            ha="right" if left else "left",
            va="bottom",
            color=curve.colour,
            fontsize=9,
            linespacing=1.15,
            in_layout=False,
        )


@dataclasses.dataclass(frozen=True)
class _Box:
    """Where a name may stand, in fractions of the axes."""

    x: float
    y: float
    width: float = 0.2
    height: float = 0.1

    def hides(self, taken: Sequence["_Box"], points: Sequence) -> int:
        """How bad: other names, the edges, and points of curves under it."""
        outside = not (0 <= self.x <= 1 - self.width and 0 <= self.y <= 0.92)
        names = sum(
            self.x < box.x + box.width
            and box.x < self.x + self.width
            and self.y < box.y + box.height
            and box.y < self.y + self.height
            for box in taken
        )
        under = sum(
            0 <= x - self.x <= self.width and 0 <= y - self.y <= self.height
            for x, y in points
        )
        return 100 * (outside + names) + under


# From a curve's end to its name's lower left corner, the best first.
_PLACES = [
    (-0.17, 0.03), (0.02, -0.13), (-0.02, 0.03),
    *((dx, dy / 20) for dy in range(2, 16) for dx in (-0.1, 0.02, -0.2)),
    *((0.03, -dy / 20) for dy in range(3, 16)),
]  # fmt: skip
