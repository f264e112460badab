"""How K models become one at a synchronisation: what travels, who counts."""

from typing import Any, NamedTuple

import tensorflow as tf

from fda_tf.algorithm import compression
from fda_tf.algorithm.algorithm import Algorithm
from fda_tf.tensors import vectors
from fda_tf.tensors.vectors import Vector
from fda_tf.workers import variable_groups
from fda_tf.workers.base import Workers
from fda_tf.workers.local_model import Snapshot


class Message(NamedTuple):
    """What one worker sends."""

    parts: list[
        list[tf.Tensor]
    ]  # for each bucket, what the compression made of it
    residual: Vector  # what it left out; empty if that is not kept


class Exchange:
    """The mean of the workers' models, as a compression and a guard let it be.

    Plain models, and that of one worker alone, are averaged as they are. Else
    it is their drifts that travel, and the mean model is

        w_0 + sum_k s_k decode(encode(c_k u_k + e_k)) / sum_k s_k

    with the guard's factors c_k and shares s_k, and e_k what error feedback
    has left out until now. For evaluation, `average` is the mean of whole
    models with the same factors and shares, and has no compression.

    Args:
      workers: the K workers.
      w0: the variables that hold the last synchronised model.
      algorithm: whose compression, guard and statistics these are.
    """

    def __init__(
        self,
        workers: Workers,
        w0: list[tf.Variable],
        algorithm: Algorithm,
    ):
        self.workers, self._w0 = workers, w0
        self.guard = algorithm.guard
        self.compression = algorithm.compression or compression.Float32()
        self.average_statistics = algorithm.statistics == "average"
        plain = self.guard is None and algorithm.compression is None
        # Alone nothing travels, and nothing is left out.
        self._as_they_are = plain or workers.count == 1
        if self.compression.feedback and workers.count > 1:
            workers.keep_residuals()

    def mean(self, step: tf.Tensor) -> Snapshot:
        """Returns the mean; statistics are empty where they do not travel.

        Args:
          step: steps done, int64: of random numbers.
        """
        if self._as_they_are:
            return self._mean_models()
        scales = shares = None
        if self.guard is not None:
            scales, shares = self.guard.judge(self._norms())

        def send(k: Any, snapshot: Snapshot) -> Message:
            return self._send(k, snapshot, step, scales)

        drift = self.workers.mean_sent(
            send, self._read, shares, self.compression.summable
        )
        weights = tuple(w + u for w, u in zip(self._w0, drift, strict=True))
        if not self.average_statistics or not self.workers.has_statistics:
            return Snapshot(weights, ())
        statistics = self.workers.mean(lambda s: s.statistics, "model", shares)
        return Snapshot(weights, self._by_their_marks(statistics, "model"))

    def average(self) -> Snapshot:
        """Returns the mean for evaluation alone, which leaves all as it is."""
        if self.guard is None:
            mean = self.workers.mean(lambda s: s.weights + s.statistics, "eval")
        else:
            mean = self._guarded_average()
        n = len(self._w0)
        weights = self.workers.worker.constrain(tuple(mean[:n]))
        return Snapshot(weights, self._by_their_marks(mean[n:], "eval"))

    def _guarded_average(self) -> list[tf.Tensor]:
        scales, shares = self.guard.judge(self._norms("eval"))

        def send(k: Any, snapshot: Snapshot) -> Message:
            # Not w_0 + c u: where c is 1, this is w to the last bit.
            weights = [
                scales[k] * w + (1.0 - scales[k]) * w0
                for w, w0 in zip(snapshot.weights, self._w0, strict=True)
            ]
            return Message([weights, list(snapshot.statistics)], ())

        def read(parts: list[list[tf.Tensor]]) -> list[tf.Tensor]:
            return tf.nest.flatten(parts)

        return self.workers.mean_sent(send, read, shares, True, "eval")

    def _mean_models(self) -> Snapshot:
        def travels(snapshot):
            if self.average_statistics:
                return snapshot.weights + snapshot.statistics
            return snapshot.weights

        mean = self.workers.mean(travels, "model")
        n = len(self._w0)
        statistics = self._by_their_marks(mean[n:], "model")
        return Snapshot(tuple(mean[:n]), statistics)

    def _by_their_marks(self, means: Vector, kind: str) -> Vector:
        """Returns statistics; of those that are marked it is not the mean."""
        marked = self.workers.worker.marked
        if not marked or not means:
            return tuple(means)
        layout = self.workers.worker.statistics.layout

        def own(snapshot):
            values = layout.unpack(snapshot.statistics)
            return tf.concat([tf.reshape(values[i], [-1]) for i in marked], 0)

        rows = self.workers.rows(own, kind)
        values = layout.unpack(means)
        sizes = [values[i].shape.num_elements() for i in marked]
        parts = tf.split(rows, sizes, axis=1)
        for (i, rule), part in zip(marked.items(), parts, strict=True):
            reduced = variable_groups.reduce_rows(rule, part)
            values[i] = tf.reshape(reduced, values[i].shape)
        return layout.pack(values)

    def _norms(self, kind: str = "state") -> tf.Tensor:
        """Returns ||u_k|| of all workers, [K]."""
        return tf.sqrt(self.workers.all_of(self._squared_norm, kind))

    def _squared_norm(self, snapshot: Snapshot) -> tf.Tensor:
        drift = vectors.difference(snapshot.weights, self._w0)
        return vectors.squared_norm(drift)

    def _send(self, k, snapshot, step, scales) -> Message:
        drift = vectors.subtract(snapshot.weights, self._w0)
        if scales is not None:
            drift = tuple(scales[k] * bucket for bucket in drift)
        if snapshot.residual:
            pairs = zip(drift, snapshot.residual, strict=True)
            drift = tuple(bucket + left for bucket, left in pairs)
        finite = tf.math.is_finite(vectors.squared_norm(drift))
        parts, residual = [], []
        for i, bucket in enumerate(drift):
            number = tf.cast(k, tf.int32) * len(drift) + i
            seed = tf.stack([tf.cast(step, tf.int32), number])
            sent = self.compression.encode(bucket, seed)
            # Rounded to whole numbers, NaN would be lost.
            parts.append([_or_nan(finite, part) for part in sent])
            if snapshot.residual:
                size = bucket.shape[0]
                residual.append(bucket - self.compression.decode(sent, size))
        return Message(parts, tuple(residual))

    def _read(self, parts: list[list[tf.Tensor]]) -> list[tf.Tensor]:
        return [
            self.compression.decode(sent, bucket.shape[0])
            for sent, bucket in zip(parts, self._w0, strict=True)
        ]


def _or_nan(finite, part):
    if not part.dtype.is_floating:
        return part
    return tf.where(finite, part, tf.cast(float("nan"), part.dtype))
