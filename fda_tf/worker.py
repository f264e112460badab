"""One worker's Keras model, seen as flat vectors, and its local step."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.framework import auto_control_deps_utils

from fda_tf import optimizers, vectors
from fda_tf.fedprox import FedProx
from fda_tf.vectors import Layout, Lazy, Vector


class Snapshot(NamedTuple):
    """What a worker's model holds that others may want to average."""

    weights: Vector  # trainable variables, float32
    statistics: Vector  # float variables that a training step updates
    residual: Vector = ()  # what error feedback has left out until now


class Group(NamedTuple):
    """Variables of one dtype that are packed together."""

    layout: Layout
    variables: Sequence[tf.Variable]

    def pack(self) -> Vector:
        """Returns the variables' values as flat buckets."""
        return self.layout.pack([v.read_value() for v in self.variables])

    def lazy(self) -> Lazy:
        """Returns the values as they are when a bucket is asked for."""

        def flat(i):
            return tf.reshape(self.variables[i].read_value(), [-1])

        layout = self.layout
        return Lazy(len(layout.bucket_sizes), lambda i: layout.bucket(i, flat))

    def assign(self, vector: Sequence[tf.Tensor]) -> None:
        """Puts the values of flat buckets into the variables."""
        vectors.assign(self.variables, self.layout.unpack(vector))

    def assign_copies(self, vector: Sequence[tf.Tensor]) -> None:
        """Does so, with memory of each variable's own.

        Else those of a bucket share it, and one that never changes, such as a
        learning rate, keeps all of it.
        """
        values = self.layout.unpack(vector)
        copies = [tf.raw_ops.DeepCopy(x=value) for value in values]
        vectors.assign(self.variables, copies)

    def parts(self) -> list["Group"]:
        """Returns the variables in groups of at most a bucket, or of one."""
        parts: list[list[tf.Variable]] = [[]]
        room = vectors.BUCKET_SIZE
        for variable in self.variables:
            room -= variable.shape.num_elements()
            if room < 0 and parts[-1]:
                parts.append([])
                room = vectors.BUCKET_SIZE - variable.shape.num_elements()
            parts[-1].append(variable)
        return [_group(part) for part in parts if part]


class Worker:
    """A compiled Keras model whose state can be read and set as vectors.

    What belongs where is read off the traced `train_step`:

    * `weights`: the trainable variables;
    * `statistics`: the model's other float variables that the step updates,
      such as the moving averages of BatchNorm;
    * `rest`: all else that the step updates or the optimizer has, whoever owns
      it: slots, counters, random states; metrics excepted. By dtype;
    * `frozen`: what the model has and no step changes. By dtype;
    * `metrics`: the sums that metrics keep. By dtype.

    Args:
      model: compiled: a `keras.Model`, or what else Keras can `fit`.
      spec: the `tf.TypeSpec`s of every batch, as its `train_step` takes it.

    Attributes:
      eager: whether `step` runs Python, as the model's run_eagerly has it.

    Raises:
      ValueError: if the model cannot be trained so; the message says why.
    """

    def __init__(self, model: keras.Model, spec: Any):
        check(model)
        self.model, self.eager = model, model.run_eagerly
        compiled = tf.function(
            tf.autograph.experimental.do_not_convert(model.train_step),
            jit_compile=model.jit_compile,
            reduce_retracing=True,
        )
        self._train_step = model.train_step if self.eager else compiled
        self.losses: tf.Variable | None = None  # sum, count; if watched
        # Traced, a step builds what is not built yet, as in Keras' own fit.
        self.logs, updated = _analyse(model, compiled, spec)
        check_weights(model)
        self.optimizers = _used(optimizers.held_by(model), updated)
        optimizers.refuse_average(self.optimizers)
        metrics = _by_id(model.metrics_variables)
        own = _by_id(model.non_trainable_variables)
        trainable = _by_id(model.trainable_variables)
        statistics = {
            i: v
            for i, v in own.items()
            if i in updated and i not in metrics and v.dtype.is_floating
        }
        check_statistics(model, statistics)
        rest = _by_id(getattr(model.optimizer, "variables", ())) | updated
        elsewhere = statistics | trainable | metrics
        self.names = [v.path for v in model.trainable_variables] or ["none"]
        # With no weights at all, a 0 that stays where it is keeps their place.
        none = tf.Variable([0.0], trainable=False, name="none")
        self.weights = _group(trainable.values() or [none])
        self.statistics = _group(statistics.values())
        self.rest = _groups(v for i, v in rest.items() if i not in elsewhere)
        self.frozen = _groups(
            v for i, v in own.items() if i not in elsewhere | rest
        )
        self.metrics = _groups(metrics.values())
        self._mean_metrics = [
            v for v in model.metrics_variables if v.aggregation == "mean"
        ]

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

    def hold(self, w0: Sequence[tf.Tensor]) -> None:
        """Tells an optimizer that is held near w_0, `FedProx`, where that is.

        Args:
          w0: flat buckets.
        """
        held = [o for o in self.optimizers if isinstance(o, FedProx)]
        if held:
            ids = map(id, self.weights.variables)
            values = self.weights.layout.unpack(w0)
            values = dict(zip(ids, values, strict=True))
            for optimizer in held:
                optimizer.hold(values)

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
                    if _is_seed(v)
                    else v.read_value()
                    for v in g.variables
                ]
            )
            if any(map(_is_seed, g.variables))
            else None
            for g in self.rest
        ]

    def reduce_metrics(self, replicas: Any) -> None:
        """Makes the metrics those of all workers; all must. Sums add up."""
        for group in self.metrics:
            group.assign(replicas.sums(group.pack()))
        for variable in self._mean_metrics:
            variable.assign(variable.value / replicas.count)

    def changing(self) -> dict[int, str]:
        """Returns id -> name of the variables that training changes."""
        groups = [self.weights, self.statistics, *self.rest]
        return {id(v): v.name for g in groups for v in g.variables}

    def shapes(self) -> dict[str, list]:
        """Returns the shapes of all that the model has, by what it is."""
        groups = {"weights": self.weights, "statistics": self.statistics}
        for kind, some in (("other", self.rest), ("frozen", self.frozen)):
            for g in some:
                groups[f"{kind} {g.variables[0].dtype.name} state"] = g
        return {name: g.layout.shapes for name, g in groups.items()}


def check(model: keras.Model) -> None:
    """Raises ValueError unless the model is compiled for training here."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()!r}; fda_tf needs "
            "TensorFlow. Set KERAS_BACKEND=tensorflow before importing keras."
        )
    # Keras fits what is a layer and a Trainer, which has no public name.
    if not (isinstance(model, keras.Layer) and hasattr(model, "train_step")):
        raise ValueError(f"Expected a keras.Model; received {model!r}.")
    if getattr(model, "_distribute_strategy", None) is not None:
        raise ValueError(
            f"The model {model.name!r} was made inside strategy.scope(); "
            "expected one made outside, since fda_tf joins the workers itself. "
            "Call fda_tf.connect() first, make and compile the model without "
            "strategy.scope(), and make no strategy."
        )
    if not model.compiled:
        raise ValueError(
            f"The model {model.name!r} is not compiled. Call "
            'model.compile("adam", loss, metrics=[...]) first.'
        )
    optimizers.refuse_average(optimizers.nested(model.optimizer))


def check_weights(model: keras.Model) -> None:
    """Raises ValueError unless all trainable weights are float32."""
    for variable in model.trainable_variables:
        if variable.dtype != "float32":
            raise ValueError(
                f"The trainable variable {variable.path!r} is "
                f"{variable.dtype}; expected float32. For lower precision "
                "use a policy such as keras.mixed_precision.set_global_policy("
                '"mixed_bfloat16"), which keeps float32 variables.'
            )


def check_statistics(model: keras.Model, statistics: dict) -> None:
    """Raises ValueError unless all statistics are float32.

    Args:
      model: whose they are.
      statistics: id -> variable, of those that a step updates.
    """
    for variable in model.non_trainable_variables:
        (i,) = _by_id([variable])
        if i in statistics and variable.dtype != "float32":
            raise ValueError(
                f"The variable {variable.path!r}, which a training step "
                f"updates, is {variable.dtype}; expected float32, in which "
                "such statistics are averaged. Give its layer, or its "
                'add_weight(), dtype="float32".'
            )


def _by_id(variables: Any) -> dict[int, tf.Variable]:
    """Returns id -> tf.Variable of Keras' or TensorFlow's variables."""
    plain = (v.value if isinstance(v, keras.Variable) else v for v in variables)
    return {id(v): v for v in plain}


def _analyse(
    model: keras.Model, step: Any, spec: Any
) -> tuple[Any, dict[int, tf.Variable]]:
    """Returns (specs of a step's logs, id -> variable of what it writes).

    Args:
      model: whose step it is; what is not built yet is built, as in Keras'
        own fit.
      step: its `train_step`, compiled.
      spec: of the batches.
    """
    if model.run_eagerly:
        return {}, _may_write(model, step, spec)
    traced = step.get_concrete_function(spec)
    return traced.structured_outputs, _updated(traced)


def _may_write(
    model: keras.Model, step: Any, spec: Any
) -> dict[int, tf.Variable]:
    """Returns id -> variable of what an eager step may write: all there is.

    It may do another thing each time, so a trace would tell only of one; and
    its Python, such as a print, is not to run once more than it should. It is
    traced only where nothing else builds the model.

    Raises:
      ValueError: if something cannot be built.
    """
    data_batch = keras.utils.unpack_x_y_sample_weight(spec)
    error: Exception | None = None
    with contextlib.suppress(Exception):  # such as a model with no call()
        model._symbolic_build(data_batch=data_batch)
    held = optimizers.held_by(model)
    own = optimizers.nested(model.optimizer)
    others = [optimizer for optimizer in held if optimizer not in own]
    if not _are_built(model, [*own[:1], *others]):
        try:
            step.get_concrete_function(spec)
            own = []  # what it has not built it does not use
        except Exception as raised:
            error = raised
        if not _are_built(model, [*own[:1], *others]):
            raise ValueError(
                f"The model {model.name!r} runs eagerly, and not all of it can "
                f"be built before its first step ({error}). Before fit, call "
                "the model, or the layers inside it, on a batch, and "
                "optimizer.build(variables) of each optimizer; or compile it "
                "without run_eagerly=True."
            ) from error
    owners = [model, *held]
    return _by_id(v for owner in owners for v in owner.variables)


def _are_built(model: keras.Model, held: Any) -> bool:
    inside = [la for la in model._flatten_layers() if la is not model]
    return all(part.built for part in [*inside, *held])


def _updated(function: Any) -> dict[int, tf.Variable]:
    """Returns id -> variable of those that a traced function writes to."""
    graph = function.graph
    reads = auto_control_deps_utils.get_read_only_resource_input_indices_graph(
        graph
    )
    read_only = {id(graph.inputs[i]) for i in reads}
    known = {id(v.handle): v for v in graph.variables}  # in no order
    written = [
        known[id(outside)]
        for outside, inside in graph.captures
        if id(outside) in known and id(inside) not in read_only
    ]
    return {id(v): v for v in written}


def _used(
    held: list[keras.optimizers.Optimizer], updated: dict[int, tf.Variable]
) -> list[keras.optimizers.Optimizer]:
    """Returns those of the optimizers of which a step updates a variable."""
    return [
        o for o in held if not updated.keys().isdisjoint(_by_id(o.variables))
    ]


def _group(variables: Any) -> Group:
    variables = list(variables)
    return Group(Layout([v.shape for v in variables]), variables)


def _groups(variables: Any) -> list[Group]:
    """Returns a group for each dtype, in the order in which they appear."""
    by_dtype: dict[tf.DType, list] = {}
    for variable in variables:
        by_dtype.setdefault(variable.dtype, []).append(variable)
    return [_group(same) for same in by_dtype.values()]


def _is_seed(variable: tf.Variable) -> bool:
    return "seed_generator_state" in variable.name.split("/")[-1]


def _fold(state: tf.Tensor, worker: int) -> tf.Tensor:
    shift = tf.constant([(worker * 0x9E3779B1) % 2**31, 0], tf.int64)
    moved = (tf.cast(state, tf.int64) + shift) % 2**31
    return tf.cast(moved, state.dtype)
