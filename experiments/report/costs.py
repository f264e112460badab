"""What it takes to reach the target: clouds of costs, and costs by a choice."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import labels, style

_MASS = 0.75  # of a cloud's density, within its outline


def clouds(costs: Mapping[str, np.ndarray], title: str) -> Figure:
    """Bytes against steps, [n, 2] of each algorithm's runs: a cloud for each.

    The shade holds three quarters of a kernel density of the runs, in
    logarithms; the large marker is their geometric mean.
    """
    fig = style.figure(6.4, 4.4)
    axes = fig.add_subplot()
    under = np.concatenate(list(costs.values()))
    _scale(axes.xaxis, under[:, 0])
    _scale(axes.yaxis, under[:, 1], "B")
    names = []
    for name, points in costs.items():
        look, logs = style.LOOKS[name], np.log10(points)
        if len(points) > 2:
            _shade(axes, logs, look.colour)
        axes.scatter(
            *points.T,
            s=16, marker=look.marker, color=look.colour, alpha=0.55,
            linewidth=0, zorder=3,
        )  # fmt: skip
        centre = 10 ** logs.mean(0)
        axes.plot(
            *centre,
            look.marker,
            color=look.colour,
            markersize=10,
            markeredgecolor=style.PAPER,
            markeredgewidth=1.2,
            zorder=5,
        )
        runs = f"{len(points)} run{'s' if len(points) > 1 else ''}"
        names.append(labels.Label(*centre, f"{look.name}\n{runs}", look.colour))
    axes.set_xlabel("in-parallel steps to the target (log scale)")
    axes.set_ylabel("sent to the target, paper's formulas (log scale)")
    axes.set_title(title)
    labels.label_near(axes, names, under)
    return fig


def _scale(axis: Any, values: np.ndarray, unit: str = "") -> None:
    """A log scale with room for the clouds around the points."""
    style.log_axis(axis, [values.min() / 1.35, values.max() * 1.35], unit)


def _shade(axes: Any, logs: np.ndarray, colour: str) -> None:
    """Fills where the density of the points is highest."""
    width = np.maximum(logs.std(0) * len(logs) ** (-1 / 6), 0.03)
    low, high = logs.min(0) - 4 * width, logs.max(0) + 4 * width
    x, y = (np.linspace(a, b, 120) for a, b in zip(low, high, strict=True))
    density = np.einsum(
        "ni,nj->ji",
        np.exp(-0.5 * ((x - logs[:, :1]) / width[0]) ** 2),
        np.exp(-0.5 * ((y - logs[:, 1:]) / width[1]) ** 2),
    )
    falling = np.sort(density.ravel())[::-1]
    inside = np.searchsorted(np.cumsum(falling), _MASS * falling.sum())
    axes.contourf(
        10**x, 10**y, density,
        levels=[falling[inside], density.max() * 1.01],
        colors=[colour], alpha=0.16, zorder=1,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Line:
    """A cost at several values of theta or K.

    Attributes:
        algorithm: decides colour and marker.
        text: beside its last point.
        x: the values; a single NaN for a cost that does not depend on it.
        cost: (median, smallest, largest) over the seeds [n, 3].
        dash: which line style.
    """

    algorithm: str
    text: str
    x: Sequence[float]
    cost: np.ndarray
    dash: int = 0


def against(
    lines: Sequence[Line], x_label: str, y_label: str, title: str
) -> Figure:
    """Costs against theta or K; a line with x NaN is level across it."""
    fig = style.figure(6.4, max(4.0, 1.0 + 0.16 * len(lines)))
    axes = fig.add_subplot()
    xs = [x for line in lines for x in line.x if not np.isnan(x)]
    costs = np.concatenate([line.cost for line in lines])
    style.log_axis(axes.xaxis, xs)
    if len(set(xs)) < 9:
        axes.set_xticks(sorted(set(xs)))
    unit = "B" if y_label.startswith("sent") else ""
    style.log_axis(axes.yaxis, costs.ravel(), unit)
    # A little apart, so that equal costs do not hide each other.
    places = (np.arange(len(lines)) + 0.5) / len(lines) - 0.5
    asides = (max(xs) / min(xs)) ** (0.03 * places)
    names = [
        _level(axes, line) if np.isnan(line.x[0]) else _line(axes, line, aside)
        for line, aside in zip(lines, asides, strict=True)
    ]
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title)
    labels.label_right(axes, names)
    return fig


def _level(axes: Any, line: Line) -> labels.Label:
    """Draws a cost that does not depend on x; returns its name."""
    colour, middle = style.LOOKS[line.algorithm].colour, line.cost[0, 0]
    axes.axhline(
        middle, color=colour, linestyle=style.dashes(line.dash), linewidth=1.2
    )
    return labels.Label(axes.get_xlim()[1], middle, line.text, colour, away=0)


def _line(axes: Any, line: Line, aside: float) -> labels.Label:
    """Draws medians and ranges, x times a factor; returns the line's name."""
    look, x = style.LOOKS[line.algorithm], np.asarray(line.x) * aside
    middle, low, high = line.cost.T
    axes.errorbar(
        x, middle, (middle - low, high - middle),
        marker=look.marker, color=look.colour,
        linestyle=style.dashes(line.dash),
        markersize=5.5, markeredgecolor=style.PAPER,
        markeredgewidth=0.6, elinewidth=0.9, capsize=2,
    )  # fmt: skip
    return labels.Label(x[-1], middle[-1], line.text, look.colour)
