"""What Keras' own callbacks remember from epoch to epoch, for checkpoints.

Keras itself forgets it when a process ends: EarlyStopping would wait anew,
ModelCheckpoint would take the next model for the best one.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

KEPT = {
    keras.callbacks.EarlyStopping: (
        "wait", "stopped_epoch", "best", "best_epoch",
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: ("best",),
}  # fmt: skip


def collect(
    callbacks: Sequence[Any],
) -> tuple[dict[str, dict[str, Any]], list[np.ndarray]]:
    """Returns what callbacks remember: facts for JSON, and arrays.

    Example:
      >>> early = keras.callbacks.EarlyStopping(restore_best_weights=True)
      >>> early.wait, early.best = 2, np.float32(0.5)
      >>> early.best_weights = [np.ones(3)]
      >>> facts, arrays = collect([early])
      >>> facts["EarlyStopping 0"]["wait"], len(arrays)
      (2, 1)
      >>> fresh = keras.callbacks.EarlyStopping()
      >>> give_back([fresh], facts, arrays)
      >>> fresh.wait, fresh.best, fresh.best_weights
      (2, 0.5, [array([1., 1., 1.])])
    """
    facts, arrays = {}, []
    for name, callback, attributes in _known(callbacks):
        facts[name] = {
            attribute: _number(getattr(callback, attribute, None))
            for attribute in attributes
        }
        best = getattr(callback, "best_weights", None)
        if best is not None:
            facts[name]["best_weights"] = [len(arrays), len(best)]
            arrays += map(np.asarray, best)
    return facts, arrays


def give_back(
    callbacks: Sequence[Any],
    facts: dict[str, dict[str, Any]],
    arrays: Sequence[np.ndarray],
) -> None:
    """Gives back what `collect` returned to callbacks of the same types."""
    for name, callback, attributes in _known(callbacks):
        kept = facts.get(name, {})
        for attribute in attributes:
            if attribute in kept:
                setattr(callback, attribute, kept[attribute])
        if "best_weights" in kept:
            first, count = kept["best_weights"]
            callback.best_weights = list(arrays[first : first + count])


def _known(callbacks: Sequence[Any]):
    """Yields (name, callback, attributes) of those whose memory is known."""
    seen: dict[type, int] = {}
    for callback in callbacks:
        for kind, attributes in KEPT.items():
            if isinstance(callback, kind):
                number = seen[kind] = seen.get(kind, -1) + 1
                yield f"{kind.__name__} {number}", callback, attributes


def _number(value: Any) -> Any:
    """Returns a plain number for one of NumPy's or a tensor; None for None."""
    return None if value is None else np.asarray(value).item()
