"""The variance, theta and each synchronisation, for TensorBoard."""

import os

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

    def checks(
        self, first: int, estimates: np.ndarray, thetas: np.ndarray
    ) -> None:
        """Writes the checks of some steps.

        Args:
          first: the number of the first step, from 1.
          estimates: of the variance, [steps]; NaN where there was no check.
          thetas: [steps].
        """
        with self._writer.as_default():
            both = zip(estimates, thetas, strict=True)
            for step, (estimate, theta) in enumerate(both, first):
                if np.isfinite(estimate):
                    tf.summary.scalar("fda/variance", estimate, step)
                if np.isfinite(theta):
                    tf.summary.scalar("fda/theta", theta, step)

    def synchronisation(self, step: int, estimate: float) -> None:
        """Writes a synchronisation."""
        height = estimate if np.isfinite(estimate) else 0.0
        with self._writer.as_default():
            tf.summary.scalar("fda/synchronisation", height, step)

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()
