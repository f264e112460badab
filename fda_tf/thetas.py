"""Theta that sets itself: from what all workers know, and nothing else.

A `ThetaSchedule` gives the first theta, and a new one after each step and at
each synchronisation. It sees the step, the interval and the estimate of the
variance, which are the same on all workers, so that theta stays so, too.
"""

import abc
import math
from typing import Any

import keras
import tensorflow as tf

from fda_tf import checks

# The authors' rule of thumb, per parameter; fitted to CNNs from scratch.
RULES = {"fl": 4.91e-5, "balanced": 3.89e-5, "hpc": 2.74e-5}


class ThetaSchedule(abc.ABC):
    """The contract: theta at the start, after a step, at a synchronisation.

    `after_step` and `synchronised` run inside the compiled loop, on every
    worker alike.

    Example:
      One of one's own: theta that halves at each synchronisation.

      >>> class Halving(ThetaSchedule):
      ...     def start(self, parameters):
      ...         return 8.0
      ...     def synchronised(self, theta, step, interval, estimate):
      ...         return theta / 2
      >>> schedule = Halving()
      >>> float(schedule.synchronised(tf.constant(8.0), 1, 1, 9.0))
      4.0
    """

    @abc.abstractmethod
    def start(self, parameters: int) -> float:
        """Returns the first theta, for a model of so many parameters."""

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

    def __repr__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if k[0] != "_"}
        settings = ", ".join(f"{k}={_words(v)}" for k, v in shown.items())
        return f"{type(self).__name__}({settings})"


class Fixed(ThetaSchedule):
    """Theta = a number.

    Args:
      theta: at least 0; infinity never synchronises.
    """

    def __init__(self, theta: float):
        what = "a number of at least 0, in squared units of the weights"
        self.theta = checks.real("theta", theta, 0.0, what)

    def start(self, parameters):
        return self.theta


class Without(ThetaSchedule):
    """No theta, where nothing is checked: NaN."""

    def start(self, parameters):
        return math.nan


class Scheduled(ThetaSchedule):
    """Theta = schedule(step).

    Args:
      schedule: a `keras.optimizers.schedules.LearningRateSchedule`.
    """

    def __init__(self, schedule: Any):
        self.schedule = schedule
        what = "a number of at least 0"
        checks.real("theta at step 0", float(schedule(0)), 0.0, what)

    def start(self, parameters):
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
      >>> round(PerParameter("balanced").start(61_706), 2)
      2.4

    Source: Theologitis et al., Federated Dynamic Averaging, EDBT 2025.
    """

    def __init__(self, c: float | str = "balanced"):
        if isinstance(c, str) and c not in RULES:
            raise ValueError(
                f"Unknown rule {c!r} for theta. Known: {', '.join(RULES)}; or "
                "give c itself, theta per parameter."
            )
        number = RULES.get(c, c) if isinstance(c, str) else c
        self.c = checks.real("c", number, 1e-30, "a number above 0")

    def start(self, parameters):
        return self.c * parameters


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
        self.theta = checks.real("theta", theta, 1e-30, "a number above 0")
        first = float(rate(0))
        checks.real("the learning rate at step 0", first, 1e-30, "above 0")
        self.rate, self._first = rate, first

    def start(self, parameters):
        return self.theta

    def after_step(self, theta, step, interval):
        share = tf.cast(self.rate(step), tf.float32) / self._first
        return self.theta * share**2


class TargetInterval(ThetaSchedule):
    """A theta that holds the mean interval near a goal of H steps.

    The first round is one step; its variance v gives theta = v H. From then
    on, at the end of a round of t steps,

        theta <- theta (H / t)^g,  by a factor of 1 / r to r at once.

    Where the variance grows as t^p, log(H / t) shrinks by the factor
    1 - g / p from round to round: g = 0.5 is stable for all p above 1/4, and
    without overshoot from p = 1/2 on. A round that lasts longer than 2 H
    steps (starvation: drifts that vanish) lowers theta in each step so that
    it is halved every H steps. NaN changes nothing.

    Args:
      steps: H, at least 1.
      gain: g, above 0 and at most 1.
      most: r, the largest factor at once, above 1.

    Raises:
      ValueError: for a goal that no theta can meet.

    Example:
      >>> schedule = TargetInterval(steps=16)
      >>> theta = tf.constant(2.0)
      >>> float(schedule.synchronised(theta, 100, 4, 2.1))  # too often
      4.0
    """

    def __init__(self, steps: float, gain: float = 0.5, most: float = 4.0):
        what = "a number of steps, at least 1"
        self.steps = checks.real("TargetInterval: steps", steps, 1.0, what)
        self.gain = checks.real("TargetInterval: gain", gain, 1e-6, "above 0")
        self.most = checks.real("TargetInterval: most", most, 1.001, "above 1")
        if math.isinf(self.steps) or self.gain > 1 or math.isinf(self.most):
            raise ValueError(
                f"TargetInterval(steps={steps}, gain={gain}, most={most}): "
                "expected finite numbers, and a gain of at most 1."
            )

    def start(self, parameters):
        return 0.0

    def after_step(self, theta, step, interval):
        starving = tf.cast(interval, tf.float32) > 2.0 * self.steps
        return tf.where(starving, theta * 2.0 ** (-1.0 / self.steps), theta)

    def synchronised(self, theta, step, interval, estimate):
        interval = tf.cast(interval, tf.float32)
        factor = (self.steps / interval) ** self.gain
        factor = tf.clip_by_value(factor, 1.0 / self.most, self.most)
        first = estimate * self.steps / interval
        new = tf.where(theta > 0, theta * factor, first)
        # The smallest normal number: what is 0 would be taken for the start.
        new = tf.maximum(new, 1.2e-38)
        return tf.where(tf.math.is_finite(new), new, theta)


def get(theta: Any) -> ThetaSchedule:
    """Returns the schedule that a number or a Keras schedule stands for.

    Raises:
      ValueError: for what is none of them.

    Example:
      >>> get(1.5), get("fl")
      (Fixed(theta=1.5), PerParameter(c=4.91e-05))
    """
    if isinstance(theta, ThetaSchedule):
        return theta
    if isinstance(theta, keras.optimizers.schedules.LearningRateSchedule):
        return Scheduled(theta)
    if isinstance(theta, str):
        return PerParameter(theta)
    return Fixed(theta)


def _words(value: Any) -> str:
    if hasattr(value, "get_config"):
        return f"{type(value).__name__}({value.get_config()})"
    return repr(value)
