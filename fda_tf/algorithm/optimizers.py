"""Yogi, FedProx, the server's step; and the optimizers inside others.

Every check that is made of an optimizer goes through `nested` or `held_by`,
so a `LossScaleOptimizer`, a `FedProx`, a `MultiOptimizer` or a wrapper of the
user's hides nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from fda_tf import keras_internals, validate
from fda_tf.tensors import vectors
from fda_tf.tensors.vectors import Layout, Vector

Optimizer = keras.optimizers.Optimizer


def nested(*things: Any) -> list[Optimizer]:
    """Returns the optimizers among things, and all inside them, each once.

    Args:
      *things: optimizers, or lists, tuples and mappings that may hold some.

    Example:
      >>> inner = keras.optimizers.SGD(0.1)
      >>> scaled = keras.optimizers.LossScaleOptimizer(inner)
      >>> nested(scaled) == [scaled, inner]
      True
    """
    return list(_walk(things, set()))


def held_by(model: Any) -> list[Optimizer]:
    """Returns the model's optimizer, and any that it or a layer holds besides.

    Such as a GAN's `self.d_optimizer`, or that of a compiled model inside.
    """
    layers = keras_internals.layers_of(model)
    return nested(model.optimizer, *(list(vars(la).values()) for la in layers))


def refuse_average(optimizers: list[Optimizer]) -> None:
    """Raises ValueError if an optimizer keeps a moving average of weights.

    Keras puts it into the model when `fit` ends, or every so many steps: one
    worker's own, where ours has the average over the workers.
    """
    for optimizer in optimizers:
        if optimizer.use_ema:
            raise ValueError(
                f"Received {type(optimizer).__name__}(use_ema=True), whose "
                "moving average is one worker's own; expected an optimizer "
                "without, since the model is to end as the average over the "
                "workers. Leave use_ema and ema_overwrite_frequency out."
            )


def _walk(thing: Any, seen: set[int]) -> Iterator[Optimizer]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Optimizer):
        yield thing
        inside = vars(thing).values()
    elif isinstance(thing, Mapping):
        inside = thing.values()
    elif isinstance(thing, (list, tuple)):
        inside = thing
    else:
        return
    for part in list(inside):
        yield from _walk(part, seen)


def check_server_optimizer(optimizer: Any) -> None:
    """Raises ValueError for what cannot apply the average of the models.

    Args:
      optimizer: expected is a fresh `keras.optimizers.Optimizer`.
    """
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"server_optimizer={optimizer!r}: expected None or a "
            "keras.optimizers.Optimizer, such as keras.optimizers.SGD(0.7)."
        )
    if _is_zero(getattr(optimizer, "learning_rate", None)):
        raise ValueError(
            "The server optimizer's learning rate is 0: the model would "
            "never move. Give one above 0; 1 with SGD is plain averaging."
        )
    if hasattr(optimizer, "inner_optimizer"):
        raise ValueError(
            f"server_optimizer is a {type(optimizer).__name__}, which is for "
            "the workers' own steps. Give the optimizer inside it, its "
            "`inner_optimizer`."
        )
    refuse_average(nested(optimizer))


class ServerStep:
    """The new w_0 from the old one and the mean of the workers' models.

    Without an optimizer it is the mean. With one, the pseudo-gradient
    w_0 - mean_k w_k is given to it on the model's shaped and named variables.
    Every worker runs the same step on the same numbers, so nothing more is
    sent. SGD with momentum is FedAvgM, Adam FedAdam, `Yogi` FedYogi; a
    schedule of the rate counts synchronisations.

    Args:
      optimizer: None, or a fresh `keras.optimizers.Optimizer`.
      layout: of the model's weights.
      names: of the weights.

    Raises:
      ValueError: for an optimizer that was used before.

    Example:
      >>> step = ServerStep(keras.optimizers.SGD(0.5), Layout([(1,)]), ["w"])
      >>> w0, mean = (tf.constant([1.0]),), (tf.constant([3.0]),)
      >>> step.apply(w0, mean)[0].numpy().tolist()
      [2.0]

    Source: Reddi et al., Adaptive Federated Optimization, ICLR 2021.
    """

    def __init__(
        self, optimizer: Optimizer | None, layout: Layout, names: Sequence[str]
    ):
        self.optimizer, self._layout = optimizer, layout
        if optimizer is None:
            return
        if optimizer.built:
            raise ValueError(
                "This server optimizer has been used before. Make a new one "
                "for each run: its slots belong to one model."
            )
        self._model = [
            keras.Variable(tf.zeros(shape), name=name.replace("/", "_"))
            for shape, name in zip(layout.shapes, names, strict=True)
        ]
        optimizer.build(self._model)

    @property
    def variables(self) -> list[tf.Variable]:
        """The optimizer's slots and its count of synchronisations."""
        if self.optimizer is None:
            return []
        return [v.value for v in self.optimizer.variables]

    @tf.autograph.experimental.do_not_convert
    def apply(self, w0: Vector, mean: Vector) -> Vector:
        """Returns the new w_0 from the old one and the workers' mean."""
        if self.optimizer is None:
            return tuple(mean)
        for variable, value in zip(
            self._model, self._layout.unpack(w0), strict=True
        ):
            variable.assign(value)
        gradient = self._layout.unpack(vectors.subtract(w0, mean))
        self.optimizer.apply(gradient, self._model)
        return self._layout.pack([v.value for v in self._model])


def _is_zero(rate: Any) -> bool:
    # A schedule is no variable; it may warm up from 0.
    return isinstance(rate, keras.Variable) and float(rate.numpy()) == 0


@keras.saving.register_keras_serializable("fda_tf")
class Yogi(keras.optimizers.Optimizer):
    """Yogi: Adam whose second moment moves by its sign, additively.

    m <- b1 m + (1 - b1) g
    v <- v - (1 - b2) g^2 sign(v - g^2)
    w <- w - lr m / (sqrt(v) + eps)

    Args:
      learning_rate: lr.
      beta_1: b1.
      beta_2: b2.
      epsilon: eps (the source's tau).
      initial_accumulator: of v; the source takes eps^2.

    Example:
      >>> w = keras.Variable([1.0])
      >>> optimizer = Yogi(0.1, beta_1=0.0, beta_2=0.0, epsilon=0.0,
      ...                  initial_accumulator=0.0)
      >>> optimizer.apply([tf.constant([2.0])], [w])
      >>> round(float(w.value[0]), 6)
      0.9

    Source: Reddi et al., Adaptive Federated Optimization, ICLR 2021,
    algorithm 2; Zaheer et al., Adaptive Methods for Nonconvex Optimization,
    NeurIPS 2018.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        epsilon: float = 1e-3,
        initial_accumulator: float | None = None,
        name: str = "yogi",
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.initial_accumulator = (
            epsilon**2 if initial_accumulator is None else initial_accumulator
        )

    def build(self, variables):
        """Makes the slots m and v of each variable."""
        if self.built:
            return
        super().build(variables)
        self._m = [
            self.add_variable_from_reference(v, name="momentum")
            for v in variables
        ]
        self._v = [
            self.add_variable_from_reference(
                v,
                name="velocity",
                initializer=keras.initializers.Constant(
                    self.initial_accumulator
                ),
            )
            for v in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        """Moves one variable."""
        ops = keras.ops
        index = self._get_variable_index(variable)
        m, v = self._m[index], self._v[index]
        rate = ops.cast(learning_rate, variable.dtype)
        square = ops.square(gradient)
        self.assign_add(
            m, ops.multiply(1 - self.beta_1, ops.subtract(gradient, m))
        )
        self.assign_sub(
            v,
            ops.multiply(
                1 - self.beta_2,
                ops.multiply(square, ops.sign(ops.subtract(v, square))),
            ),
        )
        self.assign_sub(
            variable,
            ops.divide(
                ops.multiply(rate, m), ops.add(ops.sqrt(v), self.epsilon)
            ),
        )

    def get_config(self):
        """Returns the settings."""
        return super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "initial_accumulator": self.initial_accumulator,
        }


@keras.saving.register_keras_serializable("fda_tf")
class FedProx(keras.optimizers.Optimizer):
    """Any optimizer on the local loss plus mu / 2 ||w - w_0||^2.

    g <- g + mu (w - w_0), with w_0 the model of the last synchronisation.
    Compile the model with it; everything else is the inner optimizer's.

    Args:
      optimizer: a `keras.optimizers.Optimizer`, or its name.
      mu: at least 0; with 0 it is the inner optimizer.

    Raises:
      ValueError: for a mu below 0, or another FedProx inside.

    Example:
      >>> w = keras.Variable([1.0])
      >>> optimizer = FedProx(keras.optimizers.SGD(0.1), mu=2.0)
      >>> optimizer.build([w])  # w_0 is 1
      >>> for _ in range(2):
      ...     optimizer.apply([tf.constant([1.0])], [w])
      >>> round(float(w.value[0]), 6)  # 0.9 - 0.1 (1 + 2 (0.9 - 1))
      0.82

    Source: Li et al., Federated Optimization in Heterogeneous Networks, MLSys
    2020.
    """

    def __init__(
        self,
        optimizer: str | keras.optimizers.Optimizer,
        mu: float = 0.01,
        name: str = "fedprox",
    ):
        super().__init__(learning_rate=0.0, name=name)
        self.mu = validate.real(
            "FedProx: mu", mu, 0.0, "a number of at least 0"
        )
        self.inner_optimizer = keras.optimizers.get(optimizer)
        inside = nested(self.inner_optimizer)
        if any(isinstance(o, FedProx) for o in inside):
            raise ValueError(
                "FedProx received a FedProx; expected the optimizer inside it."
            )

    def build(self, variables):
        """Makes the inner optimizer's slots, and room for w_0."""
        if self.built:
            return
        self.inner_optimizer.build(variables)
        super().build(variables)
        # Not of `self.variables`: w_0 is the loop's, equal on all workers.
        with tf.init_scope():  # where a step that is being traced builds it
            self.anchors = [
                tf.Variable(v.value, trainable=False, name="w0")
                for v in variables
            ]

    def hold(self, w0: Mapping[int, tf.Tensor]) -> None:
        """Puts w_0 where the steps are held.

        Args:
          w0: id of a `tf.Variable` -> its value in w_0.
        """
        for anchor, variable in zip(
            self.anchors, self._trainable_variables, strict=True
        ):
            if id(variable.value) in w0:
                anchor.assign(w0[id(variable.value)])

    def apply(self, grads, trainable_variables=None):
        """Does one step."""
        if not self.built:
            self.build(trainable_variables)
        variables = trainable_variables or self._trainable_variables
        moved = [
            g if g is None else g + self.mu * (v.value - self._anchor(v))
            for g, v in zip(map(_dense, grads), variables, strict=True)
        ]
        self.inner_optimizer.apply(moved, trainable_variables)

    def _anchor(self, variable):
        return self.anchors[self._get_variable_index(variable)]

    @property
    def variables(self):
        """Those of the inner optimizer."""
        return self.inner_optimizer.variables

    @property
    def learning_rate(self):
        """That of the inner optimizer."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        """Those of the inner optimizer."""
        return self.inner_optimizer.iterations

    def finalize_variable_values(self, variables):
        """Does what the inner optimizer does when training ends."""
        self.inner_optimizer.finalize_variable_values(variables)

    def get_config(self):
        """Returns the settings."""
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"name": self.name, "mu": self.mu, "optimizer": inner}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes it from its settings."""
        inner = keras.saving.deserialize_keras_object(
            config["optimizer"], custom_objects=custom_objects
        )
        return cls(**config | {"optimizer": inner})


def _dense(gradient):
    return None if gradient is None else tf.convert_to_tensor(gradient)
