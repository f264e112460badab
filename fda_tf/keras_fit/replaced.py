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
    """

    def __init__(self, fit: Any):
        self._fit, self._model = fit, fit.model
        self._arranged = Arranged(
            fit.callback, Last(fit), fit.calling, fit.replicas.is_chief
        )
        model = fit.model
        self.train_function = model.train_function
        self.logs = model._get_metrics_result_or_logs
        self.evaluate = model.evaluate
        self._epoch = model._initial_epoch
        model.train_function = fit.execute
        model._get_metrics_result_or_logs = fit.result
        model.evaluate = fit.evaluate
        # Keras calls it first of all in every fit: what an exception between
        # our calls has left in place goes then.
        model.make_train_function = self._make_train_function
        self._until_the_end = contextlib.ExitStack()

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
        if self._fit.in_callback:  # which uses the model besides
            return self.train_function
        self._fit.leave()
        return self._model.make_train_function(force)


class Last(keras.callbacks.Callback):
    """Has the last word after all other callbacks."""

    def __init__(self, fit: Any):
        super().__init__()
        self._fit = fit

    def on_train_begin(self, logs=None):
        self._fit.all_have_begun()

    def on_epoch_end(self, epoch, logs=None):
        self._fit.after_epoch(epoch)

    def on_train_end(self, logs=None):
        self._fit.after_training()
