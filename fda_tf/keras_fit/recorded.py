"""What a step does to the metrics, read off one more trace of it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from fda_tf import touched


class Recorded(NamedTuple):
    """What a traced step does with the metrics."""

    calls: dict[int, tuple]  # place -> specs of the first update's (args, kw)
    origins: list  # of each log: (place, key) of the metric's result, or None
    written: dict[int, tf.Variable] | None  # by id; None if it is not known


def record(
    step: Callable, spec: Any, metrics: Sequence[keras.metrics.Metric]
) -> Recorded:
    """Traces a step once more, and notes what it does with the metrics.

    Args:
      step: the model's `train_step` or `test_step`.
      spec: of the batches.
      metrics: whose calls are noted, by their place here.
    """
    calls: dict[int, tuple] = {}
    results: dict[int, tuple] = {}  # id of a tensor -> (tensor, place, key)
    origins: list = []

    def traced(batch):
        logs = step(batch)
        for leaf in tf.nest.flatten(logs):
            _, *origin = results.get(id(leaf), (None,))
            origins.append(tuple(origin) or None)
        return logs

    with contextlib.ExitStack() as until_traced:
        for place, metric in enumerate(metrics):
            for name, note in (
                ("update_state", _noting_calls(place, calls)),
                ("result", _noting_results(place, results)),
            ):
                until_traced.enter_context(_in_place(metric, name, note))
        function = tf.function(traced, autograph=False)
        concrete = function.get_concrete_function(spec)
    return Recorded(calls, origins, touched.of(concrete)[0])


@contextlib.contextmanager
def _in_place(metric: Any, name: str, wrap: Callable) -> Iterator[None]:
    """Has a wrapped method in the place of a metric's own."""
    own, method = name in vars(metric), getattr(metric, name)
    setattr(metric, name, wrap(method))
    try:
        yield
    finally:
        if own:
            setattr(metric, name, method)
        else:
            delattr(metric, name)


def _noting_calls(place: int, calls: dict) -> Callable:
    def wrap(update):
        def noting(*args, **kwargs):
            calls.setdefault(
                place, tf.nest.map_structure(_spec, (args, kwargs))
            )
            return update(*args, **kwargs)

        return noting

    return wrap


def _noting_results(place: int, results: dict) -> Callable:
    def wrap(result):
        def noting():
            value = result()
            parts = value if isinstance(value, dict) else {None: value}
            for key, part in parts.items():
                results[id(part)] = part, place, key
            return value

        return noting

    return wrap


def _spec(leaf: Any) -> Any:
    """Returns the spec of a tensor; what is none, as it is."""
    if isinstance(leaf, (tf.Tensor, tf.Variable)):
        return tf.TensorSpec(leaf.shape, leaf.dtype)
    return leaf
