"""Theta that sets itself: from what all workers know, and nothing else.

A `ThetaSchedule` gives the first theta, and a new one after each step and at
each synchronisation. It sees the step, the interval and the estimate of the
variance, which are the same on all workers, so that theta stays so, too.
"""

import abc
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from fda_tf import validate
from fda_tf.algorithm.part import Part


class Job(NamedTuple):
    """What is to be trained, as far as theta may depend on it."""

    parameters: int  # d, the weights that travel
    workers: int  # K
    epoch: Fraction | None  # steps in a global epoch, n / (B K), if known
    squared_norm: float = math.nan  # ||w_0||^2 at the start, if known
    matrices: int = 0  # weights of two or more dimensions: L layers have them


class ThetaSchedule(Part, abc.ABC):
    """Abstract base: theta at the start, after a step, at a synchronisation.

    `after_step`, `averaged` and, after it, `synchronised` run inside the
    compiled loop, on every worker alike.

    Example:
      One of one's own: theta that halves at each synchronisation.

      >>> class Halving(ThetaSchedule):
      ...     def start(self, job):
      ...         return 8.0
      ...     def synchronised(self, theta, step, interval, estimate):
      ...         return theta / 2
      >>> schedule = Halving()
      >>> float(schedule.synchronised(tf.constant(8.0), 1, 1, 9.0))
      4.0
    """

    # Whether it learns from variances, and ends rounds that grow too long.
    measures = False
    variables: Sequence[tf.Variable] = ()  # what it keeps: for checkpoints

    @abc.abstractmethod
    def start(self, job: Job) -> float:
        """Returns the first theta; called once, before all else.

        Raises:
          ValueError: when the schedule does not fit the job.
        """

    def after_step(
        self, theta: tf.Tensor, step: tf.Tensor, interval: tf.Tensor
    ) -> tf.Tensor:
        """Returns theta for the step to come.

        Args:
          theta: as it is, float32.
          step: steps done, int64.
          interval: of these, since the last synchronisation.
        """
        del step, interval
        return theta

    def averaged(self, squared_norm: tf.Tensor) -> None:
        """Takes note of ||w_0||^2 of the model that a round begins with."""
        del squared_norm

    def synchronised(
        self,
        theta: tf.Tensor,
        step: tf.Tensor,
        interval: tf.Tensor,
        estimate: tf.Tensor,
    ) -> tf.Tensor:
        """Returns theta for the round to come.

        Args:
          theta: as it is, float32.
          step: steps done, int64.
          interval: the steps of the round that ends.
          estimate: of the variance at its end; NaN without a check.
        """
        del step, interval, estimate
        return theta


# Below it, float32 is no longer normal: taken for no variance at all.
TINY = 1.2e-38


class TargetInterval(ThetaSchedule):
    """A theta that holds the mean interval near a goal of H steps.

    The first round takes H steps; its variance is the first theta. From then
    on, at the end of a round of t steps,

        theta <- theta (H / t)^g,  by a factor of 1 / r to r at once.

    Where the variance grows as t^p, log(H / t) shrinks by the factor
    1 - g / p from round to round: g = 0.5 is stable for all p above 1/4, and
    without overshoot from p = 1/2 on.

    * Starvation (drifts that vanish, a learning rate that drops): no round is
      longer than 2 H steps. Then the models meet, if they have parted at all,
      and the variance of that round, times H / t, is the new theta.
    * Divergence: theta grows by the factor r in a round, at most.
    * What is not finite, or 0: the next round ends by the clock again.

    Args:
      steps: H, at least 1; or
      epochs: H in global epochs, above 0.
      gain: g, above 0 and at most 1.
      most: r, the largest factor at once, above 1.

    Raises:
      ValueError: for a goal that no theta can meet; from `start`, for epochs
        of data whose length is unknown.

    Example:
      >>> schedule = TargetInterval(steps=16)
      >>> theta = tf.constant(2.0)
      >>> float(schedule.synchronised(theta, 100, 4, 2.1))  # too often
      4.0
    """

    measures = True

    def __init__(
        self,
        steps: float | None = None,
        *,
        epochs: float | None = None,
        gain: float = 0.5,
        most: float = 4.0,
    ):
        if (steps is None) == (epochs is None):
            raise ValueError(
                "TargetInterval() takes steps= or epochs=, one of them; "
                f"received steps={steps}, epochs={epochs}."
            )
        if steps is not None:
            what = "a number of steps, at least 1"
            steps = validate.real("TargetInterval: steps", steps, 1.0, what)
        else:
            what = "a number of epochs above 0, at least 1e-6"
            epochs = validate.real("TargetInterval: epochs", epochs, 1e-6, what)
        self.steps, self.epochs = steps, epochs
        self.gain = validate.real("TargetInterval: gain", gain, 1e-6, "above 0")
        self.most = validate.real(
            "TargetInterval: most", most, 1.001, "above 1"
        )
        if math.isinf(steps or epochs) or gain > 1 or math.isinf(most):
            raise ValueError(
                f"{self}: expected finite numbers, and a gain of at most 1."
            )
        self._goal = steps

    def start(self, job: Job) -> float:
        self._goal = self.goal(job)
        return 0.0 if self._goal <= 1 else math.inf

    def goal(self, job: Job) -> float:
        """Returns H for a job."""
        if self.epochs is None:
            return self.steps
        return max(1.0, self.epochs * steps_of_an_epoch(self, job))

    def goal_at(self, step: Any) -> Any:
        """Returns H for a round that begins after so many steps."""
        del step  # a goal that stays
        return self._goal

    def after_step(self, theta, step, interval):
        goal = self.goal_at(step - interval)
        return bell(theta, interval, goal, 2.0 * goal)

    def synchronised(self, theta, step, interval, estimate):
        taken = tf.cast(interval, tf.float32)
        goal, following = self.goal_at(step - interval), self.goal_at(step)
        factor = (goal / taken) ** self.gain
        factor = tf.clip_by_value(factor, 1.0 / self.most, self.most)
        known = tf.logical_and(theta > 0, tf.math.is_finite(theta))
        held = tf.where(known, theta * factor, estimate * goal / taken)
        return or_by_clock(held * (following / goal))


class TargetBytes(TargetInterval):
    """A theta that holds the bytes of the models near a budget per step.

    A synchronisation of K models of d weights sends 2 K 4 d bytes, as the
    paper counts them (up and down), so that the goal is an interval:

        H = 8 K d / (bytes per step),  held by `TargetInterval`.

    The states that are sent to decide are not in the budget, as theta does
    not change what a check costs; nor is what a compression saves.

    Args:
      per_step: bytes that all workers together send in a step, in the mean,
        above 0.
      gain: as of `TargetInterval`.
      most: as of `TargetInterval`.

    Raises:
      ValueError: for a budget of 0 or less; from `start`, for one that is
        more than synchronising in each step sends.

    Example:
      >>> budget = TargetBytes(per_step=20_000)
      >>> budget.goal(Job(parameters=1000, workers=5, epoch=None))
      2.0
    """

    def __init__(self, per_step: float, gain: float = 0.5, most: float = 4.0):
        what = "a number of bytes above 0"
        self.per_step = validate.real("TargetBytes", per_step, 1e-30, what)
        super().__init__(1.0, gain=gain, most=most)

    def goal(self, job: Job) -> float:
        """Returns H for a job."""
        most = 8 * job.workers * job.parameters
        if not self.per_step <= most:
            raise ValueError(
                f"TargetBytes(per_step={self.per_step:g}): {job.workers} "
                f"models of {job.parameters} weights send {most} bytes a step "
                "when they synchronise in each. Give that much or less."
            )
        return most / self.per_step


class FdaOpt(ThetaSchedule):
    """FDA-Opt's rule: theta from the variance at the synchronisation.

    After a round of e epochs with the variance v at its end,

        theta <- (E / 2) / e v,

    so that rounds come to E / 2 epochs where the variance grows with the
    steps. The first round takes one epoch, and none more than E; then the
    models meet, if they have parted at all.

    The paper checks once an epoch: `check_every=Every(epochs=1)`. It
    takes the exact variance for v, and here it is the monitor's estimate,
    which is larger by design: that of the sketch by about eps / (1 + eps) of
    ||mean u||^2.

    Args:
      epochs: E, global epochs in a round at most, above 0.

    Raises:
      ValueError: for an E out of its range; from `start`, for data whose
        length is unknown.

    Example:
      >>> rule = FdaOpt(epochs=4)
      >>> rule.start(Job(parameters=1000, workers=5, epoch=10))
      inf
      >>> float(rule.synchronised(tf.constant(1.0), 30, 10, 3.0))
      6.0

    Source: FDA-Opt, arXiv 2505.04535.
    """

    measures = True

    def __init__(self, epochs: float = 2.0):
        what = "a number of epochs above 0, at least 1e-6"
        self.epochs = validate.real("FdaOpt: epochs", epochs, 1e-6, what)
        if math.isinf(self.epochs):
            raise ValueError(f"FdaOpt: epochs={epochs}: expected {what}.")

    def start(self, job: Job) -> float:
        self._epoch = steps_of_an_epoch(self, job)
        return 0.0 if self._epoch <= 1 else math.inf

    def after_step(self, theta, step, interval):
        return bell(theta, interval, self._epoch, self.epochs * self._epoch)

    def synchronised(self, theta, step, interval, estimate):
        taken = tf.cast(interval, tf.float32) / self._epoch
        return or_by_clock(self.epochs / 2.0 / taken * estimate)


class Auto(TargetInterval):
    """A theta for any model and data, without a number: `theta="auto"`.

    `TargetInterval` with a goal that grows, under a cap. A round is to take as
    many steps as were done before it, but 1.5 global epochs at least and 4 at
    most,

        H = min(max(steps done, 1.5 epochs), 4 epochs),

    and theta is never above ||w_0||^2 / L, where L, at least 2, is the number
    of weight matrices. Independent errors, of a relative size e in each of L
    layers in a row, come to sqrt(L) e in what the network says; at that
    variance, to all of it. Models further apart have no average that knows
    what they know, however long a round may be. Deep networks that begin at
    random meet this limit; small ones hardly ever do.

    Where nobody knows how long an epoch is, the least is 64 steps, and there
    is no most.

    * Starvation, a learning rate that drops: no round is longer than 2 H.
    * Divergence: theta grows fourfold in a round at most; what is not finite
      is the loop's error, as with any theta.

    1.5 was chosen on LeNet-5, Fashion-MNIST and SST-2, and then measured on
    others; experiments/README.md has the figures, and where they fall short.

    Example:
      >>> auto = Auto()
      >>> auto.start(Job(parameters=1000, workers=5, epoch=100))
      inf
      >>> [float(auto.goal_at(step)) for step in (0, 150, 300, 1000)]
      [150.0, 150.0, 300.0, 400.0]
      >>> auto.start(Job(1000, 5, None, squared_norm=80.0, matrices=16))
      5.0
      >>> auto.averaged(tf.constant(96.0))
      >>> float(auto.synchronised(tf.constant(5.0), 64, 9, 5.2))
      6.0
      >>> [float(auto.goal_at(step)) for step in (0, 150, 300, 1000)]
      [64.0, 150.0, 300.0, 1000.0]
    """

    def __init__(self):
        super().__init__(epochs=1.5)
        self._cap: Any = math.inf  # a variable, once it starts

    @property
    def variables(self):
        """The cap of the round."""
        return [self._cap]

    def start(self, job):
        self._layers = float(job.matrices)
        known = job.matrices > 1 and 0 < job.squared_norm < math.inf
        cap = job.squared_norm / job.matrices if known else math.inf
        self._cap = tf.Variable(cap, trainable=False, name="cap")
        return min(super().start(job), cap)

    def averaged(self, squared_norm):
        if self._layers > 1:
            self._cap.assign(squared_norm / self._layers)

    def goal(self, job):
        self._longest = math.inf
        if job.epoch is None:
            return 64.0
        self._longest = max(1.0, 4.0 * float(job.epoch))
        return super().goal(job)

    def goal_at(self, step):
        step = tf.cast(step, tf.float32)
        return tf.clip_by_value(step, self._goal, self._longest)

    def after_step(self, theta, step, interval):
        # At the cap it has not measured anything yet, or wants more than it.
        free = tf.where(theta < self._cap, theta, math.inf)
        return tf.minimum(super().after_step(free, step, interval), self._cap)

    def synchronised(self, theta, step, interval, estimate):
        wanted = super().synchronised(theta, step, interval, estimate)
        return tf.minimum(wanted, self._cap)


def steps_of_an_epoch(schedule: Any, job: Job) -> float:
    """Returns the steps of a global epoch.

    Raises:
      ValueError: if they are not known.
    """
    if job.epoch is None:
        raise ValueError(
            f"{schedule} needs to know how many steps an epoch has, and this "
            "dataset does not tell (its cardinality is unknown or infinite). "
            "Use TargetInterval(steps=...), or a number."
        )
    return float(job.epoch)


def bell(theta, interval, first: float, longest: float):
    """Returns 0 when a round is to end by the clock, theta if not yet.

    Args:
      theta: infinity in a round that is to take `first` steps.
      interval: steps of the round that are done.
      first: steps.
      longest: steps that no round is to exceed.
    """
    following = tf.cast(interval, tf.float32) + 1.0
    until = tf.where(tf.math.is_inf(theta), first, longest)
    return tf.where(following >= until, 0.0, theta)


def or_by_clock(theta):
    """Returns theta; infinity, to wait for the clock, if it is of no use."""
    good = tf.logical_and(theta > TINY, tf.math.is_finite(theta))
    return tf.where(good, theta, math.inf)


__all__ = [
    "RULES",
    "Auto",
    "FdaOpt",
    "Fixed",
    "FollowRate",
    "Job",
    "PerParameter",
    "Scheduled",
    "TargetBytes",
    "TargetInterval",
    "ThetaSchedule",
    "Without",
    "get",
]

# The authors' rule of thumb, per parameter; fitted to CNNs from scratch.
RULES = {"fl": 4.91e-5, "balanced": 3.89e-5, "hpc": 2.74e-5}


class Fixed(ThetaSchedule):
    """Theta = a number.

    Args:
      theta: at least 0; infinity never synchronises.
    """

    def __init__(self, theta: float):
        what = "a number of at least 0, in squared units of the weights"
        self.theta = validate.real("theta", theta, 0.0, what)

    def start(self, job):
        return self.theta


class Without(ThetaSchedule):
    """No theta, where nothing is checked: NaN."""

    def start(self, job):
        return math.nan


class Scheduled(ThetaSchedule):
    """Theta = schedule(step).

    Args:
      schedule: a `keras.optimizers.schedules.LearningRateSchedule`.
    """

    def __init__(self, schedule: Any):
        self.schedule = schedule
        what = "a number of at least 0"
        validate.real("theta at step 0", float(schedule(0)), 0.0, what)

    def start(self, job):
        return float(self.schedule(0))

    def after_step(self, theta, step, interval):
        return tf.cast(self.schedule(step), tf.float32)


class PerParameter(ThetaSchedule):
    """Theta = c d, the authors' rule of thumb for CNNs from scratch.

    It is 65 times too large for their own fine-tuning of ConvNeXt: take it
    for the networks that it was fitted to.

    Args:
      c: a number above 0, or a name in `RULES`: "fl" for slow links,
        "balanced", "hpc" for fast ones.

    Example:
      >>> round(PerParameter("balanced").start(Job(61_706, 5, None)), 2)
      2.4

    Source: Theologitis et al., Federated Dynamic Averaging, EDBT 2025.
    """

    def __init__(self, c: float | str = "balanced"):
        if isinstance(c, str) and c not in RULES:
            raise ValueError(
                f"Unknown rule {c!r} for theta. Known: {', '.join(RULES)}, and "
                "theta='auto'; or give c itself, theta per parameter."
            )
        number = RULES.get(c, c) if isinstance(c, str) else c
        self.c = validate.real("c", number, 1e-30, "a number above 0")

    def start(self, job):
        return self.c * job.parameters


class FollowRate(ThetaSchedule):
    """Theta(t) = theta (lr(t) / lr(0))^2: as far as a step can reach.

    A drift after a given number of steps is in proportion to the learning
    rate, and the variance to its square; so the interval stays as it was when
    the rate drops.

    Args:
      theta: at step 0, above 0.
      rate: the optimizer's `LearningRateSchedule`.

    Example:
      >>> rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
      >>> schedule = FollowRate(4.0, rate)
      >>> float(schedule.after_step(tf.constant(4.0), 10, 3))
      1.0
    """

    def __init__(self, theta: float, rate: Any):
        self.theta = validate.real("theta", theta, 1e-30, "a number above 0")
        first = float(rate(0))
        validate.real("the learning rate at step 0", first, 1e-30, "above 0")
        self.rate, self._first = rate, first

    def start(self, job):
        return self.theta

    def after_step(self, theta, step, interval):
        share = tf.cast(self.rate(step), tf.float32) / self._first
        return self.theta * share**2


def get(theta: Any) -> ThetaSchedule:
    """Returns the schedule that a number, a name or Keras' schedule stands for.

    Raises:
      ValueError: for what is none of them.

    Example:
      >>> get(1.5), get("fl"), get("auto")
      (Fixed(theta=1.5), PerParameter(c=4.91e-05), Auto())
    """
    if isinstance(theta, ThetaSchedule):
        return theta
    if isinstance(theta, keras.optimizers.schedules.LearningRateSchedule):
        return Scheduled(theta)
    if isinstance(theta, str):
        return Auto() if theta == "auto" else PerParameter(theta)
    return Fixed(theta)
