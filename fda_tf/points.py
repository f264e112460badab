"""The variance, theta and each synchronisation, for TensorBoard."""

import os
from typing import Any

import numpy as np
import tensorflow as tf


class Points:
    """Writes beside what `keras.callbacks.TensorBoard` writes.

    `fda/variance` and `fda/theta` have a point for each step with a check,
    `fda/synchronisation` one for each synchronisation: the estimate at it.

    Args:
      log_dir: of the TensorBoard callback.
    """

    def __init__(self, log_dir: str):
        folder = os.path.join(log_dir, "train")
        self._writer = tf.summary.create_file_writer(folder)

    def write(self, first: int, trace: Any) -> None:
        """Writes what some steps did.

        Args:
          first: the number of the first step, from 1.
          trace: their `StepTrace`.
        """
        steps = zip(
            trace.estimate.numpy(),
            trace.theta.numpy(),
            trace.cause.numpy(),
            strict=True,
        )
        with self._writer.as_default():
            for step, (estimate, theta, cause) in enumerate(steps, first):
                if np.isfinite(estimate):
                    tf.summary.scalar("fda/variance", estimate, step)
                if np.isfinite(theta):
                    tf.summary.scalar("fda/theta", theta, step)
                if cause:
                    height = estimate if np.isfinite(estimate) else 0.0
                    tf.summary.scalar("fda/synchronisation", height, step)

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()
