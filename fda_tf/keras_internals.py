"""Every private name of Keras that fda_tf uses, each with its reason.

A version that has one no longer fails a test named here, and only that use.
"""

from typing import Any


def layers_of(model: Any) -> list[Any]:
    """Returns the model and all layers inside it, each once.

    The public `layers` has no layers of layers. Guarded by
    tests/workers/test_variable_groups.py.
    """
    return list(model._flatten_layers())


def build(model: Any, data_batch: Any) -> None:
    """Builds a model, its metrics and its optimizer as `fit` does.

    The public `build` leaves the metrics and the optimizer out. Guarded by
    the eager models of tests/fit/test_kinds.py.

    Args:
      model: compiled.
      data_batch: (x, y, sample_weight) of specs.
    """
    model._symbolic_build(data_batch=data_batch)


def is_of_a_strategy(model: Any) -> bool:
    """Returns whether a model was made in a `strategy.scope()`.

    No public name tells. Guarded by tests/run/test_refusals.py.
    """
    return getattr(model, "_distribute_strategy", None) is not None


def initial_epoch(model: Any) -> int:
    """Returns the epoch with which the running `fit` begins.

    Callbacks are told how many epochs there are, and not the first one.
    Guarded by tests/checkpoint/test_resume.py.
    """
    return model._initial_epoch


def begin_at(model: Any, epoch: int) -> None:
    """Lets the running `fit` begin with an epoch.

    Its argument is read before any callback is called. Guarded by
    tests/checkpoint/test_resume.py.
    """
    model._initial_epoch = epoch


def replace_result(model: Any, result: Any) -> Any:
    """Puts a function in the place of a fit's step from metrics to logs.

    The logs of an epoch and of its validation go through it before any
    callback sees them, and callbacks see each key at its own place, after
    validation. Guarded by tests/fit/test_metrics.py.

    Args:
      model: of the running fit.
      result: takes the logs of the last step; None for Keras' own again.

    Returns:
      What was there before.
    """
    before = model._get_metrics_result_or_logs
    if result is None:
        del model._get_metrics_result_or_logs
    else:
        model._get_metrics_result_or_logs = result
    return before


def drawn(epochs: Any) -> int:
    """Returns how many batches Keras has drawn of an iterator over epochs.

    Where an epoch is a part of the data, the next one goes on with the rest,
    and a resumed run must know where. Guarded by
    tests/checkpoint/test_resume_cluster.py.

    Args:
      epochs: the `epoch_iterator` of a running fit.
    """
    # None when all were drawn: the next epoch begins anew.
    return 0 if epochs._current_iterator is None else epochs._steps_seen


def count_drawn(epochs: Any, batches: int) -> None:
    """Lets Keras count batches as drawn that a run before has drawn."""
    epochs._steps_seen += batches
