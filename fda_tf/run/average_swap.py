"""The average, in the model's place from an epoch's end to the next."""

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from fda_tf.run.trainer import Trainer
from fda_tf.tensors import vectors
from fda_tf.workers import variable_groups
from fda_tf.workers.local_model import Snapshot


class AverageSwap:
    """Lends the model the average of all workers' models.

    Validation and the callbacks of an epoch's end see it; training goes on
    with what the worker's own model was.

    Args:
      trainer: this process's worker.
    """

    def __init__(self, trainer: Trainer):
        self._loop, self._worker = trainer.loop, trainer.worker
        self._own: Snapshot | None = None
        self._placed: Snapshot | None = None
        # An eager step may change all there is: what it does is looked at.
        self._before: dict[int, tf.Tensor] = {}
        self._moved: set[int] | None = None
        if self._worker.eager:
            self._moved = set()
            self.begin_epoch()

    def begin_epoch(self) -> None:
        """Puts the worker's own model back, for the steps of an epoch."""
        self.restore_own()
        if self._moved is not None:
            self._before = {
                i: v.read_value()
                for i, v in variable_groups.own_of(self._worker.model).items()
            }

    def _see_what_moved(self) -> None:
        """Notes what the steps of an epoch have changed."""
        for i, v in variable_groups.own_of(self._worker.model).items():
            before = self._before.get(i)
            if before is None or not _same(v.read_value(), before):
                self._moved.add(i)

    def place(self) -> bool:
        """Puts the average into the model; returns whether it is finite."""
        if self._loop.nothing_to_average:
            return True
        if self._moved is not None:
            self._see_what_moved()
        average, self._own = self._loop.averaged(), self._worker.snapshot()
        self._worker.assign(average)
        self._placed = average
        return bool(np.isfinite(vectors.squared_norm_alike(average.weights)))

    def restore_own(self) -> None:
        """Puts the worker's own model back."""
        if self._own is not None:
            self._worker.assign(self._own)
        self.forget()

    @contextlib.contextmanager
    def own_restored(self) -> Iterator[None]:
        """Puts the worker's own model back, until the context ends."""
        own, placed = self._own, self._placed
        self.restore_own()
        yield
        if placed is not None:
            self._worker.assign(placed)
        self._own, self._placed = own, placed

    def forget(self) -> None:
        """Leaves the model as it is now."""
        self._own = self._placed = None

    @contextlib.contextmanager
    def validated(self) -> Iterator[None]:
        """Puts back at its end what a validation moves of the average.

        It moves statistics where BatchNorm is called with `training=True`,
        which is no change of a callback's.
        """
        if self._own is None:
            yield
            return
        with self._worker.left_as_it_is(self._moved):
            yield

    def changed(self) -> bool:
        """Returns whether a callback has put something else into the model."""
        return self._own is not None and not _equal(
            self._worker.snapshot(), self._placed
        )


def _equal(a: Snapshot, b: Snapshot) -> bool:
    pairs = zip(a.weights + a.statistics, b.weights + b.statistics, strict=True)
    return all(_same(u, v) for u, v in pairs)


def _same(a: tf.Tensor, b: tf.Tensor) -> bool:
    return bool(tf.reduce_all(a == b))
