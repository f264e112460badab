"""What is Keras', while a fit has something else in its place."""

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras

from fda_tf import keras_internals
from fda_tf.processes.process_group import ProcessGroup, current_process_group

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
    callback: Callback, process_group: ProcessGroup | None = None
) -> Callback:
    """Returns the callback on worker 0, and one that does nothing elsewhere.

    For callbacks of one's own that write; Keras' are known. It must not use
    what needs all workers, such as `averaged_weights()`.

    Args:
      callback: any `keras.callbacks.Callback`.
      process_group: what `fda_tf.connect()` returned.

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
    process_group = (
        current_process_group() if process_group is None else process_group
    )
    return callback if process_group.is_chief else Callback()


class FitCallback(Callback):
    """Base of the callbacks that train in the place of `fit`'s own loop.

    Attributes:
      in_list: the list of callbacks that the running fit goes through, this
        one first.
    """

    in_list: list[Callback] | None = None


_keras_on_train_begin = keras.callbacks.CallbackList.on_train_begin
_when_without: list[Callable[[], None]] = []


def when_without_ours(call: Callable[[], None]) -> None:
    """Calls a function whenever a `CallbackList` begins without one of ours."""
    _when_without.append(call)


@functools.wraps(_keras_on_train_begin)
def _on_train_begin(self: keras.callbacks.CallbackList, logs: Any = None):
    """Puts ours first, and tells it in which list it is.

    Keras shows callbacks the model and never each other. This public method
    is the only one that it calls in every fit, before any callback's own.
    """
    ours = find(self.callbacks, FitCallback)
    if ours is None:
        for call in _when_without:
            call()
    else:
        others = [c for c in self.callbacks if c is not ours]
        self.callbacks[:] = [ours, *others]
        ours.in_list = self.callbacks
    return _keras_on_train_begin(self, logs)


keras.callbacks.CallbackList.on_train_begin = _on_train_begin


class CallbackOrder:
    """Keras' list of callbacks, rearranged in place until `restore`.

    Args:
      first: ours, which is in the list that Keras is going through.
      last: what comes last.
      telling: makes the context in which the others are called.
      process_group: the processes of the job.

    Raises:
      ValueError: for callbacks that cannot work beside ours.
    """

    def __init__(
        self,
        first: FitCallback,
        last: Callback,
        telling: Callable[[], contextlib.AbstractContextManager],
        process_group: ProcessGroup,
    ):
        if first.in_list is None:
            raise ValueError(
                f"{type(first).__name__} was not called by model.fit. Give it "
                "in fit(callbacks=[...]) itself, not inside another callback."
            )
        self._first, self._list = first, first.in_list
        self._original = list(self._list)
        others = [c for c in self._list if c is not first]
        _refuse(others, type(first))
        if process_group.count > 1:
            _refuse_within_epochs(others)
        self.others = [
            on_chief(c, process_group) if isinstance(c, CHIEF_ONLY) else c
            for c in others
        ]
        # Keras is at our place: what it has called moves one up, what it has
        # not called stays where it was.
        guarded = [_Guarded(c, telling) for c in self.others]
        self._list[:] = [first, *guarded, last]

    def restore(self) -> None:
        """Puts the list back as it was."""
        self._list[:] = self._original
        self._first.in_list = None


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


def epoch_length(
    steps: int | None, at_once: int
) -> tuple[int | None, int | None]:
    """Returns (steps of an epoch, batches of the data), as Keras counts them.

    The batches are None if unknown, or if every epoch takes all of them.

    Args:
      steps: as Keras tells its callbacks.
      at_once: steps of an execution, of which Keras runs whole ones.
    """
    epochs = epoch_iterator()
    if not steps or epochs is None or not epochs.steps_per_epoch:
        return None if steps is None else int(steps), None
    batches = epochs.data_adapter.num_batches
    return -(-int(steps) // at_once) * at_once, batches and int(batches)


def _refuse(others: list[Callback], ours: type) -> None:
    for other in others:
        if isinstance(other, FitCallback):
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


class KerasHooks:
    """Takes the places in a model that a fit needs, until `restore`.

    Args:
      fit: the `fda_tf.fit.session.Fit` that takes them.

    Attributes:
      train_function: Keras' own.
      compiled: whether a callback has compiled the model anew.
    """

    def __init__(self, fit: Any):
        self._fit, self._model = fit, fit.model
        self._order = CallbackOrder(
            fit.callback, Last(fit), fit.calling, fit.process_group
        )
        model = fit.model
        self.train_function = model.train_function
        self.logs = keras_internals.replace_result(model, fit.result)
        self.evaluate = model.evaluate
        self.compiled = False
        self._epoch = keras_internals.initial_epoch(model)
        model.train_function = fit.execute
        model.evaluate = fit.evaluate
        # Keras calls it first of all in every fit: what an exception between
        # our calls has left in place goes then.
        model.make_train_function = self._make_train_function
        self._until_the_end = contextlib.ExitStack()

    def refuse_own_loop(self) -> None:
        """Raises ValueError unless the train function is Keras' own."""
        _refuse_own_loop(self.train_function)

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """The other callbacks that work here."""
        return self._order.others

    def find(self, kind: type) -> Any:
        """Returns the callback of a kind that works here, or None."""
        return find(self.callbacks, kind)

    def ends_on_nan(self) -> bool:
        """Returns whether a callback ends training in silence at a NaN."""
        found = self.find(keras.callbacks.TerminateOnNaN)
        return found is not None and not getattr(found, "raise_error", False)

    def until_the_end(self, context: contextlib.AbstractContextManager) -> None:
        """Enters a context, which ends when everything is put back."""
        self._until_the_end.enter_context(context)

    def do_not_warn(self) -> None:
        """Keeps Keras from warning of data that end where all have agreed."""
        self.until_the_end(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Your input ran out of data")

    def begin_at(self, epoch: int) -> None:
        """Lets Keras begin with an epoch; 0 for its own `initial_epoch`."""
        keras_internals.begin_at(self._model, epoch or self._epoch)

    def restore(self) -> None:
        """Puts everything back."""
        model = self._model
        self._order.restore()
        model.train_function = self.train_function
        keras_internals.begin_at(model, self._epoch)
        keras_internals.replace_result(model, None)
        del model.make_train_function, model.evaluate  # they were the class's
        self._until_the_end.close()

    def _make_train_function(self, force: bool = False) -> Any:
        model = self._model
        if not self._fit.in_callback:
            self._fit.leave()
            return model.make_train_function(force)
        if force or model.train_function is None:
            if self._fit.within_epoch:
                raise ValueError(
                    "A callback has called model.make_train_function() within "
                    "an epoch, after a batch. Compile the model anew in "
                    "on_epoch_end or on_epoch_begin, where all workers meet."
                )
            self.compiled = True
            self._make_again()
        return model.train_function

    def _make_again(self) -> None:
        """Lets Keras make its train function, and takes its place again."""
        model = self._model
        del model.make_train_function
        try:
            model.make_train_function(force=True)
        finally:
            model.make_train_function = self._make_train_function
        _refuse_own_loop(model.train_function)
        self.train_function = model.train_function
        model.train_function = self._fit.execute


def _refuse_own_loop(train_function: Any) -> None:
    """Raises ValueError unless a train function is the one that Keras makes.

    Another one, of an overridden `make_train_function` or set by hand, would
    never be called: ours is in its place.
    """
    # A wrapper may have Keras' __module__; where it was written is told here.
    where = getattr(train_function, "__globals__", {}).get("__name__", "")
    if where.partition(".")[0] != "keras":
        raise ValueError(
            "The model has a train function of its own, by make_train_function"
            f" or by hand: {train_function!r}. It would not be called, since "
            "the steps of all workers are one loop. Write what it does in "
            "train_step, or in a loop of your own with fda_tf.Trainer."
        )


class Last(keras.callbacks.Callback):
    """Has the last word after all other callbacks."""

    def __init__(self, fit: Any):
        super().__init__()
        self._fit = fit

    def on_train_begin(self, logs=None):
        self._fit.all_have_begun()

    def on_epoch_begin(self, epoch, logs=None):
        self._fit.epoch_has_begun()

    def on_epoch_end(self, epoch, logs=None):
        self._fit.after_epoch(epoch)

    def on_train_end(self, logs=None):
        self._fit.after_training()
