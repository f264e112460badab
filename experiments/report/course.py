"""Variance, theta and synchronisations over the steps of runs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from experiments import style


@dataclasses.dataclass(frozen=True)
class Course:
    """One run.

    Attributes:
        algorithm: decides the colour.
        text: above its panel.
        variance: estimate after each step [steps]; NaN without a check.
        theta: at each step [steps].
        syncs: steps of the synchronisations.
    """

    algorithm: str
    text: str
    variance: np.ndarray
    theta: np.ndarray
    syncs: Sequence[int]


def course(runs: Sequence[Course], title: str) -> Figure:
    """A panel per run: its variance, theta, and a tick per synchronisation."""
    fig = style.figure(6.4, 0.7 + 1.45 * len(runs))
    panels = fig.subplots(len(runs), 1, sharex=True, squeeze=False)[:, 0]
    for axes, run in zip(panels, runs, strict=True):
        _panel(axes, run)
    steps = max(len(run.variance) for run in runs)
    panels[-1].set_xlim(0, steps * 1.01)
    panels[-1].set_xlabel("in-parallel steps")
    fig.suptitle(title, x=0.015, ha="left", fontsize=10, fontweight="bold")
    return fig


def _panel(axes: Any, run: Course) -> None:
    look = style.LOOKS[run.algorithm]
    steps = np.arange(1, len(run.variance) + 1)
    # What "max" estimates is the share of workers whose drift exceeds theta.
    share = run.algorithm == "max"
    theta = np.full(len(steps), np.nan) if share else run.theta
    theta = np.where(np.isfinite(theta), theta, np.nan)
    known = np.isfinite(run.variance)
    variance = run.variance[known]
    top = np.nanmax(np.concatenate([variance, theta]), initial=0) or 1
    axes.plot(steps[known], variance, color=look.colour, linewidth=0.9)
    if np.isfinite(theta[-1]):
        _theta(axes, theta)
    axes.plot(
        run.syncs, np.full(len(run.syncs), -0.08 * top), "|",
        color=look.colour, markersize=6, markeredgewidth=0.8,
    )  # fmt: skip
    axes.set_ylim(-0.16 * top, 1.12 * top)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(3))
    axes.set_ylabel("share above Θ" if share else "variance", fontsize=8)
    axes.grid(axis="x", visible=False)
    count = len(run.syncs)
    axes.set_title(
        f"{run.text}: {count} synchronisation{'s' * (count != 1)}",
        fontsize=8, fontweight="normal", pad=4,
    )  # fmt: skip


def _theta(axes: Any, theta: np.ndarray) -> None:
    """A dashed line with its name at its end."""
    axes.plot(
        np.arange(1, len(theta) + 1), theta,
        color=style.INK, linewidth=0.9, linestyle=(0, (4, 2)),
    )  # fmt: skip
    axes.annotate(
        "Θ",
        (len(theta), theta[-1]),
        xytext=(4, 0),
        textcoords="offset points",
        annotation_clip=False,
        va="center",
        fontsize=8,
    )
