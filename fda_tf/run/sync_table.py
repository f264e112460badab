"""The list of synchronisations as arrays: in a checkpoint it may be long."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fda_tf.core.loop import CAUSES

ENDED = (*CAUSES, "end", "callback")


def to_arrays(syncs: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """Returns the steps, causes and estimates of synchronisations.

    Example:
      >>> syncs = [{"step": 7, "cause": "threshold", "estimate": 0.5}]
      >>> arrays = to_arrays(syncs)
      >>> [array.tolist() for array in arrays]
      [[7], [1], [0.5]]
      >>> from_arrays(arrays) == syncs
      True
    """
    return [
        np.array([s["step"] for s in syncs], np.int64),
        np.array([ENDED.index(s["cause"]) for s in syncs], np.int8),
        np.array([s["estimate"] for s in syncs], np.float64),
    ]


def from_arrays(arrays: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    """Returns the synchronisations that `to_arrays` was given."""
    columns = (array.tolist() for array in arrays)
    return [
        {"step": step, "cause": ENDED[cause], "estimate": estimate}
        for step, cause, estimate in zip(*columns, strict=True)
    ]
