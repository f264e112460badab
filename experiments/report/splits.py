"""Who has which data: workers x labels as a heat map, with the sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colors, ticker
from matplotlib.figure import Figure

from experiments import style

# From none to most, of one hue: light and dark differ for every eye.
_SHADES = colors.LinearSegmentedColormap.from_list(
    "shades", ["#f3f6f9", "#9ccae3", "#3d93c6", "#0a5c96", "#062a4a"]
)
_CELLS = 15  # at most so many rows and columns have numbers in their cells


def counts(labels: np.ndarray, pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Samples of each label that each worker has, [workers, labels].

    Example:
        >>> counts(np.array([0, 1, 1]), [[0, 1], [2]]).tolist()
        [[1, 1], [0, 1]]
    """
    classes = int(labels.max()) + 1
    return np.array(
        [np.bincount(labels[piece], minlength=classes) for piece in pieces]
    )


def heat(table: np.ndarray, title: str) -> Figure:
    """Draws a split."""
    workers, labels = table.shape
    height = 1.5 + min(max(workers, 4) * 0.3, 5.5)
    fig = style.figure(6.4, height)
    cells, sizes = fig.subplots(1, 2, width_ratios=(4, 1), sharey=True)
    image = cells.imshow(
        table, cmap=_SHADES, aspect="auto", vmin=0, interpolation="nearest"
    )
    for axis, count, name in (
        (cells.xaxis, labels, "label"),
        (cells.yaxis, workers, "worker"),
    ):
        axis.set_label_text(name)
        axis.set_major_locator(ticker.MaxNLocator(min(count, 15), integer=True))
    cells.set_xlim(-0.5, labels - 0.5)
    cells.set_ylim(workers - 0.5, -0.5)
    cells.grid(visible=False)
    cells.spines[:].set_visible(False)
    cells.set_title(title)
    if max(workers, labels) <= _CELLS:
        _write(cells, table)
    else:
        bar = fig.colorbar(
            image, ax=[cells, sizes], location="bottom",
            fraction=0.05, aspect=45, label="samples",
        )  # fmt: skip
        bar.outline.set_visible(False)
    _sizes(sizes, table.sum(1))
    return fig


def _write(axes: Any, table: np.ndarray) -> None:
    """The numbers, in the cells that have any sample."""
    for (row, column), count in np.ndenumerate(table):
        if count:
            # Fixed colours: the cells do not change on a dark page.
            dark = count > 0.45 * table.max()
            axes.text(
                column, row, f"{count}",
                ha="center", va="center", fontsize=7,
                color="#fefefe" if dark else "#010101",
            )  # fmt: skip


def _sizes(axes: Any, sizes: np.ndarray) -> None:
    """A bar per worker."""
    axes.barh(range(len(sizes)), sizes, height=0.7, color=style.MUTED)
    axes.set_xlabel("samples")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(3, integer=True))
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, sizes.max() * 1.08)
