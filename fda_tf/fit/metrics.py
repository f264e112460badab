"""What a step does to the metrics, read off one more trace of it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from fda_tf.fit import metric_kinds
from fda_tf.workers import step_trace


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
    return Recorded(calls, origins, step_trace.of(concrete)[0])


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


_OVER = {
    "max": lambda rows, samples: rows.max(0),
    "min": lambda rows, samples: rows.min(0),
    "mean": lambda rows, samples: np.average(rows, 0, samples),
    "chief": lambda rows, samples: rows[0],
}


class Share(NamedTuple):
    """What this worker's part of an epoch counts for."""

    counts: bool = True  # worker 0's always does
    samples: float = 1.0  # of the part: the weight of means
    last: float = 1.0  # the weight of what the last step returned


class Metrics:
    """The metrics of a model, reduced over the workers at an epoch's end.

    What each of their variables is (a sum, a maximum, a minimum, a mean,
    worker 0's) is settled before training. Of sums the gain since the epoch
    began is added up: a metric that is not reset counts what was before once.

    Args:
      model: compiled and built.
      spec: of the batches.
      logs: the specs of what `train_step` returns.
      process_group: the processes of the job.

    Attributes:
      training: what `train_step` does with them, where that is not plain.

    Raises:
      ValueError: for a metric that cannot be reduced, by its name.
    """

    def __init__(self, model: Any, spec: Any, logs: Any, process_group: Any):
        self._model, self._process_group = model, process_group
        self._metrics = metric_kinds.find(model)
        self._kinds: dict[int, str] = {}  # by id of the variable
        self._unknown: dict[int, keras.metrics.Metric] = {}  # by place
        self._variables: list[Any] = []
        self._places: list[range] = []  # in it, of each metric
        for place, metric in enumerate(self._metrics):
            self._take(place, metric)
        self.training = Recorded({}, [], {})
        if self._unknown or not self._are_all(logs):
            self.training = self._record(model.train_step, spec)
        self._begun: list[np.ndarray] = []  # here
        self._base: list[np.ndarray] = []  # on all workers together
        # When they were reduced last, before that and after.
        self._here: list[np.ndarray] = []
        self._left: list[np.ndarray] = []
        self.begin()

    def _take(self, place: int, metric: keras.metrics.Metric) -> None:
        """Settles the kinds that need no trial."""
        if not metric_kinds.is_keras(metric):
            self._unknown[place] = metric
        first = len(self._variables)
        for variable in metric_kinds.variables(metric):
            if id(variable) not in self._kinds:
                self._variables.append(variable)
                kind = metric_kinds.mark(variable) or "sum"
                self._kinds[id(variable)] = kind
        self._places.append(range(first, len(self._variables)))

    def _are_all(self, logs: Any) -> bool:
        """Returns whether logs are the metrics' results, as Keras asks."""
        try:
            results = self._model.get_metrics_result()
        except Exception:  # anyone's code, which has seen no batch
            return False
        return isinstance(logs, dict) and logs.keys() == results.keys()

    def _settle(self, recorded: Recorded) -> None:
        """Tries the metrics that a step updates."""
        for place, metric in list(self._unknown.items()):
            own = metric_kinds.variables(metric)
            kinds = [metric_kinds.mark(v) or "still" for v in own]
            if place in recorded.calls:
                kinds = metric_kinds.try_out(metric, recorded.calls[place])
                del self._unknown[place]
            for variable, kind in zip(own, kinds, strict=True):
                if kind != "still":
                    self._kinds[id(variable)] = kind
                elif id(_plain(variable)) in recorded.written:
                    metric_kinds.refuse_untried(metric, variable)

    def testing(self, spec: Any) -> Recorded:
        """Returns what `test_step` does with the metrics.

        Args:
          spec: of the batches of the validation.

        Raises:
          ValueError: for a metric that cannot be reduced, by its name.
        """
        return self._record(self._model.test_step, spec)

    def _record(self, step: Callable, spec: Any) -> Recorded:
        """Returns what a step does with the metrics; settles their kinds."""
        try:
            recorded = record(step, spec, self._metrics)
        except Exception as error:  # such as of a step that runs eagerly
            for metric in self._unknown.values():
                metric_kinds.refuse_untraced(metric, error)
            return Recorded({}, [], None)
        self._settle(recorded)
        return recorded

    def divisible(self, testing: Recorded) -> bool:
        """Returns whether batches may be tested apart, on several workers.

        Not when `test_step` changes more than metrics, or a metric has to
        see all batches.
        """
        if testing.written is None or self._model.run_eagerly:
            return False
        own = {id(_plain(v)) for v in self._variables}
        kinds = {
            self._kinds[id(v)]
            for v in self._variables
            if id(_plain(v)) in testing.written
        }
        return testing.written.keys() <= own and kinds <= metric_kinds.DIVISIBLE

    def begin(self, within: bool = False) -> None:
        """Notes the metrics as they are when an epoch begins.

        What is not reset goes on from what it was here, so that the logs of
        steps are this worker's own; what all had is added at the epoch's end.

        Args:
          within: whether they are as a checkpoint within the epoch had them.
        """
        now = self._now()
        if within:
            self._model.reset_metrics()
        self._begun = self._now()
        self._base = list(self._begun)
        if within:
            for variable, value in zip(self._variables, now, strict=True):
                variable.assign(value)
        for places in self._places if self._here else ():
            if all(np.array_equal(now[i], self._left[i]) for i in places):
                for i in places:
                    self._begun[i] = self._here[i]
                    self._variables[i].assign(self._here[i])
        self._here = []

    def _now(self) -> list[np.ndarray]:
        return [v.numpy() for v in self._variables]

    def reduce(self, share: Share) -> None:
        """Makes the metrics those of all workers; all of them must."""
        own = np.array([share.counts, share.samples], np.float64)
        counts, samples = self._process_group.gather(own).T
        counted = np.flatnonzero(counts)
        samples = samples if samples.any() else np.ones_like(samples)
        here = self._now()
        for (kind, dtype), places in self._groups().items():
            flat = [np.ravel(self._own(i, kind, share)) for i in places]
            sent = np.concatenate(flat).astype(dtype)
            if kind == "sum":
                values = self._process_group.sum(sent)
            else:
                rows = self._process_group.gather(sent)[counted]
                values = _OVER[kind](rows, samples[counted])
            ends = np.cumsum([len(each) for each in flat])
            for i, value in zip(
                places, np.split(values, ends[:-1]), strict=True
            ):
                variable = self._variables[i]
                begun = self._begun[i]
                variable.assign(value.astype(begun.dtype).reshape(begun.shape))
        self._here, self._left = here, self._now()
        self._begun = self._base = self._left

    def _groups(self) -> dict[tuple, list[int]]:
        """Returns the places of the variables that are exchanged together."""
        groups: dict[tuple, list[int]] = {}
        for i, (variable, begun) in enumerate(
            zip(self._variables, self._begun, strict=True)
        ):
            floating = tf.as_dtype(begun.dtype).is_floating
            dtype = begun.dtype if floating else np.dtype(np.int64)
            key = self._kinds[id(variable)], dtype
            groups.setdefault(key, []).append(i)
        return groups

    def _own(self, i: int, kind: str, share: Share) -> np.ndarray:
        """Returns what a variable here is; of a sum, what it has gained."""
        value, begun = self._variables[i].numpy(), self._begun[i]
        if kind != "sum":
            return value
        gain = value - begun if share.counts else np.zeros_like(value)
        return gain + self._base[i] if self._process_group.is_chief else gain

    def result(self, place: int, key: str | None) -> Any:
        """Returns a metric's result, or one of its results."""
        value = self._metrics[place].result()
        return value if key is None else value[key]


def _plain(variable: Any) -> tf.Variable:
    """Returns TensorFlow's variable of one of Keras'."""
    return variable.value if isinstance(variable, keras.Variable) else variable
