"""One worker's Keras model, seen as flat vectors, and its local step."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from fda_tf.algorithm import optimizers
from fda_tf.algorithm.optimizers import FedProx
from fda_tf.tensors.vectors import Vector
from fda_tf.workers import step_trace
from fda_tf.workers import variable_groups as groups
from fda_tf.workers.model_requirements import check_model
from fda_tf.workers.step_trace import by_id


class Snapshot(NamedTuple):
    """What a worker's model holds that others may want to average."""

    weights: Vector  # the trainable variables that a step trains, float32
    statistics: Vector  # other float variables that a step updates
    residual: Vector = ()  # what error feedback has left out until now


class Worker:
    """A compiled Keras model whose state can be read and set as vectors.

    Everything that the traced `train_step` touches, and all that the model and
    its optimizer have, is in one group, by what the step does with it:

    * `weights`: the trainable variables that the step updates;
    * `statistics`: the model's other float variables that the step updates,
      such as the moving averages of BatchNorm;
    * `rest`: all else that the step updates or the optimizer has, whoever owns
      it: slots, counters, random states; metrics excepted. By dtype;
    * `frozen`: what else the model has, which no step updates. By dtype;
    * `read_only`: what else the step reads, such as the learning rate of a
      second optimizer. By dtype;
    * `metrics`: what metrics keep. By dtype.

    Of statistics that are `marked`, by their place, no mean is taken but what
    `groups.reduce_rows` does.

    Args:
      model: compiled: a `keras.Model`, or what else Keras can `fit`.
      spec: the `tf.TypeSpec`s of every batch, as its `train_step` takes it.

    Attributes:
      eager: whether `step` runs Python, as the model's run_eagerly has it.

    Raises:
      ValueError: if the model cannot be trained so; the message says why.
    """

    def __init__(self, model: keras.Model, spec: Any):
        check_model(model)
        self.model, self.eager = model, model.run_eagerly
        compiled = tf.function(
            tf.autograph.experimental.do_not_convert(model.train_step),
            jit_compile=model.jit_compile,
            reduce_retracing=True,
        )
        self._train_step = model.train_step if self.eager else compiled
        self.losses: tf.Variable | None = None  # sum, count; if watched
        # Traced, a step builds what is not built yet, as in Keras' own fit.
        self.logs, updated, read, self.held = step_trace.analyse(
            model, compiled, spec
        )
        self.optimizers = _used(optimizers.held_by(model), updated)
        optimizers.refuse_average(self.optimizers)
        near = [o for o in self.optimizers if isinstance(o, FedProx)]
        anchors = [anchor for o in near for anchor in o.anchors]
        found = groups.sort(model, updated, read, others=anchors)
        self.weights, self.statistics = found.weights, found.statistics
        self.rest, self.metrics = found.rest, found.metrics
        self.frozen, self.read_only = found.frozen, found.read_only
        self.marked = groups.marked(self.statistics, model)
        marks = groups.by_keras(model)
        trained = [marks.get(id(v), v) for v in self.weights.variables]
        self.names = [getattr(v, "path", v.name) for v in trained]
        self._constraints = [getattr(v, "constraint", None) for v in trained]

    def step(self, batch: Any) -> Any:
        """Runs the model's own `train_step`: one step; returns its logs."""
        if self.losses is None:
            return self._train_step(batch)
        before = tf.stack([v.read_value() for v in self._loss_metric])
        logs = self._train_step(batch)
        after = tf.stack([v.read_value() for v in self._loss_metric])
        self.losses.assign_add(after - before)
        return logs

    def compile(self, function: Callable, **options: Any) -> Callable:
        """Compiles a function that calls `step`, unless that runs eagerly."""
        if self.eager:
            return function
        return tf.function(function, autograph=False, **options)

    def snapshot(self) -> Snapshot:
        """Returns the weights and statistics as flat vectors."""
        return Snapshot(self.weights.pack(), self.statistics.pack())

    def lazy_snapshot(self) -> Snapshot:
        """Returns a snapshot for use at once, made bucket by bucket."""
        return Snapshot(self.weights.lazy(), self.statistics.lazy())

    def assign(self, snapshot: Snapshot) -> None:
        """Puts a snapshot into the model; empty statistics stay as they are."""
        self.weights.assign(snapshot.weights)
        if snapshot.statistics:
            self.statistics.assign(snapshot.statistics)

    @contextlib.contextmanager
    def left_as_it_is(
        self, moved: Collection[int] | None = None
    ) -> Iterator[None]:
        """Puts back at its end what of the model a training step changes.

        Metrics, and what no training step changes, such as a counter of the
        model's `test_step`, may be changed within. What is kept takes no
        memory: a variable gets another buffer when it changes.

        Args:
          moved: ids of what training has changed; None: all that it may.
        """
        own = groups.own_of(self.model)
        changing = self.changing() if moved is None else moved
        kept = [(v, v.read_value()) for i, v in own.items() if i in changing]
        try:
            yield
        finally:
            for variable, value in kept:
                variable.assign(value)

    def hold(self, w0: Sequence[tf.Tensor]) -> None:
        """Tells an optimizer that is held near w_0, `FedProx`, where that is.

        Args:
          w0: flat buckets.
        """
        near = [o for o in self.optimizers if isinstance(o, FedProx)]
        if near:
            ids = map(id, self.weights.variables)
            values = self.weights.layout.unpack(w0)
            values = dict(zip(ids, values, strict=True))
            for optimizer in near:
                optimizer.hold(values)

    def constrain(self, weights: Vector) -> Vector:
        """Returns an average of weights as their constraints let it be.

        What satisfies a constraint on each worker need not on the average:
        the mean of unit vectors is shorter than 1.

        Args:
          weights: flat buckets.
        """
        if not any(self._constraints):
            return weights
        layout = self.weights.layout
        return layout.pack(
            [
                tf.cast(constraint(value), value.dtype) if constraint else value
                for constraint, value in zip(
                    self._constraints, layout.unpack(weights), strict=True
                )
            ]
        )

    def watch_losses(self) -> None:
        """Begins to add up, in `losses`, what the steps do to metric "loss".

        The metric itself is set to 0 by evaluations, and at epochs' ends.

        Raises:
          ValueError: if the model has no such metric.
        """
        for metric in self.model.metrics:
            if metric.name == "loss" and isinstance(metric, keras.metrics.Mean):
                self._loss_metric = [metric.total.value, metric.count.value]
                zeros = tf.zeros([2])
                self.losses = tf.Variable(zeros, trainable=False, name="losses")
                return
        raise ValueError(
            f'The model {self.model.name!r} has no metric "loss", which '
            "AdaComm needs; a train_step of one's own must keep it."
        )

    def own_seeds(self, worker: int) -> list[Vector | None]:
        """Returns, for each group of `rest`, its state for worker number k.

        All is as the model has it now, but the seeds of random states, which
        move by k times an odd constant: every worker needs its own. None for
        a group with no random state.
        """
        return [
            g.layout.pack(
                [
                    _fold(v.read_value(), worker)
                    if is_seed(v.name)
                    else v.read_value()
                    for v in g.variables
                ]
            )
            if any(is_seed(v.name) for v in g.variables)
            else None
            for g in self.rest
        ]

    def changing(self) -> dict[int, str]:
        """Returns id -> name of the variables that training changes."""
        groups = [self.weights, self.statistics, *self.rest]
        return {id(v): v.name for g in groups for v in g.variables}

    def shapes(self) -> dict[str, list]:
        """Returns the shapes of all that the model has, by what it is."""
        groups = {"weights": self.weights, "statistics": self.statistics}
        for kind, some in (
            ("other", self.rest),
            ("frozen", self.frozen),
            ("read-only", self.read_only),
        ):
            for g in some:
                groups[f"{kind} {g.variables[0].dtype.name} state"] = g
        return {name: g.layout.shapes for name, g in groups.items()}


def _used(
    held: list[keras.optimizers.Optimizer], updated: dict[int, tf.Variable]
) -> list[keras.optimizers.Optimizer]:
    """Returns those of the optimizers of which a step updates a variable."""
    return [
        o for o in held if not updated.keys().isdisjoint(by_id(o.variables))
    ]


def is_seed(name: str) -> bool:
    """Returns whether a variable of this name is a random state of Keras'."""
    return "seed_generator_state" in name.split("/")[-1]


def _fold(state: tf.Tensor, worker: int) -> tf.Tensor:
    shift = tf.constant([(worker * 0x9E3779B1) % 2**31, 0], tf.int64)
    moved = (tf.cast(state, tf.int64) + shift) % 2**31
    return tf.cast(moved, state.dtype)
