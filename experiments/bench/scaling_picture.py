"""How costs grow, as pictures: points with their spread, and the fits."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import ticker

from experiments import labels, style

_COLOURS = {
    "naive": "#009e73",
    "linear": "#0072b2",
    "sketch, whole": "#d55e00",
    "cascade, quiet": "#e69f00",
    "cascade, crossed": "#cc79a7",
    "check, linear": "#0072b2",
    "check, sketch": "#d55e00",
    "check, cascade": "#e69f00",
    "synchronisation": style.INK,
    "worker-step": "#0072b2",
}
_MARKERS = "sD^vPX"
WORDS = {
    "size": (
        "What a check computes on one worker",
        "model parameters d",
        "a + b·d",
    ),
    "bytes": (
        "A synchronisation of 2 processes over loopback",
        "model parameters d",
        "a + b·d",
    ),
    "workers": (
        "Exchanges over loopback, d = 61,706 (2 cores for all)",
        "processes K",
        "a + b·2(K−1)",
    ),
    "simulated": (
        "A worker-step of LeNet-5 in simulation",
        "simulated workers K",
        "a + b·K",
    ),
    "tensors": (
        "Exchanges of 2 processes, d = 1,000,000",
        "tensors of the model",
        "a + b·n",
    ),
}
_BARE = ("norm", "all-reduce of one float", "all-reduce")


def draw(
    part: str,
    series: Mapping[str, Sequence[tuple]],
    fitted: Mapping[str, Mapping],
    path: pathlib.Path,
) -> None:
    """Draws a part's series and their fits, and writes the picture."""
    title, across, form = WORDS[part]
    with style.drawing():
        figure = style.figure(6.8, 4.2)
        axes = figure.add_subplot()
        ends = []
        for i, (name, points) in enumerate(series.items()):
            colour = _COLOURS.get(name, style.MUTED)
            ends.append(_line(axes, part, name, points, fitted[name], colour))
            x, y, low, high = np.array(points).T
            axes.errorbar(
                x,
                y,
                [np.maximum(y - low, 0), np.maximum(high - y, 0)],
                fmt=_MARKERS[i % len(_MARKERS)],
                color=colour,
                elinewidth=0.8,
            )
        every = [p for points in series.values() for p in points]
        style.log_axis(axes.xaxis, [p[0] for p in every])
        style.log_axis(axes.yaxis, [v for p in every for v in p[1:]], "s")
        if part in ("size", "bytes"):
            axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=" "))
        if part == "workers":
            axes.set_xscale("linear")
            axes.set_xlim(1.6, 8.4)
            axes.xaxis.set_major_locator(ticker.MultipleLocator(1))
        axes.set_xlabel(across)
        axes.set_ylabel("time of one")
        axes.set_title(f"{title}; lines: {form}")
        labels.label_right(axes, ends)
        figure.savefig(path)


def _line(axes, part, name, points, fit, colour):
    """Draws a fit; returns the label at its end."""
    x = np.array([p[0] for p in points], float)
    fine = np.geomspace(x.min(), x.max(), 100)
    scale = 2 * (fine - 1) if part == "workers" else fine
    y = fit["a"] + fit["b"] * scale
    axes.plot(
        fine, y, color=colour, linestyle=":" if name in _BARE else "-", lw=1.2
    )
    return labels.Label(fine[-1], y[-1], name, colour, away=6)
