"""What must be the same on every worker, and what happens when it is not.

Things are compared by what they are set to, as text that is alike in every
process: no memory addresses, and no names or seeds that Keras makes up.
"""

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fda_tf.processes import held

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# What a config holds besides settings: names that Keras numbers as it goes,
# and seeds, which need not be the same: the chief's random states are taken.
_NO_SETTINGS = frozenset(
    {
        "name",
        "seed",
        "inbound_nodes",
        "input_layers",
        "output_layers",
        "build_config",
        "shared_object_id",
    }
)

SAME_SETTINGS = (
    "Give every worker the same model and settings; only their data differ."
)


def describe(worker: Any, **settings: Any) -> dict[str, Any]:
    """Returns what must be the same on every worker, by name, as JSON has it.

    Args:
      worker: a `fda_tf.worker.Worker`.
      **settings: of the run: numbers, words, or what is told by its `repr`.
    """
    return describe_model(worker) | {
        name: _setting(value) for name, value in settings.items()
    }


def describe_model(worker: Any) -> dict[str, Any]:
    """Returns the versions, and what a worker's model is, by name.

    Args:
      worker: a `fda_tf.worker.Worker`.
    """
    import fda_tf  # which imports this file

    model = worker.model
    versions = {
        "fda_tf": fda_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    compiled = {"optimizer": text(model.optimizer), "loss": text(model.loss)}
    compiled |= {
        f"optimizer {i} ({type(optimizer).__name__})": text(optimizer)
        for i, optimizer in enumerate(worker.optimizers)
        if optimizer is not model.optimizer
    }
    shapes = {
        f"the {what} (number {i})": list(shape)
        for what, all_of_it in worker.shapes().items()
        for i, shape in enumerate(all_of_it)
    }
    layers = {
        f"layer {i} ({type(layer).__name__})": _digest(layer)
        for i, layer in enumerate(model._flatten_layers())
        if layer is not model
    }
    return versions | compiled | shapes | layers | worker.held


def text(thing: Any) -> str:
    """Returns what a thing is set to, as text that is alike in every process.

    Args:
      thing: an optimizer, a loss, a layer, a function, or lists and dicts of
        such. A model inside is told by its type: its layers speak for it.

    Example:
      >>> text(["mse", keras.losses.mean_squared_error])
      '["mse", "mean_squared_error"]'
      >>> text(keras.layers.Flatten(name="a")) == text(keras.layers.Flatten())
      True
    """
    return _without_addresses(json.dumps(_plain(thing), sort_keys=True))


def agree_on(
    replicas: Any, settings: dict[str, Any], advice: str = SAME_SETTINGS
) -> None:
    """Returns when all workers have equal settings.

    Args:
      replicas: a `fda_tf.Replicas`.
      settings: ours, by name, as `describe` gives them.
      advice: what to do about one that differs, a sentence.

    Raises:
      ValueError: on every worker, for a setting that differs; on every other
        worker, if one has told of an error.
    """
    everyone = replicas.gather_json(settings)
    errors = {k: s["error"] for k, s in enumerate(everyone) if "error" in s}
    if errors and replicas.index not in errors:
        k = min(errors)
        raise ValueError(f"Worker {k} cannot start: {errors[k]}")
    if errors:
        return  # our own error is raised as it was
    for k, other in enumerate(everyone):
        for name in held.unlike(everyone[0], other):
            ours, theirs = everyone[0].get(name), other.get(name)
            raise ValueError(
                f"Worker {k} differs from worker 0 in {name}: {theirs} "
                f"against {ours}. {advice}{_advice(name)}"
            )


def _advice(name: str) -> str:
    if not name.startswith((held.CONSTANTS, held.ASSETS, "layer ")):
        return ""
    return (
        " What a layer learns by adapt(), and any array that the model, its "
        "loss or its train_step is given, must be the same: adapt on the "
        "whole data, or on the chief and send it to the others, such as "
        "layer.set_vocabulary(replicas.gather_json(words)[0])."
    )


def tell(replicas: Any, error: Exception) -> None:
    """Tells the others, who are at `agree_on`, that we cannot start."""
    message = f"{type(error).__name__}: {error}"
    # Where the exchange fails too, our own error says more than its.
    with contextlib.suppress(tf.errors.OpError):
        agree_on(replicas, {"error": message})


def _setting(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int, float, np.generic)):
        return _plain(value)
    return _without_addresses(repr(value))


def _digest(layer: Any) -> str:
    """Returns a short digest of a layer's settings, as far as it has them."""
    return hashlib.sha256(text(layer).encode()).hexdigest()[:8]


def _plain(thing: Any, drop: frozenset[str] = frozenset()) -> Any:
    """Returns what a thing is set to, as JSON has it.

    Args:
      thing: anything.
      drop: the keys of dicts that are no settings.
    """
    if isinstance(thing, (np.generic, np.ndarray)):
        thing = thing.tolist()
    if thing is None or isinstance(thing, (str, bool, int, float)):
        return thing
    if isinstance(thing, (list, tuple)):
        return [_plain(part, drop) for part in thing]
    if isinstance(thing, Mapping):
        return _plain_dict(thing, drop)
    if isinstance(thing, keras.Model):
        return type(thing).__name__
    if not isinstance(thing, type) and hasattr(thing, "get_config"):
        return {type(thing).__name__: _config(thing)}
    # By its repr, equal things would differ: it may have an address.
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def _plain_dict(thing: Mapping, drop: frozenset[str]) -> Any:
    kind = str(thing.get("class_name"))
    if kind == "__lambda__":
        return kind  # its code has the path of the file it is from
    if kind.endswith("DTypePolicy"):
        drop = frozenset()  # the name is all that it is
    return {str(k): _plain(v, drop) for k, v in thing.items() if k not in drop}


def _config(thing: Any) -> Any:
    """Returns the settings of a Keras object; None if it does not tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas: nothing is saved
            return _plain(thing.get_config(), _NO_SETTINGS)
    except Exception:  # anyone's code, and not needed to train
        return None


def _without_addresses(words: str) -> str:
    return _ADDRESS.sub("", words)
