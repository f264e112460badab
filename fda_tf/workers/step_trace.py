"""Which variables a training step writes, and which it only reads."""

import contextlib
from typing import Any

import keras
import tensorflow as tf

from fda_tf import keras_internals, tf_internals
from fda_tf.algorithm import optimizers
from fda_tf.workers import model_constants as held

Variables = dict[int, tf.Variable]  # by their id


def analyse(
    model: keras.Model, step: Any, spec: Any
) -> tuple[Any, Variables, Variables, dict[str, Any]]:
    """Returns (specs of a step's logs, what it writes, only reads, holds).

    What it holds beside variables is as `workers.model_constants` describes it;
    of an eager step, only what the layers save.

    Args:
      model: whose step it is; what is not built yet is built, as in Keras'
        own fit.
      step: its `train_step`, compiled.
      spec: of the batches.
    """
    if model.run_eagerly:
        written = _may_write(model, step, spec)
        return {}, written, {}, held.describe(model, None, spec)
    traced = step.get_concrete_function(spec)
    constants = held.describe(model, traced, spec)
    return traced.structured_outputs, *of(traced), constants


def _may_write(model: keras.Model, step: Any, spec: Any) -> Variables:
    """Returns what an eager step may write: all there is.

    It may do another thing each time, so a trace would tell only of one; and
    its Python, such as a print, is not to run once more than it should. It is
    traced only where nothing else builds the model.

    Raises:
      ValueError: if something cannot be built.
    """
    data_batch = keras.utils.unpack_x_y_sample_weight(spec)
    error: Exception | None = None
    with contextlib.suppress(Exception):  # such as a model with no call()
        keras_internals.build(model, data_batch)
    besides = optimizers.held_by(model)
    own = optimizers.nested(model.optimizer)
    others = [optimizer for optimizer in besides if optimizer not in own]
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
    owners = [model, *besides]
    return by_id(v for owner in owners for v in owner.variables)


def _are_built(model: keras.Model, held: Any) -> bool:
    inside = [la for la in keras_internals.layers_of(model) if la is not model]
    return all(part.built for part in [*inside, *held])


def of(function: Any) -> tuple[Variables, Variables]:
    """Returns those that a traced function writes to, and only reads."""
    graph = function.graph
    reads = tf_internals.read_only_inputs(graph)
    inputs_read = {id(graph.inputs[i]) for i in reads}
    known = {id(v.handle): v for v in graph.variables}  # in no order
    updated, read = {}, {}
    for outside, inside in graph.captures:
        if id(outside) in known:
            variable = known[id(outside)]
            only_read = id(inside) in inputs_read
            (read if only_read else updated)[id(variable)] = variable
    return updated, read


def by_id(variables: Any) -> Variables:
    """Returns id -> tf.Variable of Keras' or TensorFlow's variables."""
    plain = (v.value if isinstance(v, keras.Variable) else v for v in variables)
    return {id(v): v for v in plain}
