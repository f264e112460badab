"""What happened in a fit: in the callback's lists, the logs, TensorBoard."""

import sys
from typing import Any

import keras
import numpy as np
from absl import logging

from fda_tf.keras_fit.execution import Done
from fda_tf.keras_fit.points import Points
from fda_tf.sync import VarianceThreshold
from fda_tf.trainer import Trainer
from fda_tf.training import CAUSES, Loop


class Record:
    """Writes down what the steps of a fit did.

    Args:
      callback: the `Averaging` whose lists these are.
    """

    def __init__(self, callback: Any):
        self.syncs, self.variance = callback.syncs, callback.variance
        self._name, self._sync = type(callback).__name__, callback.sync
        self._points: Points | None = None
        self._loop: Loop | None = None
        self._sent, self._theta = (0, 0), 0.0  # as they are now

    def open(self, board: keras.callbacks.TensorBoard | None) -> None:
        """Writes points, too, if there is a TensorBoard callback here."""
        if board is not None:
            self._points = Points(board.log_dir)

    def announce(self, workers: int) -> None:
        """Says in one line what trains, where Keras shows its progress bar.

        Args:
          workers: K.
        """
        line = f"fda_tf: {workers} workers, {_told(self._sync)}"
        if keras.config.is_interactive_logging_enabled():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        else:
            logging.info(line)

    def close(self) -> None:
        """Ends the file of points."""
        if self._points:
            self._points.close()
        self._points = None

    def begin(self, trainer: Trainer) -> None:
        """Begins with what a trainer has done until now.

        Raises:
          ValueError: if its model has logs by names that are ours.
        """
        self._loop = trainer.loop
        self._look()
        both = sorted(self.logs().keys() & set(trainer.worker.logs))
        if both:
            raise ValueError(
                f"The model's train_step returns {', '.join(both)}, and so do "
                f"the logs of {self._name}. Give the model's another name."
            )

    def steps(self, last: int, done: Done) -> None:
        """Writes down what some steps did.

        Args:
          last: the number of the last of them, from 1.
          done: what they did.
        """
        first = last - len(done.causes) + 1
        self._sent, self._theta = done.sent, done.theta
        if self._loop.monitor is not None:
            self.variance.extend(done.estimates.tolist())
        if self._points:
            self._points.checks(first, done.estimates, done.thetas)
        for i in np.flatnonzero(done.causes):
            cause = CAUSES[done.causes[i]]
            self._note(first + i, cause, done.estimates[i])

    def synchronised(self, cause: str) -> None:
        """Writes down a synchronisation between two epochs, or at the end."""
        self._note(self._loop.step, cause, np.nan)
        self._look()

    def logs(self) -> dict[str, Any]:
        """Returns what the logs have besides Keras' own."""
        syncs, sent = self._sent
        extra = {"syncs": syncs, "mb_sent": sent / 1e6}
        if isinstance(self._sync, VarianceThreshold):
            checked = (v for v in reversed(self.variance) if not np.isnan(v))
            # Of one worker alone, it is 0.
            none = np.nan if self.variance else 0.0
            extra["variance"] = next(checked, none)
            extra["theta"] = self._theta
        return extra

    def _look(self) -> None:
        syncs, sent = self._loop.sent()
        self._sent = int(syncs), int(sent)
        self._theta = float(self._loop.theta)

    def _note(self, step: Any, cause: str, estimate: float) -> None:
        self.syncs.append(
            {"step": int(step), "cause": cause, "estimate": float(estimate)}
        )
        if self._points:
            self._points.synchronisation(int(step), estimate)


def _told(sync: Any) -> str:
    """Returns what a policy is, in few words.

    Example:
      >>> _told(VarianceThreshold("auto", "linear"))
      'LinearFDA, theta auto'
      >>> from fda_tf import Every
      >>> _told(Every(steps=8))
      'Every(steps=8, epochs=None)'
    """
    if not isinstance(sync, VarianceThreshold):
        return repr(sync)
    name = type(sync.monitor).__name__.removesuffix("Monitor")
    return f"{name}FDA, theta {sync.theta}"
