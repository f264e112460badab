"""What is Keras', while a fit has something else in its place."""

import contextlib
import warnings
from typing import Any

import keras

from fda_tf.keras_fit.callback_list import Arranged, find


class Replaced:
    """Takes the places in a model that a fit needs, until `restore`.

    Args:
      fit: the `fda_tf.keras_fit.fitting.Fit` that takes them.

    Attributes:
      train_function: Keras' own.
      compiled: whether a callback has compiled the model anew.
    """

    def __init__(self, fit: Any):
        self._fit, self._model = fit, fit.model
        self._arranged = Arranged(
            fit.callback, Last(fit), fit.calling, fit.replicas
        )
        model = fit.model
        self.train_function = model.train_function
        self.logs = model._get_metrics_result_or_logs
        self.evaluate = model.evaluate
        self.compiled = False
        self._epoch = model._initial_epoch
        model.train_function = fit.execute
        model._get_metrics_result_or_logs = fit.result
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
        return self._arranged.others

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
        self._model._initial_epoch = epoch or self._epoch

    def restore(self) -> None:
        """Puts everything back."""
        model = self._model
        self._arranged.restore()
        model.train_function = self.train_function
        model._initial_epoch = self._epoch
        # They were the class's own.
        del model._get_metrics_result_or_logs, model.make_train_function
        del model.evaluate
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
