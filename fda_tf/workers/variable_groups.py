"""What a training step does with each variable, and who averages it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from fda_tf import keras_internals
from fda_tf.tensors import vectors
from fda_tf.tensors.vectors import Layout, Lazy, Vector
from fda_tf.workers.model_requirements import check_statistic, check_weights
from fda_tf.workers.step_trace import Variables, by_id


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
        return [group_of(part) for part in parts if part]


class Groups(NamedTuple):
    """All variables that a step touches or a model has, each in one group.

    Those whose dtypes may differ are a group for each dtype.
    """

    weights: Group  # trainable, and updated by the step
    statistics: Group  # the model's other floats that the step updates
    rest: list[Group]  # what else the step updates or the optimizer has
    frozen: list[Group]  # what else the model has: no step updates it
    read_only: list[Group]  # what else the step reads: a second rate, say
    metrics: list[Group]  # the sums that metrics keep


def sort(
    model: keras.Model, updated: Variables, read: Variables, others: Any
) -> Groups:
    """Returns each variable in the group that it belongs to.

    Args:
      model: compiled and built.
      updated: what its step writes to.
      read: what its step only reads.
      others: variables that are not the model's, and looked after elsewhere.

    Raises:
      ValueError: for variables that cannot be averaged.
    """
    metrics, own = by_id(model.metrics_variables), own_of(model)
    marks = by_keras(model)
    weights = {
        i: v
        for i, v in by_id(model.trainable_variables).items()
        if i in updated and not _is_overwritten(marks[i])
    }
    check_weights([marks[i] for i in weights])
    states = by_id(_states(model))
    statistics = {
        i: v
        for i, v in own.items()
        if i in updated and i not in weights | states and v.dtype.is_floating
    }
    for i, variable in statistics.items():
        check_statistic(marks.get(i, variable))
    placed = weights | statistics | metrics
    rest = by_id(getattr(model.optimizer, "variables", ())) | updated
    changing = placed | rest
    known = changing | own | by_id(others)
    # With no weights at all, a 0 that stays where it is keeps their place.
    none = tf.Variable([0.0], trainable=False, name="none")
    return Groups(
        group_of(weights.values() or [none]),
        group_of(statistics.values()),
        groups_of(v for i, v in rest.items() if i not in placed),
        groups_of(v for i, v in own.items() if i not in changing),
        groups_of(
            v for i, v in read.items() if i not in known and _is_number(v)
        ),
        groups_of(metrics.values()),
    )


def marked(group: Group, model: keras.Model) -> dict[int, str]:
    """Returns place -> rule, of variables of which no mean is to be taken.

    Args:
      group: statistics of the model.
      model: whose variables may have marks.
    """
    rules, marks = {}, by_keras(model)
    for place, variable in enumerate(group.variables):
        mark = marks.get(id(variable))
        if _is_overwritten(mark):
            rules[place] = "max"
        elif getattr(mark, "aggregation", None) == "only_first_replica":
            rules[place] = "first"
    return rules


def reduce_rows(rule: str, rows: tf.Tensor) -> tf.Tensor:
    """Returns what all workers' values of a marked variable become.

    Args:
      rule: "first", or "max": what Keras makes of a variable that is
        overwritten by its gradient when it accumulates several.
      rows: one worker's values each, [K, n].

    Example:
      >>> rows = tf.constant([[1.0, 5.0], [2.0, float("nan")]])
      >>> reduce_rows("max", rows).numpy().tolist()
      [2.0, 5.0]
      >>> reduce_rows("first", rows).numpy().tolist()
      [1.0, 5.0]
    """
    if rule == "first":
        return rows[0]
    lowest = tf.constant(rows.dtype.min, rows.dtype)
    return tf.reduce_max(tf.where(tf.math.is_finite(rows), rows, lowest), 0)


def own_of(model: keras.Model) -> Variables:
    """Returns what a model has, its metrics excepted."""
    own = by_id(model.variables) | by_id(_unknown_to_keras(model))
    metrics = by_id(model.metrics_variables)
    return {i: v for i, v in own.items() if i not in metrics}


def by_keras(model: keras.Model) -> dict[int, keras.Variable]:
    """Returns Keras' variable by the id of the `tf.Variable` in it."""
    return {id(v.value): v for v in model.variables}


def group_of(variables: Any) -> Group:
    """Returns a group of variables of one dtype."""
    variables = list(variables)
    return Group(Layout([v.shape for v in variables]), variables)


def groups_of(variables: Any) -> list[Group]:
    """Returns a group for each dtype, in the order in which they appear."""
    by_dtype: dict[tf.DType, list] = {}
    for variable in variables:
        by_dtype.setdefault(variable.dtype, []).append(variable)
    return [group_of(same) for same in by_dtype.values()]


def _unknown_to_keras(model: keras.Model) -> list[tf.Variable]:
    """Returns the `tf.Variable`s that a model's layers have as attributes.

    Keras neither lists nor saves them.
    """
    values: list[Any] = []
    for layer in keras_internals.layers_of(model):
        for value in vars(layer).values():
            if isinstance(value, Mapping):
                values.extend(value.values())
            elif isinstance(value, (list, tuple)):
                values.extend(value)  # `+=` fails for TensorFlow's own tuples
            elif isinstance(value, tf.Module):
                values.extend(value.variables)
            else:
                values.append(value)
    return [v for v in values if isinstance(v, tf.Variable) and _is_number(v)]


def _states(model: keras.Model) -> list[Any]:
    """Returns the states of stateful RNNs: of one worker's own sequences."""
    layers = [
        x
        for x in keras_internals.layers_of(model)
        if isinstance(x, keras.layers.RNN)
    ]
    return [s for x in layers if x.stateful for s in tf.nest.flatten(x.states)]


def _is_overwritten(variable: keras.Variable | None) -> bool:
    """Whether what is called its gradient is its next value.

    So are the scales of float8, which Keras marks trainable all the same.
    """
    return getattr(variable, "overwrite_with_gradient", False)


def _is_number(variable: tf.Variable) -> bool:
    return variable.dtype.is_numpy_compatible and variable.dtype != tf.string
