"""What must be the same on every worker, and what happens when it is not.

Things are compared by what they are set to, as text that is alike in every
process: no memory addresses, and no names or seeds that Keras makes up.
"""

import contextlib
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fda_tf.processes.error_messages import in_brief, known

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

BATCHES = "the specs of a batch"  # of whose sizes constants may be made
CONSTANTS, ASSETS = "constants in ", "assets of "  # so begin names
# Machines that are not alike round in their own ways.
_ROUNDING = 1e-5


SAME_SETTINGS = (
    "Give every worker the same model and settings; only their data differ."
)


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
    return without_addresses(json.dumps(plain(thing), sort_keys=True))


def agree_on(
    process_group: Any, settings: dict[str, Any], advice: str = SAME_SETTINGS
) -> None:
    """Returns when all workers have equal settings.

    Args:
      process_group: a `ProcessGroup`.
      settings: ours, by name, as `describe` gives them.
      advice: what to do about one that differs, a sentence.

    Raises:
      ValueError: on every worker, for a setting that differs; on every other
        worker, if one has told of an error.
    """
    everyone = process_group.gather_json(settings)
    for k, other in enumerate(everyone):
        if "error" in other:
            error = ValueError(f"Worker {k} cannot start: {other['error']}")
            raise known(error, shown_by=k)
        for name in unlike(everyone[0], other):
            ours, theirs = everyone[0].get(name), other.get(name)
            error = ValueError(
                f"Worker {k} differs from worker 0 in {name}: {theirs} "
                f"against {ours}. {advice}{_advice(name)}"
            )
            raise known(error, shown_by=0)


def unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Returns the names of settings that differ between two workers.

    Constants may hold the size of a batch: they are compared of equal ones.

    Example:
      >>> unlike({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4})
      ['b', 'c']
    """
    same_batches = ours.get(BATCHES) == theirs.get(BATCHES)

    def alike(name):
        a, b = ours.get(name), theirs.get(name)
        if name.startswith(CONSTANTS):
            return not same_batches or _nearly(a, b)
        return a == b or name == BATCHES

    return [name for name in {**ours, **theirs} if not alike(name)]


def _nearly(a: list | None, b: list | None) -> bool:
    """Returns whether two sums of constants are equal, but for rounding."""
    if a is None or b is None:
        return False
    *numbers, digest = a
    *others, other = b
    return digest == other and np.allclose(numbers, others, _ROUNDING, 0.0)


def _advice(name: str) -> str:
    if not name.startswith((CONSTANTS, ASSETS, "layer ")):
        return ""
    return (
        " What a layer learns by adapt(), and any array that the model, its "
        "loss or its train_step is given, must be the same: adapt on the "
        "whole data, or on the chief and send it to the others, such as "
        "layer.set_vocabulary(process_group.gather_json(words)[0])."
    )


def tell(process_group: Any, error: BaseException) -> None:
    """Tells the others, where they meet next, of an error that ends all.

    Of those that fail of the same, the first shows where it was.
    """
    ours = {"error": in_brief(error)}
    # Where the exchange fails too, our own error says more than its.
    with contextlib.suppress(tf.errors.OpError):
        everyone = process_group.gather_json(ours)
        known(error, shown_by=everyone.index(ours))


def plain(thing: Any, drop: frozenset[str] = frozenset()) -> Any:
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
        return [plain(part, drop) for part in thing]
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
    return {str(k): plain(v, drop) for k, v in thing.items() if k not in drop}


def _config(thing: Any) -> Any:
    """Returns the settings of a Keras object; None if it does not tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas: nothing is saved
            return plain(thing.get_config(), _NO_SETTINGS)
    except Exception:  # anyone's code, and not needed to train
        return None


def without_addresses(words: str) -> str:
    """Returns a text without the addresses of objects in memory."""
    return _ADDRESS.sub("", words)


class Barrier:
    """Where the workers of a fit wait for each other, and tell what they know.

    Args:
      process_group: the processes of the job.

    Attributes:
      settled: whether the error has been broadcast.
    """

    def __init__(self, process_group: Any):
        self.process_group = process_group
        self.settled = False

    def gather(self, place: str, **news: Any) -> list[dict[str, Any]]:
        """Returns what every worker has to say.

        Args:
          place: where in `fit` this is.
          **news: ours, as JSON can hold it.

        Raises:
          RuntimeError: on all other workers, when one came with an error; on
            all, when they are at different places.
        """
        everyone = self.process_group.gather_json({"place": place} | news)
        places = [other.get("place") for other in everyone]
        for k, other in enumerate(everyone):
            if "error" in other:
                self.settled = True
                error = RuntimeError(
                    f"Worker {k} failed; all workers stop: {other['error']}"
                )
                raise known(error, shown_by=k)
            if places[k] != places[0]:
                self.settled = True
                error = RuntimeError(
                    f"Worker {k} is at {places[k]}, worker 0 at {places[0]}. "
                    "Call fit in the same way on every worker, with "
                    "validation_data on all or none."
                )
                raise known(error, shown_by=self.process_group.index)
        return everyone

    def gather_equal(
        self, place: str, settings: Mapping[str, Any], **news: Any
    ) -> list[dict[str, Any]]:
        """Gathers; the settings must be the same on all workers.

        Raises:
          ValueError: on every worker, for a setting that differs.
        """
        everyone = self.gather(place, settings=dict(settings), **news)
        for k, other in enumerate(everyone):
            first, theirs = everyone[0]["settings"], other["settings"]
            for name in {**first, **theirs}:
                if theirs.get(name) != first.get(name):
                    self.settled = True
                    error = ValueError(
                        f"Worker {k} differs from worker 0 in {name}: "
                        f"{theirs.get(name)} against {first.get(name)}. Call "
                        "fit in the same way on every worker; only their data "
                        "differ."
                    )
                    raise known(error, shown_by=0)
        return everyone

    def tell(self, error: BaseException) -> None:
        """Brings an error to the others' next barrier, which ends them."""
        self.settled = True
        tell(self.process_group, error)
