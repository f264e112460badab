"""What happened in a fit: in the callback's lists, the logs, TensorBoard."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from fda_tf.algorithm.policies import VarianceThreshold
from fda_tf.core.loop import CAUSES, Loop
from fda_tf.fit.compiled_steps import ExecutionResult
from fda_tf.fit.metrics import Metrics, Share
from fda_tf.run.sync_log import SyncLog
from fda_tf.run.trainer import Trainer


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


def reduce(
    logs: Any,
    origins: Sequence,
    metrics: Metrics,
    share: Share,
    process_group: Any,
) -> Any:
    """Returns the logs of the last step, equal on all workers; all must ask.

    Those that are results of metrics are the reduced metrics' results. Other
    numbers are means over the workers, by the samples of the last step of
    each; what is no number, or has another shape on each, is that of the first
    worker with most of them.

    Args:
      logs: what the last step returned.
      origins: whose result each of the logs is; as in `Recorded`.
      metrics: of the model, reduced already.
      share: what this worker's last step counts for.
      process_group: the processes of the job.
    """
    leaves = tf.nest.flatten(logs)
    if len(origins) != len(leaves):
        origins = [None] * len(leaves)
    others = [i for i, origin in enumerate(origins) if origin is None]
    together = _together([leaves[i] for i in others], share, process_group)
    for i, value in zip(others, together, strict=True):
        leaves[i] = value
    for i, origin in enumerate(origins):
        if origin is not None:
            leaves[i] = metrics.result(*origin)
    return tf.nest.pack_sequence_as(logs, leaves)


def _together(leaves: list, share: Share, process_group: Any) -> list:
    """Returns the leaves, each as the mean or as one worker has it."""
    values = [_array(leaf) for leaf in leaves]
    forms = [None if v is None else [v.dtype.name, *v.shape] for v in values]
    everyone = process_group.gather_json({"forms": forms, "weight": share.last})
    places = range(len(leaves))
    means = [
        i
        for i in places
        if forms[i] and all(each["forms"][i] == forms[i] for each in everyone)
    ]
    weights = np.array([each["weight"] for each in everyone])
    weights = weights if weights.any() else np.ones_like(weights)
    _put_means(leaves, {i: values[i] for i in means}, weights, process_group)
    rest = [i for i in places if i not in means]
    if rest:
        k = int(weights.argmax())
        own = [_to_json(leaves[i]) for i in rest if process_group.index == k]
        for i, value in zip(
            rest, process_group.gather_json(own)[k], strict=True
        ):
            leaves[i] = _from_json(value)
    return leaves


def _put_means(
    leaves: list,
    values: dict[int, np.ndarray],
    weights: np.ndarray,
    process_group: Any,
) -> None:
    """Puts the means of what all have into the places of `values`."""
    flat = [np.ravel(value).astype(np.float64) for value in values.values()]
    if not flat:
        return
    rows = process_group.gather(np.concatenate(flat))
    mean = np.average(rows[weights > 0], 0, weights[weights > 0])
    ends = np.cumsum([len(each) for each in flat])[:-1]
    for i, part in zip(values, np.split(mean, ends), strict=True):
        leaves[i] = part.reshape(values[i].shape)


def _array(leaf: Any) -> np.ndarray | None:
    """Returns a leaf as an array of numbers; None if it is none."""
    if leaf is None or isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return None
    array = np.asarray(leaf)
    numbers = array.dtype.kind in "fiub" or array.dtype == tf.bfloat16
    return array if numbers else None


def _to_json(leaf: Any) -> Any:
    """Returns a leaf as JSON can hold it: its bytes as latin-1."""
    if leaf is None:
        return None
    if isinstance(leaf, tf.RaggedTensor):
        return {"list": leaf.to_list()}
    if isinstance(leaf, tf.SparseTensor):
        leaf = tf.sparse.to_dense(leaf)
    array = np.asarray(leaf)
    values = array.tolist()
    if array.dtype.kind in "OS":
        texts = array.astype(object).ravel().tolist()
        texts = [t if isinstance(t, bytes) else str(t).encode() for t in texts]
        values = [t.decode("latin-1") for t in texts]
        return {"bytes": values, "shape": array.shape}
    return {"values": values, "dtype": array.dtype.name}


def _from_json(value: Any) -> Any:
    """Returns what `_to_json` was given, as Keras would show it."""
    if value is None:
        return None
    if "list" in value:
        return value["list"]
    if "bytes" in value:
        texts = [t.encode("latin-1") for t in value["bytes"]]
        return np.array(texts, object).reshape(value["shape"])
    return np.array(value["values"], value["dtype"])


class Record:
    """Writes down what the steps of a fit did.

    Args:
      callback: the `Averaging` whose lists these are.
    """

    def __init__(self, callback: Any):
        self.syncs, self.variance = SyncLog(callback.syncs), callback.variance
        self._name = type(callback).__name__
        self._sync = callback.algorithm.sync
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

    def steps(self, last: int, done: ExecutionResult) -> None:
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
            # With one worker the variance is 0.
            none = np.nan if self.variance else 0.0
            extra["variance"] = next(checked, none)
            extra["theta"] = self._theta
        return extra

    def _look(self) -> None:
        syncs, sent = self._loop.sent()
        self._sent = int(syncs), int(sent)
        self._theta = float(self._loop.theta)

    def _note(self, step: Any, cause: str, estimate: float) -> None:
        self.syncs.add(int(step), cause, estimate)
        if self._points:
            self._points.synchronisation(int(step), estimate)


def _told(sync: Any) -> str:
    """Returns what a policy is, in few words.

    Example:
      >>> _told(VarianceThreshold("auto", "linear"))
      'LinearFDA, theta auto'
      >>> from fda_tf import Every
      >>> _told(Every(steps=8))
      'Every(steps=8)'
    """
    if not isinstance(sync, VarianceThreshold):
        return repr(sync)
    name = type(sync.monitor).__name__.removesuffix("Monitor")
    return f"{name}FDA, theta {sync.theta}"
