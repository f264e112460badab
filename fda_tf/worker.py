"""One worker's Keras model, seen as flat vectors, and its local step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from fda_tf import vectors
from fda_tf.vectors import Layout, Vector


class Snapshot(NamedTuple):
    """What a worker's model holds that others may want to average."""

    weights: Vector  # trainable variables, float32
    statistics: Vector  # float variables that a training step updates


class Group(NamedTuple):
    """Variables that are packed together."""

    layout: Layout
    variables: Sequence[Any]

    def pack(self) -> Vector:
        """Returns the variables' values as flat buckets."""
        return self.layout.pack([v.value for v in self.variables])

    def assign(self, vector: Sequence[tf.Tensor]) -> None:
        """Puts the values of flat buckets into the variables."""
        vectors.assign(self.variables, self.layout.unpack(vector))


class Worker:
    """A compiled Keras model whose state can be read and set as vectors.

    * `weights`: the trainable variables;
    * `statistics`: float variables that a training step updates (the moving
      averages of BatchNorm), and no others;
    * `rest`: everything else that is a worker's own, by dtype: optimizer
      slots and counters, random states, frozen weights.

    Args:
      model: a compiled `keras.Model`.
      batch: one batch, as its `train_step` takes it.

    Raises:
      ValueError: if the model cannot be trained so; the message says why.
    """

    def __init__(self, model: keras.Model, batch: Any):
        check(model)
        data = (*batch, None, None)[:3]
        model._symbolic_build(data_batch=data)
        check_weights(model)
        self.model = model
        self.weights = group(model.trainable_variables)
        statistics = _statistics(model, data[0])
        self.statistics = group(statistics)
        taken = {id(v) for v in statistics + model.metrics_variables}
        rest: dict[str, list] = {}
        for v in [*model.non_trainable_variables, *model.optimizer.variables]:
            if id(v) not in taken:
                taken.add(id(v))
                rest.setdefault(v.dtype, []).append(v)
        self.rest = [group(same_dtype) for same_dtype in rest.values()]
        self._train_step = tf.function(
            tf.autograph.experimental.do_not_convert(model.train_step),
            jit_compile=model.jit_compile,
            reduce_retracing=True,
        )

    def step(self, batch: Any) -> None:
        """Runs the model's own `train_step`: one local step."""
        self._train_step(batch)

    def snapshot(self) -> Snapshot:
        """Returns the weights and statistics as flat vectors."""
        return Snapshot(self.weights.pack(), self.statistics.pack())

    def assign(self, snapshot: Snapshot) -> None:
        """Puts a snapshot into the model; empty statistics stay as they are."""
        self.weights.assign(snapshot.weights)
        if snapshot.statistics:
            self.statistics.assign(snapshot.statistics)

    def own_seeds(self, worker: int) -> list[Vector | None]:
        """Returns, for each group of `rest`, its state for worker number k.

        All is as the model has it now, but the seeds of random states, which
        move by k times an odd constant: every worker needs its own. None for
        a group with no random state.
        """
        return [
            g.layout.pack(
                [
                    _fold(v.value, worker) if _is_seed(v) else v.value
                    for v in g.variables
                ]
            )
            if any(map(_is_seed, g.variables))
            else None
            for g in self.rest
        ]


def group(variables: Sequence[Any]) -> Group:
    """Returns the group of some variables, in their order."""
    return Group(Layout([v.shape for v in variables]), list(variables))


def check(model: keras.Model) -> None:
    """Raises ValueError unless the model is compiled for training here."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()!r}; fda_tf needs "
            "TensorFlow. Set KERAS_BACKEND=tensorflow before importing keras."
        )
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model; received {model!r}.")
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            f"The model {model.name!r} is not compiled. Call "
            'model.compile("adam", loss, metrics=[...]) first.'
        )
    if model.run_eagerly:
        raise ValueError(
            "The model is compiled with run_eagerly=True, and the training "
            "loop is one compiled function. Compile it without."
        )


def check_weights(model: keras.Model) -> None:
    """Raises ValueError unless there are trainable weights, all float32."""
    if not model.trainable_variables:
        raise ValueError(
            f"The model {model.name!r} has no trainable weights: there is "
            "nothing to train or to average."
        )
    for variable in model.trainable_variables:
        if variable.dtype != "float32":
            raise ValueError(
                f"The trainable variable {variable.path!r} is "
                f"{variable.dtype}; expected float32. For lower precision "
                "use a policy such as keras.mixed_precision.set_global_policy("
                '"mixed_bfloat16"), which keeps float32 variables.'
            )


def _statistics(model: keras.Model, x: Any) -> list[Any]:
    """Returns the float variables that a training step updates.

    `stateless_call` hands back the very same tensor for each variable that
    the call leaves alone.
    """
    candidates = model.non_trainable_variables
    if not any("float" in v.dtype for v in candidates):
        return []
    updated = []

    def call(x):
        before = [tf.convert_to_tensor(v.value) for v in candidates]
        trainable = [
            tf.convert_to_tensor(v.value) for v in model.trainable_variables
        ]
        takes = getattr(model, "_call_has_training_arg", True)
        _, after = model.stateless_call(
            trainable, before, x, **({"training": True} if takes else {})
        )
        updated.extend(
            v
            for v, old, new in zip(candidates, before, after, strict=True)
            if new is not old and v.dtype == "float32"
        )
        return 0

    tf.function(
        tf.autograph.experimental.do_not_convert(call)
    ).get_concrete_function(
        tf.nest.map_structure(
            lambda t: tf.TensorSpec(tf.shape(t), t.dtype),
            tf.nest.map_structure(tf.convert_to_tensor, x),
        )
    )
    return updated


def _is_seed(variable: Any) -> bool:
    return variable.path.split("/")[-1].startswith("seed_generator_state")


def _fold(state: tf.Tensor, worker: int) -> tf.Tensor:
    shift = tf.constant([(worker * 0x9E3779B1) % 2**31, 0], tf.int64)
    moved = (tf.cast(state, tf.int64) + shift) % 2**31
    return tf.cast(moved, state.dtype)
