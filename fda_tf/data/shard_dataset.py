"""The data of one worker, an epoch an iteration.

The batches of step t are a pure function of (seed, worker, t): the same as in
the simulation and in the own loop. What there is to keep of an interrupted
run is one number, the position.
"""

import numbers
import sys
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fda_tf.data import sources


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


def shard_of(
    own: Any,
    size: int | None,
    seed: int,
    worker: int,
    steps: int,
    buffer: int,
) -> Shard:
    """Returns the Shard of one worker's part.

    Args:
      own: arrays, or a dataset of samples or of batches.
      size: the samples of a batch; None if `own` has batches.
      seed: of the shuffles.
      worker: whose it is.
      steps: of an epoch.
      buffer: samples of a dataset that are shuffled at a time.
    """
    if isinstance(own, tf.data.Dataset):
        passes = _passes(own, size, seed, worker, buffer)
        return _epochs(passes, steps).prefetch(tf.data.AUTOTUNE)
    with tf.device("CPU:0"):  # where tf.data runs
        source = sources.ArraySource([own], size, "passes", seed, worker)
    # This map lies outside of _epochs, as instantiating it takes 20 ms.
    # AutoGraph would rewrite all that draws a batch, which takes as long as a
    # hundred batches.
    batch = tf.autograph.experimental.do_not_convert(
        lambda step: source.batch(worker, step)
    )
    epochs = _epochs(tf.data.Dataset.range, steps).map(batch)
    return epochs.prefetch(tf.data.AUTOTUNE)


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
    own: tf.data.Dataset,
    size: int | None,
    seed: int,
    worker: int,
    buffer: int,
) -> Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]:
    """Returns what gives the batches of steps start to stop of a dataset.

    Args:
      own: the worker's samples; if `size` is None, its batches.
      size: of a batch.
      seed: of the shuffles.
      worker: whose they are.
      buffer: samples that are shuffled at a time.
    """
    samples = max(int(own.cardinality()), 0)  # 0: unknown
    at_once = size or 1
    if size is None:
        (batch,) = own.take(1)
        buffer = -(-buffer // int(tf.nest.flatten(batch)[0].shape[0]))

    def one_pass(number):
        # Else the order would depend on tf.random.set_seed, too.
        tf.compat.v1.get_default_graph().seed = 1
        return own.shuffle(
            buffer,
            seed=_pass_seed(seed, worker, number),
            reshuffle_each_iteration=False,
        )

    def batches(start, stop):
        done = start * at_once
        first = done // samples if samples else tf.zeros_like(start)
        passes = tf.data.Dataset.range(first, tf.int64.max)
        rest = passes.flat_map(one_pass).skip(done - first * samples)
        if size is not None:
            rest = rest.batch(size, drop_remainder=True)
        return rest.take(stop - start)

    return batches


def _pass_seed(seed: int, worker: int, number: tf.Tensor) -> tf.Tensor:
    """Returns one int64 seed for one pass, of 42 well mixed bits."""
    keys = sources._keys(
        seed, tf.constant(worker, tf.int64), tf.reshape(number, [1])
    )
    return keys[0, 0] + keys[0, 1] * 2**21


class _Given:
    """In a filter of warnings, in place of a pattern for their text.

    Keras warns, by a text alone, before it has called anything of the data's
    or of the callbacks'. What the data are stands in the frame that warns.

    Args:
      kind: the class of the data that are shuffled.
    """

    def __init__(self, kind: type):
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Given) and self.kind is other.kind

    def match(self, text: str) -> bool:
        """Returns whether it is Keras' warning, of such data."""
        if not text.startswith("`shuffle=True` was passed, but will be ign"):
            return False
        frame = sys._getframe(1)
        while frame and frame.f_code.co_name != "get_data_adapter":
            frame = frame.f_back
        return frame is not None and isinstance(
            frame.f_locals.get("x"), self.kind
        )


def do_not_warn(kind: type) -> None:
    """Keeps Keras from warning of data of a class that it ignores shuffle."""
    ours = ("ignore", _Given(kind), UserWarning, None, 0)
    if ours not in warnings.filters:
        warnings.filters.insert(0, ours)
