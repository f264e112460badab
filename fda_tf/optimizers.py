"""The optimizers inside others, and those that a model holds besides its own.

Every check that is made of an optimizer goes through `nested` or `held_by`,
so a `LossScaleOptimizer`, a `FedProx`, a `MultiOptimizer` or a wrapper of the
user's hides nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import keras

Optimizer = keras.optimizers.Optimizer


def nested(*things: Any) -> list[Optimizer]:
    """Returns the optimizers among things, and all inside them, each once.

    Args:
      *things: optimizers, or lists, tuples and mappings that may hold some.

    Example:
      >>> inner = keras.optimizers.SGD(0.1)
      >>> scaled = keras.optimizers.LossScaleOptimizer(inner)
      >>> nested(scaled) == [scaled, inner]
      True
    """
    return list(_walk(things, set()))


def held_by(model: Any) -> list[Optimizer]:
    """Returns the model's optimizer, and any that it or a layer holds besides.

    Such as a GAN's `self.d_optimizer`, or that of a compiled model inside.
    """
    layers = model._flatten_layers()  # public `layers` has no layers of layers
    return nested(model.optimizer, *(list(vars(la).values()) for la in layers))


def refuse_average(optimizers: list[Optimizer]) -> None:
    """Raises ValueError if an optimizer keeps a moving average of weights.

    Keras puts it into the model when `fit` ends, or every so many steps: one
    worker's own, where ours has the average over the workers.
    """
    for optimizer in optimizers:
        if optimizer.use_ema:
            raise ValueError(
                f"Received {type(optimizer).__name__}(use_ema=True), whose "
                "moving average is one worker's own; expected an optimizer "
                "without, since the model is to end as the average over the "
                "workers. Leave use_ema and ema_overwrite_frequency out."
            )


def _walk(thing: Any, seen: set[int]) -> Iterator[Optimizer]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Optimizer):
        yield thing
        inside = vars(thing).values()
    elif isinstance(thing, Mapping):
        inside = thing.values()
    elif isinstance(thing, (list, tuple)):
        inside = thing
    else:
        return
    for part in list(inside):
        yield from _walk(part, seen)
