"""`History`: what `simulate` and `train` return."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from fda_tf.run.sync_log import Synchronisation
from fda_tf.workers.base import evaluate


@dataclasses.dataclass
class History:
    """What `simulate` and `train` return.

    Attributes:
      model: a model that holds the final average.
      rows: a dict for each evaluation: step, epoch, syncs, checks, bytes of
        each kind, variance (the last check's estimate), theta, seconds, and the
        model's metrics on the validation data with `val_` before their names.
      syncs: a `Synchronisation` for each: step, interval, cause, estimate.
      variance: the monitor's estimate after each step, float32 [steps]; NaN
        without a check, and for `max` the share of workers above theta. From
        a sketch's cascade it is an upper bound of the estimate while that is
        below theta.
      theta: theta at each step, float32 [steps].
      seconds: of the whole run.
      worker_steps_per_second: without compilation and evaluation.
    """

    model: keras.Model
    rows: list[dict] = dataclasses.field(default_factory=list)
    syncs: list[Synchronisation] = dataclasses.field(default_factory=list)
    variance: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.float32)
    )
    theta: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.float32)
    )
    seconds: float = 0.0
    worker_steps_per_second: float = math.nan

    def evaluate_each(
        self, shards: Sequence[Any], batch_size: int = 500
    ) -> list[dict[str, Any]]:
        """Returns the average model's metrics on the data of each worker.

        Args:
          shards: (x, y) or (x, y, sample_weight) a worker, or a batched
            `tf.data.Dataset` each: of all workers, also those not drawn.
          batch_size: samples.

        Example:
          >>> model = keras.Sequential([keras.Input((1,)),
          ...                           keras.layers.Dense(1)])
          >>> model.compile("sgd", "mae")
          >>> model.set_weights([np.array([[2.0]]), np.array([0.0])])
          >>> x = np.ones((4, 1), np.float32)
          >>> rows = History(model).evaluate_each([(x, 2 * x), (x, 3 * x)])
          >>> [row["loss"] for row in rows]
          [0.0, 1.0]
        """
        return [evaluate(self.model, s, batch_size) for s in shards]
