"""Theta that sets itself: from what all workers know, and nothing else.

A `ThetaSchedule` gives the first theta, and a new one after each step and at
each synchronisation. It sees the step, the interval and the estimate of the
variance, which are the same on all workers, so that theta stays so, too.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from fda_tf import checks
from fda_tf.theta_goals import Auto, FdaOpt, TargetBytes, TargetInterval
from fda_tf.theta_schedule import Job, ThetaSchedule

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
        self.theta = checks.real("theta", theta, 0.0, what)

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
        checks.real("theta at step 0", float(schedule(0)), 0.0, what)

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
        self.c = checks.real("c", number, 1e-30, "a number above 0")

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
        self.theta = checks.real("theta", theta, 1e-30, "a number above 0")
        first = float(rate(0))
        checks.real("the learning rate at step 0", first, 1e-30, "above 0")
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
