"""`Algorithm`: the choices that make a method of distributed training."""

import dataclasses
from typing import Any

import keras

from fda_tf.algorithm import compression as compressions
from fda_tf.algorithm.guard import OutlierGuard
from fda_tf.algorithm.optimizers import check_server_optimizer
from fda_tf.algorithm.part import Part, describe
from fda_tf.algorithm.policies import Policy, VarianceThreshold

STATISTICS = ("average", "local")


@dataclasses.dataclass(frozen=True, repr=False)
class Algorithm(Part):
    """When the workers synchronise, and how K models become one then.

    It is checked when it is made, never changes, and may serve any number of
    runs, unless it has a server optimizer, whose slots belong to one.

    Attributes:
      sync: when to synchronise: `VarianceThreshold`, which is Federated
        Dynamic Averaging, `Every` or another policy of `fda_tf.policies`. By
        default `VarianceThreshold(theta=1.5)`.
      server_optimizer: None: the mean of the models is the new model. Or a
        fresh `keras.optimizers.Optimizer`: the new model is one step of it
        from the last synchronised one, along minus the mean drift.
      compression: None: drifts travel in float32. Or "bfloat16", "int8",
        "topk", or a `fda_tf.compression.Compression`.
      guard: None, or an `fda_tf.OutlierGuard` against a worker that is far
        off.
      statistics: of BatchNorm and the like: "average" at each
        synchronisation, or "local": for evaluation only, as in the paper.

    Raises:
      ValueError: for a part that is none.

    Example:
      >>> from fda_tf import Every
      >>> Algorithm(Every(steps=8), compression="int8")
      Algorithm(sync=Every(steps=8), compression=Int8(feedback=False), statistics='average')
    """  # noqa: E501

    sync: Policy = dataclasses.field(
        default_factory=lambda: VarianceThreshold(1.5)
    )
    _: dataclasses.KW_ONLY
    server_optimizer: keras.optimizers.Optimizer | None = None
    compression: "str | compressions.Compression | None" = None
    guard: OutlierGuard | None = None
    statistics: str = "average"

    def __post_init__(self):
        if not isinstance(self.sync, Policy):
            raise ValueError(
                f"sync={self.sync!r}: expected fda_tf.VarianceThreshold(...), "
                "fda_tf.Every(...) or another policy of fda_tf.policies."
            )
        if self.server_optimizer is not None:
            check_server_optimizer(self.server_optimizer)
        object.__setattr__(
            self, "compression", compressions.get(self.compression)
        )
        if not (self.guard is None or isinstance(self.guard, OutlierGuard)):
            raise ValueError(
                f"guard={self.guard!r}: expected fda_tf.OutlierGuard(factor) "
                "or None."
            )
        if self.statistics not in STATISTICS:
            raise ValueError(
                f"statistics={self.statistics!r}. Known: "
                f"{', '.join(STATISTICS)}."
            )

    def get_config(self) -> dict[str, Any]:
        """Returns all that it is, by part, as JSON has it.

        Example:
          >>> Algorithm().get_config()["statistics"]
          'average'
        """
        parts = dataclasses.fields(self)
        return {p.name: describe(getattr(self, p.name)) for p in parts}

    def __repr__(self) -> str:
        parts = {
            p.name: getattr(self, p.name) for p in dataclasses.fields(self)
        }
        shown = [f"{k}={v!r}" for k, v in parts.items() if v is not None]
        return f"Algorithm({', '.join(shown)})"


def get(algorithm: Algorithm | Policy | None) -> Algorithm:
    """Returns the algorithm of a policy, or the one given; None: the default.

    Raises:
      ValueError: for anything else.

    Example:
      >>> from fda_tf import Every
      >>> get(Every(steps=8)) == Algorithm(Every(steps=8))
      True
    """
    if algorithm is None:
        return Algorithm()
    if isinstance(algorithm, Algorithm):
        return algorithm
    if isinstance(algorithm, Policy):
        return Algorithm(algorithm)
    raise ValueError(
        f"algorithm={algorithm!r}: expected fda_tf.Algorithm(...) or a policy, "
        "such as fda_tf.VarianceThreshold(...) or fda_tf.Every(...)."
    )
