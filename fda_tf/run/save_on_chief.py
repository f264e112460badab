"""Saving a model outside `fit`: by one worker, while the others wait."""

import os
from typing import Any

import keras

from fda_tf.processes.error_messages import in_brief
from fda_tf.processes.process_group import ProcessGroup, current_process_group


def save_on_chief(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    process_group: ProcessGroup | None = None,
    **options: Any,
) -> None:
    """Saves a model by worker 0, and returns on all when the file is there.

    After `fit` every worker holds the same model, and `model.save` on each of
    them into one file would spoil it. All workers must call it.

    Args:
      model: any Keras model.
      path: as `model.save` takes it.
      process_group: what `fda_tf.connect()` returned.
      **options: of `model.save`.

    Raises:
      RuntimeError: on all other workers, when worker 0 could not save.

    Example:
      >>> import tempfile
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_on_chief(model, folder + "/model.keras")
      ...     os.listdir(folder)
      ['model.keras']
    """
    process_group = (
        current_process_group() if process_group is None else process_group
    )
    error = None
    if process_group.is_chief:
        try:
            model.save(path, **options)
        except Exception as raised:
            error = raised  # the others wait: tell them first
    with process_group.lost_worker_in_words():
        told = process_group.gather_json(error and in_brief(error))[0]
    if error is not None:
        raise error
    if told is not None:
        raise RuntimeError(f"Worker 0 could not save the model: {told}")
