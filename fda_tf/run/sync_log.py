"""The synchronisations of a run: a row each, and arrays in a checkpoint."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fda_tf.core import loop

CAUSES = (*loop.CAUSES, "end", "callback")


class Synchronisation(NamedTuple):
    """One synchronisation.

    Attributes:
      step: after which it was.
      interval: steps since the one before.
      cause: "threshold"; "interval", by the clock; "end" of training; or
        "callback", where one has moved what no step does.
      estimate: of the variance in that step; NaN without a check.
    """

    step: int
    interval: int
    cause: str
    estimate: float


class SyncLog:
    """Appends rows to a list.

    Args:
      rows: the list, which its owner shows.

    Example:
      >>> log = SyncLog([])
      >>> log.add(7, "threshold", 0.5)
      Synchronisation(step=7, interval=7, cause='threshold', estimate=0.5)
      >>> arrays = log.to_arrays()
      >>> [array.tolist() for array in arrays]
      [[7], [1], [0.5]]
      >>> again = SyncLog([])
      >>> again.restore(arrays)
      >>> again.rows == log.rows
      True
    """

    def __init__(self, rows: list[Synchronisation]):
        self.rows = rows

    def add(self, step: int, cause: str, estimate: float) -> Synchronisation:
        """Appends a row, and returns it."""
        before = self.rows[-1].step if self.rows else 0
        row = Synchronisation(
            int(step), int(step) - before, cause, float(estimate)
        )
        self.rows.append(row)
        return row

    def to_arrays(self) -> list[np.ndarray]:
        """Returns the steps, causes and estimates: in text they may be long."""
        causes = [CAUSES.index(row.cause) for row in self.rows]
        return [
            np.array([row.step for row in self.rows], np.int64),
            np.array(causes, np.int8),
            np.array([row.estimate for row in self.rows], np.float64),
        ]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Has the rows that `to_arrays` was called for."""
        self.rows.clear()
        columns = (array.tolist() for array in arrays)
        for step, cause, estimate in zip(*columns, strict=True):
            self.add(step, CAUSES[cause], estimate)
