"""The list of callbacks that Keras calls, and what we change of it.

Our callback comes first and its last word last, wherever the user put it;
an exception in one of the others is told to all workers; and callbacks that
write files do nothing but on the chief.
"""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import keras

from fda_tf import replicas as replicas_lib

Callback = keras.callbacks.Callback

# What only one of the workers is to write or to show, if this Keras has it.
_WRITERS = (
    "CSVLogger",
    "ModelCheckpoint",
    "OrbaxCheckpoint",
    "ProgbarLogger",
    "RemoteMonitor",
    "TensorBoard",
)
CHIEF_ONLY = tuple(
    getattr(keras.callbacks, name)
    for name in _WRITERS
    if hasattr(keras.callbacks, name)
)


def on_chief(
    callback: Callback, replicas: replicas_lib.Replicas | None = None
) -> Callback:
    """Returns the callback on worker 0, and one that does nothing elsewhere.

    For callbacks of one's own that write; Keras' are known. It must not use
    what needs all workers, such as `averaged_weights()`.

    Args:
      callback: any `keras.callbacks.Callback`.
      replicas: what `fda_tf.connect()` returned.

    Raises:
      ValueError: for what is no callback.

    Example:
      >>> on_chief(keras.callbacks.History())  # doctest: +ELLIPSIS
      <...History object at ...>
    """
    if not isinstance(callback, Callback):
        raise ValueError(
            f"on_chief received {callback!r}; expected a "
            "keras.callbacks.Callback. LambdaCallback makes one of a function."
        )
    replicas = replicas_lib.current() if replicas is None else replicas
    return callback if replicas.is_chief else Callback()


def put_first(callback: Callback) -> None:
    """Puts a callback first in the list that Keras is going through.

    So those which were before it are not called without it from then on.
    """
    with contextlib.suppress(ValueError):  # it is refused when fit begins
        callbacks = _list_with(callback)
        others = [c for c in callbacks if c is not callback]
        callbacks[:] = [callback, *others]


class Arranged:
    """Keras' list of callbacks, rearranged in place until `restore`.

    Args:
      first: ours, which is in the list that Keras is going through.
      last: what comes last.
      telling: makes the context in which the others are called.
      replicas: the processes of the job.

    Raises:
      ValueError: for callbacks that cannot work beside ours.
    """

    def __init__(
        self,
        first: Callback,
        last: Callback,
        telling: Callable[[], contextlib.AbstractContextManager],
        replicas: replicas_lib.Replicas,
    ):
        self._list = _list_with(first)
        self._original = list(self._list)
        others = [c for c in self._list if c is not first]
        _refuse(others, type(first))
        if replicas.count > 1:
            _refuse_within_epochs(others)
        self.others = [
            on_chief(c, replicas) if isinstance(c, CHIEF_ONLY) else c
            for c in others
        ]
        # Keras is at our place: what it has called moves one up, what it has
        # not called stays where it was.
        guarded = [_Guarded(c, telling) for c in self.others]
        self._list[:] = [first, *guarded, last]

    def restore(self) -> None:
        """Puts the list back as it was."""
        self._list[:] = self._original


class _Guarded(Callback):
    """Calls another callback within a context."""

    def __init__(self, callback, telling):
        super().__init__()
        self._callback, self._telling = callback, telling


def _forward(name: str) -> Callable:
    def method(self, *args, **kwargs):
        with self._telling():
            return getattr(self._callback, name)(*args, **kwargs)

    return method


for _name in dir(Callback):
    if _name.startswith("on_"):
        setattr(_Guarded, _name, _forward(_name))


def _list_with(callback: Callback) -> list[Callback]:
    """Returns the list that Keras is going through, for `callback`.

    Keras shows callbacks the model, never each other, so it is found through
    the caller: the CallbackList whose method is running.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and any(
            c is callback for c in caller.callbacks
        ):
            return caller.callbacks
        frame = frame.f_back
    raise ValueError(
        f"{type(callback).__name__} was not called by model.fit. Give it in "
        "fit(callbacks=[...]) itself, not inside another callback."
    )


def fit_variables() -> dict[str, Any]:
    """Returns the local variables of the `fit` that calls us.

    Keras shows its callbacks neither the data nor what deals them out.

    Returns:
      Its arguments and `epoch_iterator`, by name; nothing outside a fit.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "fit" and "epoch_iterator" in frame.f_locals:
            return dict(frame.f_locals)
        frame = frame.f_back
    return {}


def epoch_iterator() -> Any:
    """Returns what deals out the data in the `fit` that calls us, or None."""
    return fit_variables().get("epoch_iterator")


def _refuse(others: list[Callback], ours: type) -> None:
    from fda_tf.callback import Averaging

    for other in others:
        if isinstance(other, Averaging):
            raise ValueError(
                f"callbacks= has {ours.__name__} and {type(other).__name__}: "
                "expected one of them. One fit has one policy."
            )
        if isinstance(other, keras.callbacks.BackupAndRestore):
            raise ValueError(
                "BackupAndRestore knows nothing of the other workers. Give "
                f"{ours.__name__}(checkpoint=fda_tf.Checkpoint(directory)) in "
                "its place."
            )


def _refuse_within_epochs(others: list[Callback]) -> None:
    """Raises ValueError for what saves where no worker has the average."""
    for other in others:
        frequency = getattr(other, "save_freq", "epoch")
        if isinstance(other, CHIEF_ONLY) and frequency != "epoch":
            raise ValueError(
                f"{type(other).__name__}(save_freq={frequency!r}) would save "
                "worker 0's own model, and choose the best by its own data: "
                "only at an epoch's end is there the average. Give "
                'save_freq="epoch".'
            )


def find(callbacks: list[Callback], kind: type) -> Any:
    """Returns the first callback of a kind, or None."""
    return next((c for c in callbacks if isinstance(c, kind)), None)
