"""Ours beside what the authors published: ratios with their range."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from experiments import style


@dataclasses.dataclass(frozen=True)
class Pair:
    """A setting that both have run."""

    algorithm: str  # decides colour and marker
    text: str  # names the setting
    ours: dict[str, Sequence[float]]  # quantity -> its values over our seeds
    theirs: dict[str, float]  # quantity -> the published value

    def ratios(self, what: str) -> np.ndarray:
        """Ours / theirs: (median, smallest, largest)."""
        values = np.asarray(self.ours[what], float) / self.theirs[what]
        return np.array([np.median(values), values.min(), values.max()])


def beside(pairs: Sequence[Pair], title: str) -> Figure:
    """A row per setting: how ours relates to theirs, 1 being the same."""
    what = list(pairs[0].theirs)
    rows = np.arange(len(pairs))
    fig = style.figure(6.4, 1.3 + 0.27 * len(pairs))
    panels = fig.subplots(1, len(what), sharey=True, squeeze=False)[0]
    every = np.concatenate([p.ratios(name) for p in pairs for name in what])
    reach = max(every.max(), 1 / every.min(), 1.25) * 1.08
    for axes, name in zip(panels, what, strict=True):
        axes.set_xscale("log")
        axes.set_xlim(1 / reach, reach)
        ticks = [t for t in (0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10)
                 if 1 / reach <= t <= reach]  # fmt: skip
        axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.axvline(1, color=style.INK, linewidth=0.9, zorder=1)
        for row, pair in zip(rows, pairs, strict=True):
            look = style.LOOKS[pair.algorithm]
            middle, low, high = pair.ratios(name)
            axes.plot([low, high], [row, row], color=look.colour, lw=1.4)
            axes.plot(
                middle, row, look.marker,
                color=look.colour, markersize=6.5,
                markeredgecolor=style.PAPER, markeredgewidth=0.6,
            )  # fmt: skip
        axes.set_title(name, fontsize=9, fontweight="normal", pad=4)
        axes.set_xlabel("ours / published (log scale)")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", left=False)
    panels[0].set_yticks(rows, [pair.text for pair in pairs])
    panels[0].set_ylim(len(pairs) - 0.5, -0.5)
    fig.suptitle(title, x=0.015, ha="left", fontsize=10, fontweight="bold")
    return fig
