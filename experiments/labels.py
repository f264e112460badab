"""Names beside what they are about, none over another."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


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
    """Names points where the text hides no other text and few points."""
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
