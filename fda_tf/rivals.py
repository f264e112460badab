"""Rivals of FDA on a clock: methods that lengthen or shorten their rounds."""

import dataclasses
import math

import tensorflow as tf

from fda_tf import checks
from fda_tf.sync import ByClock, Clock, Every, Schedule
from fda_tf.theta_schedule import told


@dataclasses.dataclass(frozen=True)
class QuadraticRule(ByClock):
    """Synchronises every H = max(H0, floor((a / lr)^2)) steps: QSR.

    lr is the learning rate at the beginning of the round: as it falls, rounds
    grow longer.

    Args:
      rate: the optimizer's learning rate, above 0: a number, or its
        `keras.optimizers.schedules.LearningRateSchedule`.
      growth: a, above 0, in units of the rate.
      least: H0, steps, at least 1.

    Raises:
      ValueError: for numbers out of their range.

    Example:
      >>> rule = QuadraticRule(rate=0.1, growth=0.25, least=4)
      >>> [bool(rule.due(Clock(t, t, None))) for t in (5, 6)]
      [False, True]

    Source: Gu et al., A Quadratic Synchronization Rule for Distributed Deep
    Learning, ICLR 2024 (arXiv 2310.14423).
    """

    rate: float | Schedule
    growth: float
    least: int = 1

    def __post_init__(self):
        first = self.rate
        if isinstance(first, Schedule):
            first = float(first(0))
        checks.real("QuadraticRule: rate", first, 1e-30, "a number above 0")
        checks.real("QuadraticRule: growth", self.growth, 0.0, "at least 0")
        least = checks.count("QuadraticRule: least", self.least, "steps")
        object.__setattr__(self, "least", least)

    def due(self, clock: Clock) -> tf.Tensor:
        """Returns whether the round is as long as its rate asks for."""
        rate = self.rate
        if isinstance(rate, Schedule):
            rate = tf.cast(rate(clock.step - clock.interval), tf.float32)
        steps = tf.floor(tf.square(self.growth / rate) + 1e-4)
        longest = tf.maximum(steps, float(self.least))
        return tf.cast(clock.interval, tf.float32) >= longest

    def __repr__(self) -> str:
        return told(self)


@dataclasses.dataclass(frozen=True)
class PostLocal(ByClock):
    """Synchronises every step at first, later by another policy.

    Args:
      first: steps that end with a synchronisation each, at least 1.
      then: an `Every`, for the steps after them.

    Raises:
      ValueError: for numbers out of their range.

    Example:
      >>> post_local = PostLocal(first=3, then=Every(steps=2))
      >>> [bool(post_local.due(Clock(s, i, None)))
      ...  for s, i in ((2, 1), (3, 1), (4, 1), (5, 2))]
      [True, True, False, True]

    Source: Lin et al., Don't Use Large Mini-Batches, Use Local SGD, ICLR 2020.
    """

    first: int
    then: Every

    def __post_init__(self):
        first = checks.count("PostLocal: first", self.first, "steps")
        object.__setattr__(self, "first", first)
        if not isinstance(self.then, Every):
            raise ValueError(
                f"PostLocal: then={self.then!r}: expected fda_tf.Every(...)."
            )

    def due(self, clock: Clock) -> tf.Tensor:
        """Returns whether it is early, or due by the later policy."""
        early = tf.convert_to_tensor(clock.step <= self.first)
        return tf.logical_or(early, self.then.due(clock))


class AdaComm(ByClock):
    """Synchronises every H steps; H shrinks as the training loss does.

    At the first synchronisation after each `every` steps,

        H <- ceil(sqrt(F / F_0) H_0), or ceil(H / 2) if that is not less,

    with F the mean training loss of all workers in the round that ends, and
    F_0 that of the first round. The mean costs one float more at each
    synchronisation.

    Args:
      first: H_0, steps, at least 1.
      every: steps from one change of H to the next, at least 1.

    Raises:
      ValueError: for numbers out of their range.

    Example:
      >>> policy = AdaComm(first=20, every=100)
      >>> policy.build()
      >>> for step, loss in ((20, 4.0), (120, 1.0), (220, 1.0)):
      ...     policy.synchronised(Clock(step, 20, None), tf.constant(loss))
      ...     print(int(policy.interval))
      20
      10
      5

    Source: Wang and Joshi, Adaptive Communication Strategies to Achieve the
    Best Error-Runtime Trade-off in Local-Update SGD, MLSys 2019
    (arXiv 1810.08313).
    """

    needs_loss = True

    def __init__(self, first: int, every: int):
        self.first = checks.count("AdaComm: first", first, "steps")
        self.every = checks.count("AdaComm: every", every, "steps")

    def build(self):
        """Makes H, F_0, and the step of the last change."""
        self.interval, self._changed = (
            tf.Variable(n, dtype=tf.int64, trainable=False, name=name)
            for n, name in ((self.first, "interval"), (0, "changed"))
        )
        self._first_loss = tf.Variable(math.nan, trainable=False, name="loss")

    @property
    def variables(self):
        """H, the step of its last change, and F_0."""
        return [self.interval, self._changed, self._first_loss]

    def due(self, clock: Clock) -> tf.Tensor:
        """Returns whether the round is H steps long."""
        return clock.interval >= self.interval

    def synchronised(self, clock, loss):
        """Takes F_0 from the first round; changes H when it is time."""
        known = self._first_loss.read_value()
        first_loss = tf.where(tf.math.is_nan(known), loss, known)
        self._first_loss.assign(first_loss)
        step, now = tf.cast(clock.step, tf.int64), self.interval.read_value()
        ratio = tf.sqrt(tf.math.divide_no_nan(loss, first_loss))
        wanted = tf.math.ceil(ratio * self.first - 1e-4)
        wanted = tf.cast(tf.maximum(wanted, 1.0), tf.int64)
        new = tf.where(wanted < now, wanted, (now + 1) // 2)
        time = step - self._changed >= self.every
        self.interval.assign(tf.where(time, new, now))
        self._changed.assign(tf.where(time, step, self._changed))

    def __repr__(self) -> str:
        return f"AdaComm(first={self.first}, every={self.every})"
