"""Warnings of what a fit on several workers was not given.

Nothing is wrong with such a fit by itself, so it goes on: but its script is
started on several machines, and gets nothing from them.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from absl import logging

from fda_tf.data import arrays
from fda_tf.data.digests import digest
from fda_tf.fit.keras_hooks import FitCallback, find, fit_variables
from fda_tf.processes.process_group import when_connected


def watch_callbacks(process_group: Any) -> None:
    """Warns in every fit from now on that has no callback of ours.

    Keras calls nothing of ours in such a fit, so this wraps the one public
    method that it calls in each: of a model's own `fit`, too, and of what is
    a `Trainer` and no `keras.Model`.

    Args:
      process_group: the processes of the job.
    """
    if process_group.count > 1:
        method = keras.callbacks.CallbackList.on_train_begin
        keras.callbacks.CallbackList.on_train_begin = _warning(
            method, process_group
        )


def _warning(method: Any, process_group: Any) -> Any:
    @functools.wraps(method)
    def on_train_begin(self, logs=None):
        # A loop of one's own may call it as well, and not be a fit.
        ours = find(self.callbacks, FitCallback)
        if process_group.is_chief and not ours and fit_variables():
            logging.warning(
                "This model.fit has no callback of fda_tf's: it trains on "
                "each worker alone, and nothing is averaged. Give it "
                "callbacks=[..., fda_tf.FDA(...)] on every worker; one object "
                "may serve all fits of a model."
            )
        return method(self, logs)

    return on_train_begin


def arrays_digest(process_group: Any) -> str | None:
    """Returns a digest of the arrays that the fit which calls us was given.

    Args:
      process_group: the processes of the job.

    Returns:
      None, if it was not given arrays, or nobody is there to compare them.
    """
    if process_group.count == 1:
        return None
    given = fit_variables()
    try:
        data = [given.get(name) for name in arrays.NAMES]
        return digest(arrays.read(data, "The data given to fit"))
    except (ValueError, TypeError):  # of what else fit takes
        return None


def warn_if_whole(process_group: Any, digests: Sequence[str | None]) -> None:
    """Warns on the chief, once, if all workers were given the same data.

    Args:
      process_group: the processes of the job.
      digests: of each worker's data; None for what needs no warning.
    """
    same = digests[0] is not None and len(set(digests)) == 1
    if same and process_group.count > 1 and process_group.is_chief:
        logging.log_first_n(
            logging.WARNING,
            "All %d workers were given the same data, and each goes through "
            "all of them: they are no faster than one. Give fit each worker's "
            "part: fda_tf.shard((x, y), batch_size=32) in the place of x, y "
            "and batch_size, or dataset.shard(process_group.count, "
            "process_group.index).",
            1,
            process_group.count,
        )


when_connected(watch_callbacks)
