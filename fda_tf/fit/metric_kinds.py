"""How the variables of a metric are reduced over workers.

A metric of Keras keeps sums. What another keeps is found by trying it once:
what two batches make of a variable, one after the other, beside what each of
them makes of it alone, tells a sum from a maximum.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fda_tf import keras_internals

Metric = keras.metrics.Metric

# What Keras' `add_variable(aggregation=)` says when it is not its default.
MARKS = {"mean": "mean", "only_first_replica": "chief"}
# Kinds that tell of all batches what their parts, done apart, tell together.
DIVISIBLE = frozenset({"sum", "max", "min"})
# From what one batch (a) and another (b) make of a variable, and its start,
# what both make of it, one after the other.
_BOTH: dict[str, Callable] = {
    "sum": lambda start, a, b: a + b - start,
    "max": lambda start, a, b: np.maximum(a, b),
    "min": lambda start, a, b: np.minimum(a, b),
    "mean": lambda start, a, b: (a + b) / 2,
    "chief": lambda start, a, b: a,  # the first
    "last": lambda start, a, b: b,
}
_PAIRS = ((0, 1), (1, 0), (2, 3), (3, 2))
_ROWS = 6


def find(model: keras.Model) -> list[Metric]:
    """Returns the metrics of a model, also those its `metrics` leaves out."""
    found: dict[int, Metric] = {}
    owners = keras_internals.layers_of(model)
    for metric in [*model.metrics, *_inside(list(map(vars, owners)), Metric)]:
        for each in _parts(metric):
            found.setdefault(id(each), each)
    return list(found.values())


def is_keras(metric: Metric) -> bool:
    """Returns whether what updates a metric is Keras' own code: sums."""
    return type(metric).update_state.__module__.startswith("keras.")


def variables(metric: Metric) -> list[Any]:
    """Returns a metric's variables, those of TensorFlow's own, too."""
    return [*metric.variables, *_inside(vars(metric), tf.Variable)]


def mark(variable: Any) -> str | None:
    """Returns the kind that a variable's `aggregation` says, if it does."""
    if isinstance(variable, keras.Variable):
        return MARKS.get(variable.aggregation)
    return None


def try_out(metric: Metric, call: tuple) -> list[str]:
    """Returns the kind of each of a metric's variables, by trying it.

    That of one that no batch has moved is "still".

    Args:
      metric: is as before when this returns.
      call: the specs of (args, kwargs) of `update_state`.

    Raises:
      ValueError: if a variable is of no kind that can be reduced.

    Example:
      >>> scores = keras.metrics.MeanSquaredError()
      >>> two = [tf.TensorSpec([None, 1])] * 2
      >>> try_out(scores, (two, {}))
      ['sum', 'sum']
    """
    try:
        batches = [_batch(call, seed) for seed in range(4)]
        kinds = _Trial(metric).kinds(batches)
    except Exception as error:
        raise ValueError(
            f"{_what(metric)} cannot be reduced over the workers: on random "
            f"values it ends in {type(error).__name__}: {error}. {_MEND}"
        ) from error
    for variable, kind in zip(variables(metric), kinds, strict=True):
        if kind is None and mark(variable) is None:
            raise ValueError(
                f"{_what(metric)} cannot be reduced over the workers: its "
                f"variable {variable.name!r} has after two batches neither "
                "the sum, the maximum, the minimum nor the mean of what each "
                f"of them makes of it alone, nor one of both. {_MEND}"
            )
    return [
        mark(variable) or kind
        for variable, kind in zip(variables(metric), kinds, strict=True)
    ]


def refuse_untried(metric: Metric, variable: Any) -> None:
    """Raises ValueError for what a step changes, and a trial does not."""
    raise ValueError(
        f"{_what(metric)} cannot be reduced over the workers: the step changes "
        f"its variable {variable.name!r}, but update_state() with random "
        f"values does not, or is not called there. {_MEND}"
    )


def refuse_untraced(metric: Metric, error: Exception) -> None:
    """Raises ValueError for a metric of a step that cannot be traced."""
    raise ValueError(
        f"{_what(metric)} cannot be reduced over the workers: the step that "
        f"updates it cannot be traced: {error}. Use one of Keras' own metrics, "
        "or a step that tf.function takes."
    ) from error


_MEND = (
    "Let it keep sums, maxima or minima in add_variable(), or say "
    'add_variable(aggregation="mean") or aggregation="only_first_replica" '
    "(worker 0's)."
)


def _what(metric: Metric) -> str:
    return f"The metric {metric.name!r} ({type(metric).__name__})"


class _Trial:
    """Updates a metric with batches, again and again from its start."""

    def __init__(self, metric: Metric):
        self._metric, self._variables = metric, variables(metric)
        self._before = [v.numpy() for v in self._variables]
        metric.reset_state()
        self._start = [v.numpy() for v in self._variables]

    def kinds(self, batches: list[tuple]) -> list[str | None]:
        """Returns each variable's kind; None if none fits."""
        try:
            once = [self._after(batch) for batch in batches]
            pairs = [
                (once[i][0], once[j][0], self._after(batches[i], batches[j])[0])
                for i, j in _PAIRS
            ]
            if not _alike(self._after(batches[0]), once[0]):
                raise ValueError(
                    "another result for the same batch: it keeps state in "
                    "Python or NumPy, or draws random numbers"
                )
        finally:
            self._assign(self._before)
        places = range(len(self._variables))
        return [self._kind(i, pairs) for i in places]

    def _kind(self, i: int, pairs: list[tuple]) -> str | None:
        start = self._start[i]
        if start.dtype.kind not in "fiub" and start.dtype != tf.bfloat16:
            return None
        if all(np.array_equal(start, ab[i]) for *_, ab in pairs):
            return "still"
        for kind, both in _BOTH.items():
            if all(
                _close(both(*_wide(start, a[i], b[i])), ab[i])
                for a, b, ab in pairs
            ):
                return "chief" if kind == "last" else kind
        return None

    def _after(self, *batches: tuple) -> tuple[list[np.ndarray], list]:
        """Returns the variables and the result after some batches."""
        self._assign(self._start)
        for args, kwargs in batches:
            self._metric.update_state(*args, **kwargs)
        result = tf.nest.flatten(self._metric.result())
        return [v.numpy() for v in self._variables], list(map(np.array, result))

    def _assign(self, values: list[np.ndarray]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)


def _wide(*values: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(v, np.float64) for v in values]


def _close(expected: np.ndarray, got: np.ndarray) -> bool:
    got = np.asarray(got, np.float64)
    return np.allclose(expected, got, rtol=1e-3, atol=1e-6, equal_nan=True)


def _alike(ones: Any, others: Any) -> bool:
    """Returns whether two pairs of lists of arrays have equal values."""
    both = zip(sum(ones, []), sum(others, []), strict=True)
    return all(_close(*_wide(a, b)) for a, b in both)


def _batch(call: tuple, seed: int) -> tuple:
    """Returns random values for the specs of a call; of either sign later."""
    random = np.random.default_rng(seed)
    low, high = sorted(random.uniform(-3 if seed > 1 else 0, 1, size=2))

    def value(spec):
        if not isinstance(spec, tf.TensorSpec):
            return spec
        shape = [_ROWS] if spec.shape.rank is None else spec.shape
        shape = [_ROWS if n is None else n for n in shape]
        if spec.dtype.is_floating:
            drawn = random.uniform(low, high, shape)
        elif spec.dtype.is_integer or spec.dtype.is_bool:
            drawn = random.integers(0, 2, shape)
        else:
            raise ValueError(f"values of type {spec.dtype.name} are unknown")
        return tf.cast(drawn, spec.dtype)

    return tf.nest.map_structure(value, call)


def _parts(metric: Metric) -> Iterator[Metric]:
    """Yields the metrics in one that Keras makes to hold several."""
    inside = getattr(metric, "metrics", None)
    if isinstance(inside, (list, tuple)) and is_keras(metric):
        for each in inside:
            yield from _parts(each)
    else:
        yield metric


def _inside(thing: Any, kind: type) -> Iterator[Any]:
    """Yields what is of a kind in attributes, lists and dicts."""
    if isinstance(thing, kind):
        yield thing
    elif isinstance(thing, dict):
        for each in list(thing.values()):
            yield from _inside(each, kind)
    elif isinstance(thing, (list, tuple, set)):
        for each in list(thing):
            yield from _inside(each, kind)
    elif isinstance(thing, Metric):
        yield from _inside(vars(thing), kind)
