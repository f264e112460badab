"""What happened in a fit: in the callback's lists, the logs, TensorBoard."""

from typing import Any

import keras
import numpy as np

from fda_tf.execution import Done
from fda_tf.points import Points
from fda_tf.sync import VarianceThreshold
from fda_tf.training import CAUSES, Loop


class Record:
    """Writes down what the steps of a fit did.

    Args:
      callback: the `Averaging` whose lists these are.
    """

    def __init__(self, callback: Any):
        self.syncs, self.variance = callback.syncs, callback.variance
        self._sync = callback.sync
        self._points: Points | None = None
        self.loop: Loop | None = None

    def open(self, board: keras.callbacks.TensorBoard | None) -> None:
        """Writes points, too, if there is a TensorBoard callback here."""
        if board is not None:
            self._points = Points(board.log_dir)

    def close(self) -> None:
        """Ends the file of points."""
        if self._points:
            self._points.close()
        self._points = None

    def steps(self, last: int, done: Done) -> None:
        """Writes down what some steps did.

        Args:
          last: the number of the last of them, from 1.
          done: what they did.
        """
        first = last - len(done.causes) + 1
        if self.loop.monitor is not None:
            self.variance.extend(done.estimates.tolist())
        for i in np.flatnonzero(done.causes):
            cause = CAUSES[done.causes[i]]
            self.synchronised(first + i, cause, done.estimates[i])
        if self._points:
            self._points.checks(first, done.estimates, done.thetas)

    def synchronised(
        self, step: int, cause: str, estimate: float = np.nan
    ) -> None:
        """Writes down a synchronisation."""
        self.syncs.append(
            {"step": int(step), "cause": cause, "estimate": float(estimate)}
        )
        if self._points:
            self._points.synchronisation(int(step), estimate)

    def logs(self) -> dict[str, Any]:
        """Returns what the logs have besides Keras' own."""
        syncs, sent = self.loop.sent()
        return self.logs_of(syncs, sent)

    def logs_of(self, syncs: Any, sent: Any) -> dict[str, Any]:
        """Returns the same, when what was sent is known."""
        extra = {"syncs": syncs, "mb_sent": sent / 1e6}
        if isinstance(self._sync, VarianceThreshold):
            # Of one worker alone, it is 0.
            extra["variance"] = self.variance[-1] if self.variance else 0.0
            extra["theta"] = self.loop.theta.read_value()
        return extra

    def names(self) -> set[str]:
        """Returns the names in the logs that are ours."""
        names = {"syncs", "mb_sent"}
        if isinstance(self._sync, VarianceThreshold):
            names |= {"variance", "theta"}
        return names
