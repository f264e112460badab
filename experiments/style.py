"""How pictures look: colours, names of algorithms, lines and axes.

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
    "fdaopt": Look("FDA-Opt", _OTHER, "d"),
    "diloco": Look("DiLoCo", _OTHER, "*"),
    "exact": Look("ExactFDA", _OTHER, "p"),
    "max": Look("MaxFDA", _OTHER, "h"),
    "qsr": Look("QSR", _OTHER, "1"),
    "adacomm": Look("AdaComm", _OTHER, "2"),
    "post_local": Look("Post-local SGD", _OTHER, "3"),
}


def name_of(text: str, algorithm: str) -> str:
    """An algorithm's text with the name that pictures have for it.

    Example:
        >>> name_of("linear:theta=auto", "linear")
        'LinearFDA, theta=auto'
    """
    more = text.removeprefix(algorithm).split(":", 1)[1:]
    return ", ".join([LOOKS[algorithm].name, *more])


# Tell apart the lines of one colour.
_DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))

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


def dashes(number: int) -> object:
    """The line style of the first, second, ... line of one colour."""
    return _DASHES[number % len(_DASHES)]


def theta(value: float | str) -> str:
    """How pictures write a threshold.

    Example:
        >>> theta(1.50), theta("auto")
        ('Θ = 1.5', 'Θ auto')
    """
    return f"Θ {value}" if isinstance(value, str) else f"Θ = {value:g}"


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
