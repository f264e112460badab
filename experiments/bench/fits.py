"""Lines through measured points: how a cost grows."""

import math
from collections.abc import Sequence


def line(x: Sequence[float], y: Sequence[float]) -> dict:
    """Returns the line a + b x through points, and how far they are from it.

    It makes the least sum of ((y - a - b x) / y)^2: each point counts by its
    relative error, as costs over some decades ask for. Where that would make a
    negative, a is 0, as no cost is.

    Example:
      >>> fit = line([1, 2, 3], [5, 7, 9])
      >>> round(fit["a"], 9), round(fit["b"], 9), round(fit["residual"], 9)
      (3.0, 2.0, 0.0)
    """
    a, b = _least_squares([(1 / v, u / v, 1.0) for u, v in _points(x, y)])
    if a < 0:
        ratios = [u / v for u, v in zip(x, y, strict=True)]
        a, b = 0.0, sum(ratios) / sum(r * r for r in ratios)
    fitted = [a + b * u for u in x]
    return {"a": a, "b": b, "residual": _residual(fitted, y)}


def power(x: Sequence[float], y: Sequence[float]) -> dict:
    """Returns the power law c x^p through points: a line in log-log.

    Example:
      >>> fit = power([1, 10, 100], [3, 30, 300])
      >>> round(fit["c"], 9), round(fit["p"], 9)
      (3.0, 1.0)
    """
    logs = [(1.0, math.log(u), math.log(v)) for u, v in _points(x, y)]
    a, p = _least_squares(logs)
    fitted = [math.exp(a) * u**p for u in x]
    return {"c": math.exp(a), "p": p, "residual": _residual(fitted, y)}


def _points(x, y):
    if len(set(x)) < 2 or min(y) <= 0:
        raise ValueError(
            f"Received x={list(x)}, y={list(y)}. Expected at least two "
            "different x and only y above 0: there is no line through less."
        )
    return zip(x, y, strict=True)


def _least_squares(rows):
    """Returns (a, b) of the least sum of (a r[0] + b r[1] - r[2])^2."""
    aa, ab, bb, ay, by = (
        sum(r[i] * r[j] for r in rows)
        for i, j in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2))
    )
    det = aa * bb - ab * ab
    return (ay * bb - by * ab) / det, (by * aa - ay * ab) / det


def _residual(fitted, y):
    errors = [(f / v - 1) ** 2 for f, v in zip(fitted, y, strict=True)]
    return math.sqrt(sum(errors) / len(errors))
