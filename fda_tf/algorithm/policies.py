"""When to synchronise: every so often, or when the variance asks for it.

A sync policy answers two questions after each step. Does the monitor's
estimate exceed theta (needs a check, an exchange of states)? Is a
synchronisation due by the clock (needs nothing)?
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule as Schedule

from fda_tf import validate
from fda_tf.algorithm import monitors, thetas
from fda_tf.algorithm.part import Part


class Clock(NamedTuple):
    """Where training is, after a step."""

    step: tf.Tensor  # int64: steps done
    interval: tf.Tensor  # int64: of these, since the last synchronisation
    epoch: Fraction | None  # steps in a global epoch, n / (B K), if known


class Policy(Part):
    """What a sync policy has: `due`, a `monitor` or None, and its `theta`.

    Attributes:
      needs_loss: whether `synchronised` is told the training loss.
      variables: what it keeps: for checkpoints.
    """

    needs_loss = False
    variables: Sequence[tf.Variable] = ()

    def build(self) -> None:
        """Makes what it keeps, for one run."""

    def synchronised(self, clock: Clock, loss: tf.Tensor | None) -> None:
        """Learns from a round that has ended.

        Args:
          clock: at the synchronisation, the round not yet begun anew.
          loss: the mean training loss of the round, if the policy needs it.
        """
        del clock, loss

    def due(self, clock: Clock) -> tf.Tensor | bool:
        """Returns whether a synchronisation is due by the clock."""
        raise NotImplementedError


class ByClock(Policy):
    """A policy that needs no check."""

    monitor = None
    theta = thetas.Without()


@dataclasses.dataclass(frozen=True, repr=False)
class Every(ByClock):
    """Synchronises every H steps (local SGD) or every E epochs (FedAvg).

    Epochs are global: one epoch is n / (B K) steps, and the
    synchronisation of epoch e falls after step ceil(e n / (B K)).

    Args:
      steps: H, at least 1; or
      epochs: E, above 0.

    Raises:
      ValueError: unless exactly one is given, and is in its range.

    Example:
      >>> bool(Every(steps=4).due(Clock(8, 4, None)))
      True
      >>> epoch = Fraction(75, 10)  # after steps 8, 15, 23, 30, ...
      >>> [s for s in range(1, 31)
      ...  if Every(epochs=1).due(Clock(s, 1, epoch))]
      [8, 15, 23, 30]
    """

    steps: int | None = None
    epochs: float | None = None

    def __post_init__(self):
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"Every() takes steps= or epochs=, one of them; received "
                f"steps={self.steps}, epochs={self.epochs}."
            )
        if self.steps is not None:
            steps = validate.count("Every: steps", self.steps, "steps")
            object.__setattr__(self, "steps", steps)
        else:
            what = "a number of epochs above 0, at least 1e-6"
            epochs = validate.real("Every: epochs", self.epochs, 1e-6, what)
            if math.isinf(epochs):
                raise ValueError(f"Every: epochs={epochs}: expected {what}.")

    def in_steps(self, epoch: Fraction | None) -> "Every":
        """Returns the same in steps, rounded up.

        Args:
          epoch: steps in a global epoch, if known.

        Example:
          >>> Every(epochs=1).in_steps(Fraction(75, 10))
          Every(steps=8)
        """
        if self.steps is not None:
            return self
        return Every(math.ceil(_steps(self, epoch)))

    @property
    def first_check(self) -> int:
        """The step of a round after which the first check is."""
        return self.steps

    def next_check(self, interval, norm, theta):
        """Returns the step of the round after which the next check is."""
        del norm, theta
        return interval + self.steps

    def due(self, clock: Clock) -> tf.Tensor:
        """Returns whether a synchronisation is due by the clock."""
        if self.steps is not None:
            return clock.interval >= self.steps
        every = _steps(self, clock.epoch)
        last = clock.step - clock.interval

        def passed(step):  # epochs whose ceil(e n / (B K)) <= step
            return step * every.denominator // every.numerator

        return passed(clock.step) > passed(last)


def _every(name: str, value: Any) -> Every:
    """Returns a number of steps as an `Every`; that one as it is."""
    if isinstance(value, Every):
        return value
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return Every(validate.count(name, value, "steps"))
    raise ValueError(
        f"{name}={value!r}: expected a whole number of steps, "
        "fda_tf.Every(steps=...) or fda_tf.Every(epochs=...)."
    )


def _steps(unit: Any, epoch: Fraction | None) -> Fraction:
    """Returns how many steps `unit.epochs` are."""
    if epoch is None:
        raise ValueError(
            f"{unit} needs to know how many steps an epoch has, and this "
            "dataset does not tell (its cardinality is unknown or infinite). "
            f"Use {type(unit).__name__}(steps=...)."
        )
    return Fraction(unit.epochs).limit_denominator(10**6) * epoch


@dataclasses.dataclass(frozen=True, repr=False)
class AdaptiveChecks(Part):
    """Checks when drifts that grow as until now can have reached theta.

    A drift ||u|| that grows at most in proportion to the steps t of a round
    reaches sqrt(theta) at t sqrt(theta / mean ||u||^2) or later. The next
    check is there, but r steps after this one at the latest: a crossing is
    found at most r - 1 steps late.

    The norm is the mean state's first number, so it is for monitors that send
    it there, as all of ours but `max` do.

    Args:
      max_steps: r, at least 1.

    Example:
      >>> check = AdaptiveChecks(max_steps=10)
      >>> step, norm, theta = tf.constant(4, tf.int64), 1.0, 4.0
      >>> int(check.next_check(step, norm, theta))
      8
    """

    max_steps: int

    first_check = 1  # to see how fast the drifts grow

    def __post_init__(self):
        steps = validate.count(
            "AdaptiveChecks: max_steps", self.max_steps, "steps"
        )
        object.__setattr__(self, "max_steps", steps)

    def in_steps(self, epoch: Fraction | None) -> "AdaptiveChecks":
        """Returns itself: it counts in steps."""
        del epoch
        return self

    def next_check(self, interval, norm, theta):
        """Returns the step of the round after which the next check is."""
        reach = tf.sqrt(tf.math.divide_no_nan(theta, norm))
        far = tf.cast(interval, tf.float32) * (reach - 1.0)
        far = tf.where(norm > 0, far, float(self.max_steps))
        wait = tf.clip_by_value(far, 1.0, float(self.max_steps))
        return interval + tf.cast(wait, tf.int64)


@dataclasses.dataclass(frozen=True, repr=False)
class VarianceThreshold(Policy):
    """Synchronises when the estimated model variance exceeds theta: FDA.

    Args:
      theta: at least 0, in squared units of the weights; infinity never
        synchronises. Or what sets it: "auto", a `fda_tf.thetas.ThetaSchedule`,
        a `keras.optimizers.schedules.LearningRateSchedule` of the step, or a
        name in `fda_tf.thetas.RULES`.
      monitor: a name in `fda_tf.monitors.MONITORS`, or a `Monitor`.
      max_interval: the longest interval without a synchronisation: steps, an
        `Every`, or None for no such limit.
      check_every: from one check to the next: steps, an `Every`, or
        `AdaptiveChecks`. With r steps, a crossing is found r - 1 late at most.
      overlap: whether the state of a step travels while the next one
        computes. The decision comes one step late, and then averages the
        models as they are. There is no cascade then, since what follows a
        first exchange could not be hidden.

    Raises:
      ValueError: for a theta that is negative or NaN, an unknown monitor, a
        `max_interval` or `check_every` that is none, or `AdaptiveChecks` with
        what tells no norm in time.

    Example:
      >>> VarianceThreshold(theta=1.5, monitor="linear").monitor
      LinearMonitor(seed=0)

    Source: Theologitis et al., Federated Dynamic Averaging, EDBT 2025.
    """

    theta: float | str | Schedule | thetas.ThetaSchedule
    monitor: str | monitors.Monitor = "sketch"
    max_interval: int | Every | None = None
    check_every: int | Every | AdaptiveChecks = 1
    overlap: bool = False

    def __post_init__(self):
        schedule = thetas.get(self.theta)  # refuses what is none
        if isinstance(schedule, thetas.Fixed):
            object.__setattr__(self, "theta", schedule.theta)
        if self.max_interval is not None:
            longest = _every("max_interval", self.max_interval)
            object.__setattr__(self, "max_interval", longest)
        object.__setattr__(self, "monitor", monitors.get(self.monitor))
        if schedule.measures and isinstance(self.monitor, monitors.MaxMonitor):
            raise ValueError(
                f"theta={schedule} with monitor='max', which tells no variance "
                "to learn from. Take another monitor, or give theta a number."
            )
        if not isinstance(self.check_every, AdaptiveChecks):
            every = _every("check_every", self.check_every)
            object.__setattr__(self, "check_every", every)
        if not isinstance(self.overlap, bool):
            raise ValueError(
                f"overlap={self.overlap!r}: expected True or False."
            )
        possible = isinstance(self.check_every, AdaptiveChecks)
        if possible and isinstance(self.monitor, monitors.MaxMonitor):
            raise ValueError(
                f"{self.check_every} with monitor='max', which tells no norm "
                "to see from how fast the drifts grow. Give check_every=r, a "
                "number of steps, or take another monitor."
            )
        if self.overlap and possible:
            raise ValueError(
                "overlap=True with AdaptiveChecks, which needs the norm of "
                "this step before the next one is done. Give check_every=r, a "
                "number of steps."
            )

    def get_config(self) -> dict[str, Any]:
        """Returns its arguments; theta as a number, or as what sets it."""
        config = super().get_config()
        if not isinstance(self.theta, float):
            config["theta"] = thetas.get(self.theta)
        return config

    def due(self, clock: Clock) -> tf.Tensor | bool:
        """Returns whether the interval has reached its maximum."""
        return self.max_interval.due(clock) if self.max_interval else False


@dataclasses.dataclass(frozen=True, repr=False)
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
        validate.real("QuadraticRule: rate", first, 1e-30, "a number above 0")
        validate.real("QuadraticRule: growth", self.growth, 0.0, "at least 0")
        least = validate.count("QuadraticRule: least", self.least, "steps")
        object.__setattr__(self, "least", least)

    def due(self, clock: Clock) -> tf.Tensor:
        """Returns whether the round is as long as its rate asks for."""
        rate = self.rate
        if isinstance(rate, Schedule):
            rate = tf.cast(rate(clock.step - clock.interval), tf.float32)
        steps = tf.floor(tf.square(self.growth / rate) + 1e-4)
        longest = tf.maximum(steps, float(self.least))
        return tf.cast(clock.interval, tf.float32) >= longest


@dataclasses.dataclass(frozen=True, repr=False)
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
        first = validate.count("PostLocal: first", self.first, "steps")
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
        self.first = validate.count("AdaComm: first", first, "steps")
        self.every = validate.count("AdaComm: every", every, "steps")

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
