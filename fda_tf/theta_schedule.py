"""The contract of what sets theta."""

import abc
import contextlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import tensorflow as tf


class Job(NamedTuple):
    """What is to be trained, as far as theta may depend on it."""

    parameters: int  # d, the weights that travel
    workers: int  # K
    epoch: Fraction | None  # steps in a global epoch, n / (B K), if known
    squared_norm: float = math.nan  # ||w_0||^2 at the start, if known
    matrices: int = 0  # weights of two or more dimensions: L layers have them


class ThetaSchedule(abc.ABC):
    """The contract: theta at the start, after a step, at a synchronisation.

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

    def __repr__(self) -> str:
        return told(self)


def told(thing: Any) -> str:
    """Returns the repr of a thing by its settings, also of Keras' schedules.

    Theirs has an address, and no settings: unlike ones would look alike where
    workers compare what they are to do.

    Example:
      >>> class Rule:
      ...     def __init__(self, growth):
      ...         self.growth, self._step = growth, 7
      >>> told(Rule(growth=0.2))
      'Rule(growth=0.2)'
    """
    shown = {k: v for k, v in vars(thing).items() if k[0] != "_"}
    settings = ", ".join(f"{k}={_words(v)}" for k, v in shown.items())
    return f"{type(thing).__name__}({settings})"


def _words(value: Any) -> str:
    if not hasattr(value, "get_config"):
        return repr(value)
    # A user's own schedule need not tell: then it is its type alone.
    with contextlib.suppress(NotImplementedError):
        return f"{type(value).__name__}({value.get_config()})"
    return type(value).__name__
