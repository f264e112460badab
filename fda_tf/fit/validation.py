"""How the workers of a fit evaluate the average at an epoch's end.

Data that are the same on all workers are shared out: each takes 1 / K of the
batches. Data that differ are each worker's own, of which it takes all. What
must see all batches, such as a metric that keeps the first, is evaluated
whole on each worker, and counts once.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from fda_tf.data.digests import Digest
from fda_tf.data.sharding import Shard
from fda_tf.fit.metrics import Metrics, Share
from fda_tf.processes.agreement import Barrier

VALIDATIONS = ("shared", "whole")


class Validation:
    """The validations of one fit, all of the same data.

    Args:
      how: "shared" or "whole".
      barrier: of the fit.

    Attributes:
      running: whether fit itself is evaluating.
    """

    def __init__(self, how: str, barrier: Barrier):
        self._how, self._barrier = how, barrier
        self.running = False
        self._share, self._origins = Share(), []
        self._metrics: Metrics | None = None
        self._place = ""
        self._part: dict[str, Any] | None = None
        self._begun = False

    @contextlib.contextmanager
    def of(
        self,
        model: Any,
        metrics: Metrics | None,
        epoch: int,
        data: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Makes the context of one; gives what this worker is to evaluate.

        Args:
          model: that is evaluated.
          metrics: of the model; None alone.
          epoch: its number, from 1.
          data: the arguments of `model.evaluate`.
        """
        self._metrics, self._begun = metrics, metrics is None
        self._place = f"the validation of epoch {epoch}"
        self.running = True
        try:
            if metrics is not None and self._part is None:
                self._part = self._settle(model, data)
            elif metrics is not None:
                self._barrier.gather(self._place)
            yield data | (self._part or {})
        finally:
            self.running = False

    def begin_batch(self) -> None:
        """Notes the metrics before the first batch: Keras has reset them."""
        if not self._begun:
            self._metrics.begin()
        self._begun = True

    @property
    def counting(self) -> tuple[Share, list]:
        """What this worker's part counts for, and the origins of its logs."""
        return self._share, self._origins

    def end(self) -> None:
        """Comes together with the others, when all have evaluated."""
        self.begin_batch()  # where there was none
        if self._metrics is not None:
            self._barrier.gather(self._place)

    def _settle(self, model: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Settles what each worker evaluates; returns what to put for data."""
        read = _read(model, **data)
        news: dict[str, Any] = dict.fromkeys(("set", "order", "form"))
        divisible = False
        if read is None and not isinstance(data["x"], Shard):
            self._warn(data["x"])
        if read is not None:
            digest = read.digest()
            news = {"set": digest.as_set(), "order": digest.in_order()}
            testing = self._metrics.testing(read.spec)
            self._origins = testing.origins
            divisible = read.same_again and self._metrics.divisible(testing)
            news["form"] = str(read.spec)
        shared = self._how == "shared" and divisible
        everyone = self._barrier.gather(self._place, shared=shared, **news)
        k, chief = self._barrier.process_group.index, everyone[0]
        if chief["set"] is None or _differ(everyone, "set"):
            if read is None:
                return {}
            self._share = Share(True, digest.samples, read.last)
            return read.of_any_size() if _differ(everyone, "form") else {}
        if _differ(everyone, "order") or not all(n["shared"] for n in everyone):
            self._share = Share(k == 0, digest.samples, float(k == 0))
            return {}
        # Where batches are fewer than workers, the last ones count for none.
        parts = min(read.count, len(everyone))
        i = k % parts
        self._share = Share(k < parts, 1.0, float(k == parts - 1))
        first, last = (read.count * j // parts for j in (i, i + 1))
        return read.part(first, last)

    def _warn(self, data: Any) -> None:
        """Says of data that can be read but once how they count."""
        if self._barrier.process_group.is_chief:
            logging.warning(
                "validation_data of type %s cannot be compared with those of "
                "the other workers: each evaluates its own, and all count. "
                "Where all have the same, give arrays, a PyDataset or a "
                "tf.data.Dataset.",
                type(data).__name__,
            )


def _differ(everyone: list[dict], what: str) -> bool:
    return any(news[what] != everyone[0][what] for news in everyone)


class _Batches:
    """What can be read batch by batch, and again from its beginning.

    Attributes:
      same_again: whether it is in the same order, then.
      spec: of a batch.
      count: of batches; like `last`, once `digest` was called.
      last: samples of the last batch.
    """

    same_again = True
    spec = None

    def digest(self):
        digest = Digest()
        self.count = 0
        for batch in self._all():
            if not self.count and self.spec is None:
                self.spec = tf.nest.map_structure(_spec, batch)
            before = digest.samples
            digest.add(batch)
            self.last = digest.samples - before
            self.count += 1
        return digest


class _Dataset(_Batches):
    """A `tf.data.Dataset` of batches."""

    def __init__(self, dataset, steps):
        self._dataset = dataset.take(steps) if steps else dataset
        self.spec = dataset.element_spec

    def _all(self):
        return self._dataset

    def part(self, first, last):
        some = self._dataset.skip(first).take(last - first)
        return _in_place(_of_length(some, last - first))

    def of_any_size(self):
        def relaxed(*batch):
            batch = tf.nest.map_structure(_relaxed, batch)
            return batch if len(batch) > 1 else batch[0]

        return _in_place(_of_length(self._dataset.map(relaxed), self.count))


class _PyDataset(_Batches):
    """A `keras.utils.PyDataset` that knows its length."""

    def __init__(self, dataset, steps):
        self._dataset = dataset
        self._steps = min(len(dataset), steps or len(dataset))
        # One that may shuffle is not asked for its parts.
        own = keras.utils.PyDataset
        self.same_again = all(
            getattr(type(dataset), name) is getattr(own, name)
            for name in ("on_epoch_begin", "on_epoch_end")
        )

    def _all(self) -> Iterator:
        return (self._dataset[i] for i in range(self._steps))

    def part(self, first, last):
        return _in_place(_Some(self._dataset, first, last))

    def of_any_size(self):
        return {}  # they are for Keras, too


def _of_length(dataset: tf.data.Dataset, batches: int) -> tf.data.Dataset:
    """Tells how many batches there are: else Keras' means count one more."""
    return dataset.apply(tf.data.experimental.assert_cardinality(batches))


def _in_place(data: Any) -> dict[str, Any]:
    """Returns what `evaluate` takes to read these and not what fit was given.

    Keras' own iterator, which fit has made, is then not to be used.
    """
    return {
        "x": data,
        "y": None,
        "sample_weight": None,
        "steps": None,
        "_use_cached_eval_dataset": False,
    }


def _relaxed(tensor: Any) -> Any:
    """Returns a tensor of which it is not known how many samples it has."""
    if not isinstance(tensor, tf.Tensor) or not tensor.shape.rank:
        return tensor
    shape = [None, *tensor.shape[1:]]
    return tf.compat.v1.placeholder_with_default(tensor, shape)


class _Some(keras.utils.PyDataset):
    """Some batches of another one, in a row."""

    def __init__(self, dataset, first, last):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self._dataset, self._first, self._last = dataset, first, last

    def __len__(self):
        return self._last - self._first

    def __getitem__(self, index):
        return self._dataset[self._first + index]


def _read(
    model: Any, x=None, y=None, sample_weight=None, steps=None, **_
) -> _Batches | None:
    """Returns what reads the data; None if they cannot be read twice.

    Nor is what `fda_tf.shard` made read here: it is each worker's own.
    """
    if isinstance(x, Shard):
        return None
    if isinstance(x, tf.data.Dataset):
        endless = x.cardinality() == tf.data.INFINITE_CARDINALITY
        return None if endless and not steps else _Dataset(x, steps)
    if isinstance(x, keras.utils.PyDataset):
        return _PyDataset(x, steps) if x.num_batches else None
    # Of arrays, what Keras itself has made for its validation.
    made = getattr(model, "_eval_epoch_iterator", None)
    leaves = tf.nest.flatten((x, y, sample_weight))
    if made is None or not all(map(_has_rows, leaves)):
        return None  # such as a generator
    return _Dataset(made.data_adapter.get_tf_dataset(), steps)


def _has_rows(leaf: Any) -> bool:
    return leaf is None or bool(getattr(leaf, "shape", None))


def _spec(leaf: Any) -> tf.TypeSpec | None:
    """Returns the spec of batches of any size."""
    if leaf is None:
        return None
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return tf.type_spec_from_value(leaf)
    array = leaf if isinstance(leaf, tf.Tensor) else np.asarray(leaf)
    text = array.dtype.kind in "OUS" if isinstance(array, np.ndarray) else False
    dtype = tf.string if text else tf.as_dtype(array.dtype)
    return tf.TensorSpec([None, *array.shape[1:]], dtype)
