"""A worker's own part of the data, as `model.fit` takes it.

The batches of step t are a pure function of (seed, worker, t): the same as in
the simulation and in the own loop. What there is to keep of an interrupted
run is one number, the position.
"""

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from fda_tf import _pieces, checks
from fda_tf import data as data_lib
from fda_tf import replicas as replicas_lib


def shard(
    data: Any,
    batch_size: int = 32,
    *,
    seed: int = 0,
    equal: bool = True,
    mine: bool = False,
    steps_per_epoch: int | None = None,
    shuffle_buffer: int = 10_000,
    replicas: replicas_lib.Replicas | None = None,
) -> "Shard":
    """Returns this worker's part of the data, shuffled, for `model.fit`.

    Every worker calls it with the same settings. Batches are always full:
    shuffled passes over the worker's samples run on from batch to batch and
    from epoch to epoch, and pass p is shuffled by (seed, worker, p). An epoch
    is n / (B K) steps, rounded up, on all workers: with shards of unlike
    sizes, small ones go on to their next pass and large ones finish theirs
    in the next epoch.

    Arrays are dealt as a function of the seed: the parts are random and
    disjoint. A `tf.data.Dataset` is one of samples, not of batches (which
    cannot be told apart), not shuffled and the same at each reading: worker k
    takes samples k, k + K, ... and shuffles them with a buffer. One of
    unknown size is read from its beginning at every epoch, up to where the
    last one ended, which takes longer each time:
    `dataset.apply(tf.data.experimental.assert_cardinality(n))` mends that.

    Args:
        data: (x, y) or (x, y, sample_weight), (nested structures of) arrays
            [n, ...], or a `tf.data.Dataset` of such samples.
        batch_size: B, samples.
        seed: of the split and of the shuffles.
        equal: whether each worker has floor(n / K) samples, which leaves out
            up to K - 1 of them, or all are dealt and some workers have one
            more. A dataset of unknown size is always dealt whole.
        mine: whether data are this worker's own already, of any length, and
            not those of all workers; the lengths are then gathered.
        steps_per_epoch: steps, if not n / (B K) rounded up.
        shuffle_buffer: samples that are shuffled at a time, of a dataset.
        replicas: the workers; by default those that `connect()` joined.

    Returns:
        A dataset whose every iteration is one epoch.

    Raises:
        ValueError: fewer samples than workers, arrays of unlike lengths, no
            sample, a batch size below 1, an impossible seed, or a dataset of
            unknown size and no `steps_per_epoch`.
        RuntimeError: if there is a job and `connect()` was not called.

    Example:
        >>> x = np.arange(6)
        >>> epoch = shard((x, x % 2), batch_size=4)  # alone: all of it
        >>> len(epoch), [len(x) for x, y in epoch]
        (2, [4, 4])
        >>> epoch.position
        2
        >>> epoch.position = 1  # as of a run that was stopped after one step
        >>> len(list(epoch)), epoch.position
        (1, 2)
    """
    replicas = replicas_lib.current() if replicas is None else replicas
    size = checks.count("batch_size", batch_size, "samples")
    seed, k = checks.seed("seed", seed), replicas.index
    if steps_per_epoch is not None:
        checks.count("steps_per_epoch", steps_per_epoch, "steps")
    if isinstance(data, tf.data.Dataset):
        buffer = checks.count("shuffle_buffer", shuffle_buffer, "samples")
        own, total = _dataset_part(data, replicas, equal, mine)
        steps = steps_per_epoch or _steps(total, size * replicas.count)
        epochs = _epochs(_passes(own, size, seed, k, buffer), steps)
    else:
        own, total = _array_part(data, replicas, seed, equal, mine)
        steps = steps_per_epoch or _steps(total, size * replicas.count)
        with tf.device("CPU:0"):  # where tf.data runs
            source = data_lib.ArraySource([own], size, "passes", seed, k)
        # This map lies outside of _epochs, as instantiating it takes 20 ms.
        # AutoGraph would rewrite all that draws a batch, which takes as long
        # as a hundred batches.
        batch = tf.autograph.experimental.do_not_convert(
            lambda step: source.batch(k, step)
        )
        epochs = _epochs(tf.data.Dataset.range, steps).map(batch)
    return epochs.prefetch(tf.data.AUTOTUNE)


class Shard(tf.data.Dataset):
    """One worker's batches, an epoch an iteration; `shard` makes it.

    An iteration is the epoch that begins at `position`, from there to the
    next multiple of `steps_per_epoch`. It takes that epoch when its first
    batch is drawn, not before (Keras makes iterators that it never uses), and
    `position` is then where the epoch ends. So an epoch that is given up
    midway, or of which one batch was looked at, counts as a whole one: set
    `position` to have it again, as a resumed run sets it to its step. At the
    end of an epoch begun midway Keras warns that data ran out, and goes on;
    with steps_per_execution=1 it also counts one step too many in
    `optimizer.iterations`, unless the train function stops it first.

    Its iterators have it as their attribute `shard`. What `map` and
    `prefetch` return is a Shard too, with the same position, so all of this
    holds with `fit(class_weight=...)`. Other methods return plain datasets:
    they too begin at the position and move it, but do not know their length.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        steps_per_epoch: int,
        position: tf.Variable,
    ):
        self.steps_per_epoch = steps_per_epoch
        self._dataset, self._position = dataset, position
        super().__init__(tf.data.experimental.to_variant(dataset))

    @property
    def position(self) -> int:
        """The step at which the next iteration begins; can be set."""
        return int(self._position.numpy())

    @position.setter
    def position(self, step: int):
        whole = isinstance(step, numbers.Integral) and not isinstance(
            step, bool
        )
        if not (whole and step >= 0):
            raise ValueError(
                f"position={step!r}: expected a whole number of steps, at "
                "least 0. Epoch e begins at e * steps_per_epoch."
            )
        self._position.assign(int(step))

    def cardinality(self) -> tf.Tensor:
        """Returns the steps of a whole epoch, int64."""
        return tf.constant(self.steps_per_epoch, tf.int64)

    def map(self, *args: Any, **kwargs: Any) -> "Shard":
        """Returns the Shard of what a function makes of each batch."""
        return self._alike(super().map(*args, **kwargs))

    def prefetch(self, *args: Any, **kwargs: Any) -> "Shard":
        """Returns the Shard that prepares some batches ahead."""
        return self._alike(super().prefetch(*args, **kwargs))

    @property
    def element_spec(self) -> Any:
        """The `tf.TensorSpec`s of a batch."""
        return self._dataset.element_spec

    def __iter__(self):
        iterator = super().__iter__()
        iterator.shard = self  # for a callback, which sees the iterator alone
        return iterator

    def _inputs(self):
        return [self._dataset]

    def _alike(self, dataset):
        return Shard(dataset, self.steps_per_epoch, self._position)


def _steps(samples: int | None, at_once: int) -> int:
    """Returns the steps of an epoch, the last of which may run over it."""
    if samples is None:
        raise ValueError(
            "Received a dataset of unknown or infinite size; expected one "
            "whose cardinality() is known. Give steps_per_epoch=, or the "
            "number n of its samples by "
            "dataset.apply(tf.data.experimental.assert_cardinality(n))."
        )
    return -(-samples // at_once)


def _epochs(
    batches: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset], steps: int
) -> Shard:
    """Returns the Shard of what `batches(start, stop)` gives for an epoch."""
    with tf.init_scope(), tf.device("CPU:0"):  # where tf.data runs
        position = tf.Variable(0, trainable=False, dtype=tf.int64)

    @tf.autograph.experimental.do_not_convert
    def next_epoch(_):
        start = position.read_value()
        stop = (start // steps + 1) * steps
        position.assign(stop)
        return batches(start, stop)

    options = tf.data.Options()
    options.deterministic = True
    # Its thread can miss that an iterator ends, and hold up the end (of the
    # process, too) for as long as the iterator was there, or a minute.
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    # Traced here, once; it runs whenever an iterator draws its first batch.
    dataset = tf.data.Dataset.from_tensors(0).flat_map(next_epoch)
    return Shard(dataset.with_options(options), steps, position)


def _passes(
    own: tf.data.Dataset, size: int, seed: int, worker: int, buffer: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]:
    """Returns what gives the batches of steps start to stop of a dataset."""
    samples = max(int(own.cardinality()), 0)  # 0: unknown

    def one_pass(number):
        # Else the order would depend on tf.random.set_seed, too.
        tf.compat.v1.get_default_graph().seed = 1
        return own.shuffle(
            buffer,
            seed=_pass_seed(seed, worker, number),
            reshuffle_each_iteration=False,
        )

    def batches(start, stop):
        first = start * size // samples if samples else tf.zeros_like(start)
        passes = tf.data.Dataset.range(first, tf.int64.max)
        rest = passes.flat_map(one_pass).skip(start * size - first * samples)
        return rest.batch(size, drop_remainder=True).take(stop - start)

    return batches


def _pass_seed(seed: int, worker: int, number: tf.Tensor) -> tf.Tensor:
    """Returns one int64 seed for one pass, of 42 well mixed bits."""
    keys = data_lib._keys(
        seed, tf.constant(worker, tf.int64), tf.reshape(number, [1])
    )
    return keys[0, 0] + keys[0, 1] * 2**21


def _array_part(
    data: Any,
    workers: replicas_lib.Replicas,
    seed: int,
    equal: bool,
    mine: bool,
) -> tuple[Any, int]:
    """Returns this worker's arrays and the samples of all workers."""
    k = workers.index

    def measure():
        if not isinstance(data, (tuple, list)):
            raise ValueError(
                f"Received data of type {type(data).__name__}; expected (x, y)"
                " or (x, y, sample_weight), a tuple of arrays, or a "
                "tf.data.Dataset of samples."
            )
        return data_lib._length(data_lib._arrays(data, k), k)

    if mine:
        return data, sum(_gather_sizes(measure, workers))
    n = measure()
    _pieces.check_workers(workers.count, n)
    order = np.random.default_rng(seed).permutation(n)
    if equal:
        order = order[: n - n % workers.count]
    piece = np.sort(_pieces.cut(order, workers.count)[k])
    own = tf.nest.map_structure(lambda array: np.asarray(array)[piece], data)
    return own, len(order)


def _dataset_part(
    data: tf.data.Dataset,
    workers: replicas_lib.Replicas,
    equal: bool,
    mine: bool,
) -> tuple[tf.data.Dataset, int | None]:
    """Returns this worker's samples and the number of all, if it is known."""

    def measure(shards):
        n = int(data.cardinality())  # below 0: unknown or infinite
        seen = n if n >= 0 else sum(1 for _ in data.take(shards))
        _pieces.check_workers(shards, seen)
        return n

    if mine:
        sizes = _gather_sizes(lambda: measure(1), workers)
        return data, sum(sizes) if min(sizes) > 0 else None
    n = measure(workers.count)
    own = data.shard(workers.count, workers.index)
    if n < 0:
        return own, None
    if equal:
        n -= n % workers.count
        own = own.take(n // workers.count)
    return own, n


def _gather_sizes(
    measure: Callable[[], int], workers: replicas_lib.Replicas
) -> list[int]:
    """Returns the samples of each worker; refuses on all workers or none.

    Raises:
      ValueError: what `measure` raises here, or that it raised elsewhere.
    """
    size, refusal = 0, None
    try:
        size = measure()
    except ValueError as error:
        refusal = error  # the others wait: tell them first
    sizes = workers.gather(np.int64(size)).tolist()
    if refusal:
        raise refusal
    if 0 in sizes:
        refused = [k for k, size in enumerate(sizes) if not size]
        raise ValueError(
            f"The data of workers {refused} were refused: expected at least "
            "one sample on each worker. See what those workers say themselves."
        )
    return sizes
