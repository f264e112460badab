"""How pictures look: colours, names, axes, and names beside curves.

Colours are Okabe and Ito's, which colour-blind people can tell apart; each
algorithm has a marker of its own besides. Figures are drawn for white paper;
`DARK` says what a dark page shows in place of each colour.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1d2126", "#5a636d", "#e2e6ea", "#ffffff"
_OTHER = "#767d86"
DARK = {
    INK: "#e9e7e2",
    MUTED: "#a6aeb8",
    GRID: "#333a42",
    PAPER: "#181b20",
    _OTHER: "#9aa2ab",
    "#0072b2": "#4aa8e0",
    "#d55e00": "#f0843c",
    "#009e73": "#2fc29a",
    "#e69f00": "#e69f00",
    "#cc79a7": "#d98bb6",
    "#56b4e9": "#7cc6f0",
}


@dataclasses.dataclass(frozen=True)
class Look:
    """An algorithm as pictures show it, the same in all of them."""

    name: str
    colour: str
    marker: str


LOOKS = {
    "synchronous": Look("Synchronous", INK, "o"),
    "linear": Look("LinearFDA", "#0072b2", "s"),
    "sketch": Look("SketchFDA", "#d55e00", "D"),
    "naive": Look("NaiveFDA", "#009e73", "^"),
    "local_sgd": Look("Local SGD", "#e69f00", "v"),
    "fedadam": Look("FedAdam", "#cc79a7", "P"),
    "fedavgm": Look("FedAvgM", "#56b4e9", "X"),
    "fedavg": Look("FedAvg", _OTHER, "<"),
    "fedyogi": Look("FedYogi", _OTHER, ">"),
    "exact": Look("ExactFDA", _OTHER, "p"),
    "max": Look("MaxFDA", _OTHER, "h"),
}

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlepad": 10,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "fda_tf",
    "savefig.dpi": 160,
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Within it, figures have the look of this project's."""
    with mpl.rc_context(_RC):
        yield


def figure(width: float = 6.4, height: float = 4.0) -> Figure:
    """An empty figure; sizes are in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def theta(value: float) -> str:
    """How pictures write a threshold.

    Example:
        >>> theta(1.50)
        'Θ = 1.5'
    """
    return f"Θ = {value:g}"


def bytes_axis(axis: Any, label: str) -> None:
    """Bytes with SI prefixes: kB, MB, GB; of 1,000."""
    axis.set_label_text(label)
    axis.set_major_formatter(ticker.EngFormatter("B", sep=" "))


def log_axis(axis: Any, values: Sequence[float], unit: str = "") -> None:
    """A log scale with labels that are read without a calculator.

    Ticks are at 1, 2 and 5 of each decade when the values span fewer than
    three decades, at decades alone when they span more, and evenly spaced
    when they span less than one.
    """
    values = np.asarray([v for v in values if v > 0], float)
    low, high = values.min(), values.max()
    room = max((high / low) ** 0.06, 1.12)
    setter = axis.axes.set_xscale if axis.axis_name == "x" else None
    (setter or axis.axes.set_yscale)("log")
    limits = (low / room, high * room)
    if axis.axis_name == "x":
        axis.axes.set_xlim(limits)
    else:
        axis.axes.set_ylim(limits)
    decades = np.log10(limits[1] / limits[0])
    subs = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
    if decades < 0.7:
        ticks = ticker.MaxNLocator(8, steps=[1, 2, 5]).tick_values(*limits)
        inside = [tick for tick in ticks if limits[0] <= tick <= limits[1]]
        axis.set_major_locator(ticker.FixedLocator(inside))
    else:
        axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=12))
    axis.set_minor_locator(ticker.NullLocator())
    form = ticker.EngFormatter(unit, sep=" " if unit else "")
    plain = ticker.FuncFormatter(lambda v, _: f"{v:,.10g}")
    axis.set_major_formatter(form if unit else plain)


def spread(values: Sequence[float], gap: float) -> np.ndarray:
    """The nearest values, in the same order, that are a gap apart or more.

    Minimises the squared distances (isotonic regression, by pooling).

    Example:
        >>> spread([0.0, 0.1, 5.0], 1.0).tolist()
        [-0.45, 0.55, 5.0]
    """
    order = np.argsort(values, kind="stable")
    pools: list[list[float]] = []
    for i, value in enumerate(np.asarray(values, float)[order]):
        pools.append([value - i * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    flat = np.concatenate([[np.mean(pool)] * len(pool) for pool in pools])
    placed = np.empty(len(order))
    placed[order] = flat + gap * np.arange(len(order))
    return placed


@dataclasses.dataclass(frozen=True)
class Label:
    """A text and the point (in data's units) that it is about.

    Its line ends `away` points from there, so as not to hide a marker.
    """

    x: float
    y: float
    text: str
    colour: str
    away: float = 4


def label_right(axes: Any, labels: Sequence[Label]) -> None:
    """Names points in the right margin, with a thin line to each."""
    if not labels:
        return
    fig = axes.figure
    fig.draw_without_rendering()
    ends = axes.transData.transform([(k.x, k.y) for k in labels])
    box = axes.get_window_extent()
    lines = [k.text.count("\n") + 1 for k in labels]
    gap = 1.25 * 8 * max(lines) * fig.dpi / 72
    heights = spread(ends[:, 1], gap)
    heights += max(0.0, box.y0 - heights.min())
    heights -= max(0.0, heights.max() - box.y1)
    for label, height in zip(labels, heights, strict=True):
        place = (1.03, (height - box.y0) / box.height)
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=place,
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": label.away,
                "relpos": (0, 0.5),
            },
        )


# Where a name may stand around its point: distance (in points) and angle.
_RING = [
    (radius, angle)
    for radius in (9, 18, 30, 44, 60, 80)
    for angle in (35, -35, 145, -145, 0, 90, -90, 180)
]


def label_near(axes: Any, labels: Sequence[Label], under: np.ndarray) -> None:
    """Names points where the text hides no other text and few points.

    Args:
        axes: with its final scales and limits.
        labels: what to write.
        under: points of the curves [n, 2], which should stay visible.
    """
    fig = axes.figure
    fig.draw_without_rendering()
    scale = fig.dpi / 72
    dots = axes.transData.transform(under)
    frame = axes.get_window_extent()
    taken = [text.get_window_extent() for text in axes.texts]
    for label in sorted(labels, key=lambda k: (-k.y, k.x)):
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            linespacing=1.2,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "linewidth": 0.8,
                "shrinkA": 0,
                "shrinkB": label.away,
            },
        )
        text.set_in_layout(False)
        size = text.get_window_extent()
        best = min(
            ((_moved(size, *place, scale), place) for place in _RING),
            key=lambda found: (
                _harm(found[0], taken, dots, frame) + found[1][0] / 40
            ),
        )
        box, place = best
        text.xyann = _offset(size, *place, scale)
        taken.append(box)


def _offset(
    size: Any, radius: float, angle: float, scale: float
) -> tuple[float, float]:
    """Of the text's middle from its point, so that an edge is at a radius."""
    across, up = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return (
        across * radius + np.sign(round(across, 6)) * size.width / 2 / scale,
        up * radius + np.sign(round(up, 6)) * size.height / 2 / scale * 0.6,
    )


def _moved(size: Any, radius: float, angle: float, scale: float) -> Any:
    dx, dy = _offset(size, radius, angle, scale)
    return size.translated(dx * scale, dy * scale)


def _harm(box: Any, taken: Sequence, dots: np.ndarray, frame: Any) -> float:
    """How bad a place is: other texts, the frame's edges, points under it."""
    outside = not (
        frame.x0 <= box.x0
        and box.x1 <= frame.x1
        and frame.y0 <= box.y0
        and box.y1 <= frame.y1
    )
    inside = (
        (dots > (box.x0 - 3, box.y0 - 3)) & (dots < (box.x1 + 3, box.y1 + 3))
    ).all(1)
    texts = sum(box.padded(2).overlaps(other) for other in taken)
    return 100 * texts + 50 * outside + 2 * inside.sum()
