"""What a training run is to do, checked before it starts."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import tensorflow as tf

from fda_tf import validate
from fda_tf.algorithm import compression
from fda_tf.algorithm.guard import OutlierGuard
from fda_tf.algorithm.optimizers import Average, ServerOptimizer
from fda_tf.algorithm.policies import Policy, VarianceThreshold
from fda_tf.checkpoint.directory import Checkpoint
from fda_tf.core.loop import STATISTICS

WEIGHTINGS = ("equal", "samples")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to train and what to look at meanwhile; checked when made.

    Attributes:
      steps: in-parallel steps, at most.
      sync: when to synchronise; by default `VarianceThreshold(theta=1.5)`.
      server: how the average is applied; by default `Average()`.
      statistics: of BatchNorm and the like: "average" at each
        synchronisation, or "local": for evaluation only, as in the paper.
      compression: what travels at a synchronisation: "float32", "bfloat16",
        "int8", "topk", or a `fda_tf.compression.Compression`.
      guard: a `fda_tf.OutlierGuard` against a worker that is far off, or None.
      weighting: "equal", or "samples": workers count in proportion to their
        samples, for the variance, too.
      validation_data: (x, y), (x, y, sample_weight) or a batched dataset, on
        which the average of the models is evaluated.
      validation_batch_size: samples.
      evaluate_every: steps between evaluations; None for once a global
        epoch, after step ceil(e n / (B K)). The last step is always evaluated.
      on_evaluation: called with the row of each evaluation; training ends
        if it returns True on any worker.
      on_progress: called with such a row, without metrics, every few steps.
      on_synchronisation: called with the dict of each synchronisation.
      checkpoint: a `fda_tf.Checkpoint`: a run in its directory goes on where
        the one before was stopped, and SIGTERM stops it in good order.
    """

    steps: int
    sync: Any = dataclasses.field(
        default_factory=lambda: VarianceThreshold(1.5)
    )
    server: Any = dataclasses.field(default_factory=Average)
    statistics: str = "average"
    compression: Any = "float32"
    guard: OutlierGuard | None = None
    weighting: str = "equal"
    validation_data: Any = None
    validation_batch_size: int = 500
    evaluate_every: int | None = None
    on_evaluation: Callable[[dict], Any] | None = None
    on_progress: Callable[[dict], Any] | None = None
    on_synchronisation: Callable[[dict], Any] | None = None
    checkpoint: Checkpoint | None = None

    def __post_init__(self):
        self._set("steps", validate.count("steps", self.steps, "steps"))
        if self.evaluate_every is not None:
            every = validate.count(
                "evaluate_every", self.evaluate_every, "steps"
            )
            self._set("evaluate_every", every)
        data = self.validation_data
        if not (
            data is None
            or isinstance(data, tf.data.Dataset)
            or (isinstance(data, (tuple, list)) and len(data) in (2, 3))
        ):
            raise ValueError(
                f"validation_data of type {type(data).__name__}: expected "
                "(x, y), (x, y, sample_weight) or a batched tf.data.Dataset."
            )
        check_parts(self.sync, self.server, self.statistics, self.checkpoint)
        self._set("compression", check_exchange(self.compression, self.guard))
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"weighting={self.weighting!r}. Known: {', '.join(WEIGHTINGS)}."
            )
        if self.checkpoint:
            self.checkpoint.prepare()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def next_evaluation(self, step: int, epoch: Fraction | None) -> int:
        """Returns the first step after `step` with an evaluation.

        Example:
          >>> plan = Plan(steps=20)
          >>> [plan.next_evaluation(s, Fraction(15, 2)) for s in (0, 8, 15)]
          [8, 15, 20]
        """
        every = self.evaluate_every or epoch
        if every is None:
            return self.steps
        following = math.ceil((math.floor(step / every) + 1) * every)
        return min(self.steps, following)


def check_parts(
    sync: Any, server: Any, statistics: str, checkpoint: Any = None
) -> None:
    """Raises ValueError unless an algorithm can be made of these parts."""
    if not isinstance(sync, Policy):
        raise ValueError(
            f"sync={sync!r}: expected fda_tf.VarianceThreshold(...), "
            "fda_tf.Every(...), fda_tf.EveryStep() or another policy of "
            "fda_tf.policies."
        )
    if not isinstance(server, (Average, ServerOptimizer)):
        raise ValueError(
            f"server={server!r}: expected fda_tf.Average() or "
            "fda_tf.ServerOptimizer(keras_optimizer)."
        )
    if statistics not in STATISTICS:
        raise ValueError(
            f"statistics={statistics!r}. Known: {', '.join(STATISTICS)}."
        )
    if not (checkpoint is None or isinstance(checkpoint, Checkpoint)):
        raise ValueError(
            f"checkpoint={checkpoint!r}: expected fda_tf.Checkpoint(directory)."
        )


def check_exchange(compression: Any, guard: Any) -> compression.Compression:
    """Returns the compression; raises ValueError for parts that are none."""
    if not (guard is None or isinstance(guard, OutlierGuard)):
        raise ValueError(
            f"guard={guard!r}: expected fda_tf.OutlierGuard(factor) or None."
        )
    return compression.get(compression)


def takes_plan(function: Callable) -> Callable:
    """Shows the fields of `Plan` in a signature, in place of **options.

    Raises:
      TypeError: from the function, for an argument that it does not know.
    """
    signature = inspect.signature(function)
    own = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    names = {parameter.name for parameter in own}
    planned = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(Plan).parameters.values()
        if parameter.name not in names
    ]
    known = names | {parameter.name for parameter in planned}

    @functools.wraps(function)
    def checked(*args, **kwargs):
        if unknown := sorted(kwargs.keys() - known):
            raise TypeError(
                f"{function.__name__}() does not know {', '.join(unknown)}. "
                f"Known: {', '.join(sorted(known))}."
            )
        return function(*args, **kwargs)

    checked.__signature__ = signature.replace(parameters=[*own, *planned])
    return checked
