"""The same loop with one worker in each process of a cluster."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fda_tf.processes.error_messages import known
from fda_tf.tensors import vectors
from fda_tf.tensors.packing import from_words, to_words
from fda_tf.workers.base import Workers, shared
from fda_tf.workers.local_model import Worker
from fda_tf.workers.variable_groups import Group, groups_of


class Cluster(Workers):
    """K workers, one of which is in this process.

    All start from the chief's weights, statistics, optimizer and random
    states; only the seeds of the random states are then a worker's own.

    Args:
      worker: ours.
      source: gives its batches.
      process_group: the processes of the job.
      shares: what each worker counts for in a mean; None if all count alike.
    """

    def __init__(
        self,
        worker: Worker,
        source: Any,
        process_group: Any,
        shares: Sequence[float] | None = None,
    ):
        super().__init__(process_group.count, worker, source, shares)
        self.process_group = process_group
        process_group.used = True
        self._residual: list[tf.Variable] = []
        # A float on each exchange tells of a worker's call; heard by all.
        self._heard = tf.Variable(False, trainable=False, name="heard")
        unlike = self.unlike([*worker.frozen, *worker.read_only])
        self.take_chiefs(
            [worker.weights, worker.statistics, *worker.rest, *unlike]
        )
        self.take_seeds(process_group.index)

    def take_seeds(self, worker: int) -> None:
        """Moves the random states as those of worker number k."""
        own_seeds = self.worker.own_seeds(worker)
        for group, vector in zip(self.worker.rest, own_seeds, strict=True):
            if vector is not None:
                group.assign(vector)

    def take_chiefs(self, groups: Sequence[Group]) -> None:
        """Puts the chief's values into groups of the model's variables."""
        for group in groups:
            for part in group.parts():
                part.assign_copies(self.process_group.broadcast(part.pack()))

    def unlike(self, groups: Sequence[Group]) -> list[Group]:
        """Returns what of groups is not the same on all; all must ask."""
        variables = [v for group in groups for v in group.variables]
        if self.count == 1 or not variables:
            return []
        digests = self.process_group.gather(
            np.stack([*map(_digest, variables)])
        )
        unlike = (digests != digests[0]).any(0)
        return groups_of(v for v, i in zip(variables, unlike, strict=True) if i)

    def average_frozen(self):
        unlike = self.unlike(self.worker.frozen)
        for group in unlike:
            for part in group.parts():
                part.assign_copies(self._mean_or_chiefs(part.pack()))
        return bool(unlike)

    def _mean_or_chiefs(self, tensors):
        """Returns the means; of what is no float, what the chief has."""
        self.meter.all_reduce("model", tensors)
        if not tensors[0].dtype.is_floating:
            return self.process_group.broadcast(tensors)
        precise = [
            t if t.dtype.size > 4 else tf.cast(t, tf.float32) for t in tensors
        ]
        return [
            tf.cast(total / self.count, tensor.dtype)
            for total, tensor in zip(
                self.process_group.sums(precise), tensors, strict=True
            )
        ]

    def step(self, step):
        self.worker.step(self.source.batch(self.process_group.index, step))

    def mean(self, of, kind, shares=None):
        own = self._shared(of(self.worker.lazy_snapshot()), shares)
        return self._exchange(own, kind)

    def mean_sent(self, send, read, shares, summable, kind="model"):
        sent = send(self.process_group.index, self._snapshot())
        if sent.residual:
            self._leave_out(sent.residual, shares)
        if summable:
            own = self._shared(tf.nest.flatten(sent.parts), shares)
            mean = self._exchange(own, kind)
            return read(tf.nest.pack_sequence_as(sent.parts, mean))
        shares = self.all_shares(shares)
        if shares is None:
            shares = tf.ones([self.count])
        total = [0.0] * len(sent.parts)
        for k, tensors in enumerate(self._gather(sent.parts, read, kind)):
            own = shared(shares[k], tensors)
            total = [t + v for t, v in zip(total, own, strict=True)]
        whole = vectors.sum_alike(shares)
        return [t / whole for t in total]

    def all_of(self, of, kind):
        own = of(self.worker.lazy_snapshot())
        row = tf.one_hot(self.process_group.index, self.count) * self.count
        # Where there is a 0, NaN would spread.
        (mean,) = self._exchange([tf.where(row > 0, row * own, 0.0)], kind)
        return mean

    def each(self, of):
        return of(self.worker.lazy_snapshot())[None]

    def rows(self, of, kind):
        own = of(self.worker.lazy_snapshot())
        everyones = self.process_group.all_gather(own)
        self.meter.gather(kind, [own], [everyones])
        return everyones

    def mean_of(self, rows, kind):
        return self._exchange(self._shared([rows[0]]), kind)[0]

    def waiting(self, step):
        return self.process_group.waiting(lambda: int(step))

    def mean_here(self, value):
        return self._exchange([value], "state")[0]

    def keep_residuals(self):
        zeros = [tf.zeros_like(b) for b in self.worker.weights.pack()]
        self._residual = vectors.variables(zeros, "residual")

    def _snapshot(self):
        residual = tuple(r.read_value() for r in self._residual)
        return self.worker.snapshot()._replace(residual=residual)

    def _leave_out(self, residual, shares):
        """Keeps what a compression has left out, of a drift that counts."""
        for kept, left in zip(self._residual, residual, strict=True):
            if shares is not None:
                counts = shares[self.process_group.index] > 0
                left = tf.where(counts, left, kept)
            kept.assign(left)

    def _shared(self, tensors, shares=None):
        """Returns the tensors so that their mean is the weighted one."""
        shares = self.all_shares(shares)
        if shares is None:
            return tensors
        whole = vectors.sum_alike(shares)
        share = shares[self.process_group.index] * self.count / whole
        return vectors.Lazy(
            len(tensors), lambda i: shared(share, [tensors[i]])[0]
        )

    def _gather(self, parts, read, kind):
        """Returns what all workers sent, as it is read: a list for each."""
        flat = tf.nest.flatten(parts)
        words = [to_words(tensor) for tensor in [*flat, self.stop_flag]]
        sizes = [w.shape[0] for w in words]
        rows = self.process_group.all_gather(tf.concat(words, 0))
        everyones = []
        for k in range(self.count):
            *own, call = tf.split(rows[k], sizes)
            self._heard.assign(
                self._heard | (from_words(call, self.stop_flag) > 0)
            )
            own = [from_words(w, t) for w, t in zip(own, flat, strict=True)]
            everyones.append(read(tf.nest.pack_sequence_as(parts, own)))
        self.meter.gather(kind, words[:-1], everyones[0])
        self.meter.gather("call", words[-1:], [])
        return everyones

    def _exchange(self, tensors, kind):
        """Returns the means; a bucket is made when the one before has gone."""
        self.count_exchange(kind, tensors)
        last = len(tensors) - 1
        rides = kind != "eval" and self.count > 1

        def travel(i, tensor):
            if i == last and rides:
                return self._mean_with_call(tensor)
            return self.process_group.mean([tensor])[0]

        return vectors.each(tensors, travel)

    def _mean_with_call(self, tensor):
        call = tf.cast(tf.reshape(self.stop_flag, [1]), tensor.dtype)
        (mean,) = self.process_group.mean([tf.concat([tensor, call], 0)])
        self._heard.assign(mean[-1] > 0)
        return tf.ensure_shape(mean[:-1], tensor.shape)

    def stop_flag_is_raised(self):
        if self.count == 1:
            return super().stop_flag_is_raised()
        return self._heard.read_value()

    def lower_stop_flag(self):
        super().lower_stop_flag()
        self._heard.assign(False)

    def variables(self):
        worker = self.worker
        groups = {f"rest_{i}": g for i, g in enumerate(worker.rest)}
        groups |= {"weights": worker.weights, "statistics": worker.statistics}
        kept = {name: list(g.variables) for name, g in groups.items()}
        return super().variables() | kept | {"residual": self._residual}

    def assign(self, snapshot):
        self.worker.assign(snapshot)

    def snapshot(self):
        return self.worker.snapshot()

    def gather(self, of):
        return self.process_group.gather(of(self.worker.snapshot()))

    def agree(self, stop, error=None):
        flags = self.process_group.gather(np.int32([stop, error is not None]))
        if error is not None:
            raise known(error, shown_by=self.process_group.index)
        for k in np.flatnonzero(flags[:, 1]):
            error = RuntimeError(
                f"Worker {k} failed in its on_evaluation; all workers stop. "
                "Its own output says why."
            )
            raise known(error, shown_by=int(k))
        return bool(flags[:, 0].any())


def _digest(variable: tf.Variable) -> np.int64:
    """Returns a number that is another one for other values."""
    row = tf.reshape(variable.read_value(), [1, -1])
    return tf.fingerprint(row)[0].numpy().view(np.int64)[0]
