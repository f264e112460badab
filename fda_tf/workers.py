"""The contract of the workers' two homes: one process, or a cluster."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fda_tf.comm import Meter
from fda_tf.worker import Snapshot, Worker


class Workers(abc.ABC):
    """K workers, wherever they are; the loop knows nothing else of them.

    All that a home has to give: a local step on every worker, the mean of a
    small or large tensor over the workers, and a way to set every worker's
    model. `step`, `mean` and `assign` run inside the compiled loop.

    Args:
      count: K.
      worker: a worker resident in this process, for shapes and evaluation.
      source: gives the batches of the workers here.
    """

    here = 1  # how many of them are in this process

    def __init__(self, count: int, worker: Worker, source: Any):
        self.count = count
        self.worker = worker
        self.source = source
        self.meter = Meter(count)
        # Above 0 when this worker wants all to leave the loop and meet.
        self.call = tf.Variable(0.0, trainable=False, name="call")

    @abc.abstractmethod
    def step(self, step: tf.Tensor) -> None:
        """Does local step number `step` (from 0) on every worker."""

    @abc.abstractmethod
    def mean(
        self,
        of: Callable[[Snapshot], Sequence[tf.Tensor]],
        kind: str,
    ) -> list[tf.Tensor]:
        """Returns the mean over all K workers of `of(their snapshot)`.

        Args:
          of: what travels, from one worker's snapshot.
          kind: what for, one of `fda_tf.comm.KINDS`.
        """

    @abc.abstractmethod
    def each(self, of: Callable[[Snapshot], tf.Tensor]) -> tf.Tensor:
        """Returns `of(snapshot)` of each worker here, [here, ...]."""

    @abc.abstractmethod
    def mean_of(self, rows: tf.Tensor, kind: str) -> tf.Tensor:
        """Returns the mean over all K workers of what `each` returned."""

    @abc.abstractmethod
    def assign(self, snapshot: Snapshot) -> None:
        """Puts a snapshot into every worker's model.

        Statistics may be empty: then every worker keeps its own.
        """

    @abc.abstractmethod
    def snapshot(self) -> Snapshot:
        """Returns the snapshot of one worker of this process."""

    @abc.abstractmethod
    def gather(self, of: Callable[[Snapshot], tf.Tensor]) -> np.ndarray:
        """Returns `of(their snapshot)` of all K workers, stacked; eager."""

    def called(self) -> tf.Tensor:
        """Returns whether a worker has called for a meeting; in graphs."""
        return self.call > 0

    def call_meeting(self) -> None:
        """Asks all workers to leave the loop at the next exchange."""
        self.call.assign(1.0)

    def end_meeting(self) -> None:
        """Forgets the call; every worker does, when all have met."""
        self.call.assign(0.0)

    def variables(self) -> dict[str, list[tf.Variable]]:
        """Returns what the workers here keep, by name: for checkpoints."""
        return {}

    def count_exchange(self, kind: str, tensors: Sequence[tf.Tensor]) -> None:
        """Counts an all-reduce, and the call that rides on it, one float."""
        self.meter.all_reduce(kind, tensors)
        if kind != "eval":
            self.meter.all_reduce("call", [tf.zeros([])])

    def agree(self, stop: bool, error: Exception | None = None) -> bool:
        """Returns whether any worker wants to stop; raises if one failed."""
        if error is not None:
            raise error
        return stop

    def evaluate(self, snapshot: Snapshot, data: Any, batch_size: int) -> dict:
        """Returns the model's metrics on data, with the snapshot's weights."""
        own = self.worker.snapshot()
        self.worker.assign(snapshot)
        model = self.worker.model
        if isinstance(data, tf.data.Dataset):
            logs = model.evaluate(data, verbose=0, return_dict=True)
        else:
            x, y, weight = (*data, None, None)[:3]
            logs = model.evaluate(
                x,
                y,
                sample_weight=weight,
                batch_size=batch_size,
                verbose=0,
                return_dict=True,
            )
        self.worker.assign(own)
        return {name: np.asarray(v).tolist() for name, v in logs.items()}
