"""Where a worker's batches come from.

A source gives `batch(worker, step)` inside the compiled loop. For arrays the
batch is a pure function of (seed, worker, step), so that simulation, cluster
and a resumed run draw the same samples with no state to keep.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from fda_tf import validate
from fda_tf.data import arrays, specs

SAMPLINGS = ("passes", "independent")


class ArraySource:
    """Batches from arrays: shuffled passes, or independent draws.

    `passes`: number j of batch t is sample number p = t B + j of an endless
    series of shuffled passes over the shard; pass p // n is shuffled by
    (seed, worker, p // n). Passes run on across batches, which are always
    full. `independent`: each batch is the head of a fresh shuffle of the
    whole shard, by (seed, worker, t), as in the paper's own simulator.

    Args:
      shards: a list with the (x,), (x, y) or (x, y, sample_weight) of each
        worker here; x and y may be nested structures of what `fit` takes for
        an array. Batches are as `fit` makes them: floats are
        `keras.config.floatx()`, lists are tuples, (x,) is x.
      batch_size: B, samples.
      sampling: one of `SAMPLINGS`.
      seed: of the shuffles.
      first: the number of the first shard's worker.

    Raises:
      ValueError: for an empty shard, arrays of unlike lengths, a batch size
        below 1 or an unknown sampling.

    Example:
      >>> source = ArraySource([(np.arange(4.0), np.arange(4))], batch_size=2)
      >>> one_pass = [source.batch(0, t)[1].numpy().tolist() for t in (0, 1)]
      >>> sorted(one_pass[0] + one_pass[1])
      [0, 1, 2, 3]
    """

    def __init__(
        self,
        shards: Sequence[Any],
        batch_size: int = 32,
        sampling: str = "passes",
        seed: int = 0,
        first: int = 0,
    ):
        if sampling not in SAMPLINGS:
            raise ValueError(
                f"Unknown sampling {sampling!r}. Known: {', '.join(SAMPLINGS)}."
            )
        self.batch_size = validate.count("batch_size", batch_size, "samples")
        self.sampling, self.first = sampling, first
        self.seed = validate.seed("seed", seed)
        whose = [f"The shard of worker {first + k}" for k in range(len(shards))]
        parts = list(map(arrays.read, shards, whose))
        sizes = list(map(arrays.length, parts, whose))
        self.samples, self.sizes = sum(sizes), sizes
        _check_alike(parts, first)
        if self.batch_size > min(sizes):
            logging.warning(
                "A batch of %d samples is larger than the smallest shard (%d "
                "samples): it has some of them several times.",
                self.batch_size,
                min(sizes),
            )
        with tf.init_scope():
            self._arrays = keras.utils.pack_x_y_sample_weight(
                *arrays.to_tensors(parts)
            )
            self._sizes = tf.constant(sizes, tf.int64)
            self._starts = tf.constant(np.cumsum([0] + sizes[:-1]), tf.int64)

    def epoch_steps(self, samples: int, workers: int) -> Fraction:
        """Returns n / (B K), the steps of a global epoch."""
        return Fraction(samples, self.batch_size * workers)

    def indices(self, worker: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns the batch's int64 [B] positions in the worker's shard."""
        step, worker = tf.cast(step, tf.int64), tf.cast(worker, tf.int64)
        size = self._sizes[worker - self.first]
        place = tf.range(self.batch_size, dtype=tf.int64)
        if self.sampling == "passes":
            place += step * self.batch_size
            shuffle = place // size
        else:
            shuffle = place // size + step * (1 + self.batch_size // size)
        return tf.raw_ops.RandomIndexShuffle(
            index=place % size,
            seed=_keys(self.seed, worker, shuffle),
            max_index=size - 1,
            rounds=8,
        )

    def batch(self, worker: tf.Tensor, step: tf.Tensor) -> Any:
        """Returns the worker's batch of this step, as `train_step` takes it."""
        rows = self.indices(worker, step)
        rows += self._starts[tf.cast(worker, tf.int64) - self.first]
        return arrays.gather(self._arrays, rows)

    def skip(self, step: int) -> None:
        """Goes to a step: nothing to do, as batches are given by it."""

    def example(self) -> Any:
        """Returns one batch, to build the model on."""
        return self.batch(self.first, 0)

    def spec(self) -> Any:
        """Returns the `tf.TypeSpec`s of every batch."""
        return specs.of(self.example())


class DatasetSource:
    """Batches from tf.data: one batched dataset for each worker here.

    Datasets repeat when they end, so they must be such that can be read
    again. Several are dealt in turn, so batches must be asked for in the
    order of the workers. An epoch is counted in batches.

    Args:
      datasets: one batched `tf.data.Dataset` of (x, y) a worker.

    Raises:
      ValueError: for a dataset that is empty.

    Example:
      >>> dataset = tf.data.Dataset.range(4).map(lambda i: (i, i)).batch(2)
      >>> source = DatasetSource([dataset])
      >>> source.batch(0, 0)[0].numpy().tolist()
      [0, 1]
    """

    def __init__(self, datasets: Sequence[tf.data.Dataset], first: int = 0):
        counts = [int(dataset.cardinality()) for dataset in datasets]
        self.sizes = [max(0, count) for count in counts]  # batches
        self.samples = sum(counts) if min(counts) > 0 else None
        batches = [next(iter(dataset), None) for dataset in datasets]
        if any(batch is None for batch in batches):
            empty = [first + k for k, b in enumerate(batches) if b is None]
            raise ValueError(
                f"The dataset of worker {', '.join(map(str, empty))} is empty. "
                "Give every worker at least one batch."
            )
        self._count = len(datasets)
        self._first_batch = batches[0]
        self._spec = specs.without_optionals(datasets[0].element_spec)
        merged = datasets[0].repeat()
        if len(datasets) > 1:
            merged = tf.data.Dataset.choose_from_datasets(
                [dataset.repeat() for dataset in datasets],
                tf.data.Dataset.range(len(datasets)).repeat(),
            )
        self._iterator = iter(merged.prefetch(tf.data.AUTOTUNE))

    def epoch_steps(self, samples: int | None, workers: int) -> Fraction | None:
        """Returns the steps of a global epoch: batches over workers."""
        return Fraction(samples, workers) if samples else None

    def batch(self, worker: tf.Tensor, step: tf.Tensor) -> Any:
        """Returns the next batch."""
        return next(self._iterator)

    def skip(self, step: int) -> None:
        """Draws what the steps before this one have drawn."""
        for _ in range(step * self._count):
            self._iterator.get_next_as_optional()

    def example(self) -> Any:
        """Returns one batch, to build the model on."""
        return self._first_batch

    def spec(self) -> Any:
        """Returns the `tf.TypeSpec`s of every batch."""
        return self._spec


def source(
    shards: Sequence[Any], batch_size: int, sampling: str, seed: int, first=0
) -> ArraySource | DatasetSource:
    """Returns the source for arrays or for datasets, one shard a worker.

    Raises:
      ValueError: for a mixture of both, or no shard at all.
    """
    if not shards:
        raise ValueError("No shards were given: expected one for each worker.")
    are_datasets = [isinstance(s, tf.data.Dataset) for s in shards]
    if any(are_datasets) != all(are_datasets):
        raise ValueError(
            "Expected one shard for each worker, either all of them tuples "
            "(x, y) of arrays or all batched tf.data.Datasets; received "
            f"{[type(s).__name__ for s in shards][:8]}."
        )
    if all(are_datasets):
        return DatasetSource(shards, first)
    return ArraySource(shards, batch_size, sampling, seed, first)


def shares(samples: Sequence[int]) -> list[float]:
    """Returns what each worker counts for, by its samples; 1 on average.

    Raises:
      ValueError: if a worker does not know how many it has.

    Example:
      >>> shares([30, 10])
      [1.5, 0.5]
    """
    if not all(samples):
        raise ValueError(
            'weighting="samples" needs to know how many each worker has, and '
            "a dataset does not tell (its cardinality is unknown or infinite). "
            'Give arrays, or weighting="equal".'
        )
    return [float(n) * len(samples) / float(sum(samples)) for n in samples]


def _keys(seed: int, worker: tf.Tensor, shuffle: tf.Tensor) -> tf.Tensor:
    """Returns the int64 [n, 3] keys of n shuffles, by SplitMix64.

    The kernel keeps only the low bits of each key (8, for shards of up to
    2^16 samples), so these must be well mixed: plain numbers would give the
    same shuffle every 256 passes.
    """
    mixed = tf.fill(tf.shape(shuffle), tf.constant(seed, tf.int64))
    for number in (worker, shuffle):
        mixed = (mixed ^ number) + _signed(0x9E3779B97F4A7C15)
        mixed = (mixed ^ _right(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ _right(mixed, 27)) * _signed(0x94D049BB133111EB)
        mixed = mixed ^ _right(mixed, 31)
    keys = [mixed, _right(mixed, 21), _right(mixed, 42)]
    return tf.stack(keys, axis=1) & (2**21 - 1)


def _right(number: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(number, tf.constant(bits, tf.int64))


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _check_alike(parts: Sequence[tuple], first: int) -> None:
    """Raises ValueError unless all shards hold samples of one form."""
    forms = list(map(arrays.forms, parts))
    for k, form in enumerate(forms):
        if form != forms[0]:
            raise ValueError(
                f"The samples of worker {first + k} are {form}, those of "
                f"worker {first} {forms[0]}; expected samples of one shape and "
                "type on all workers."
            )
