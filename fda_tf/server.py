"""How the average of the models is applied at a synchronisation."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from fda_tf import optimizers, vectors
from fda_tf.processes import agreement
from fda_tf.vectors import Layout, Vector


class Average:
    """The new w_0 is the mean of the workers' models: mean_k w_k.

    Example:
      >>> float(Average().apply([tf.constant(1.0)], [tf.constant(3.0)])[0])
      3.0
    """

    variables: Sequence[tf.Variable] = ()  # what it keeps: for checkpoints

    def build(self, layout: Layout, names: Sequence[str]) -> None:
        """Makes what the server keeps, for models of this layout."""

    def apply(self, w0: Vector, mean: Vector) -> Vector:
        """Returns the new w_0 from the old one and the workers' mean."""
        return tuple(mean)

    def __repr__(self) -> str:
        return "Average()"


class ServerOptimizer:
    """The new w_0 is one optimizer step from w_0 along -mean_k u_k.

    The pseudo-gradient w_0 - mean_k w_k is given to any Keras optimizer, on
    the model's shaped and named variables. Every worker runs the same step on
    the same numbers, so nothing more is sent. SGD with momentum is FedAvgM,
    Adam FedAdam, `fda_tf.Yogi` FedYogi; the schedule counts synchronisations.

    Args:
      optimizer: a fresh `keras.optimizers.Optimizer`.

    Raises:
      ValueError: for something else, a learning rate of 0, a
        `LossScaleOptimizer`, or one that keeps a moving average.

    Example:
      >>> server = ServerOptimizer(keras.optimizers.SGD(0.5))
      >>> server.build(Layout([(1,)]), ["kernel"])
      >>> w0, mean = (tf.constant([1.0]),), (tf.constant([3.0]),)
      >>> server.apply(w0, mean)[0].numpy().tolist()
      [2.0]

    Source: Reddi et al., Adaptive Federated Optimization, ICLR 2021.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "ServerOptimizer takes a keras.optimizers.Optimizer, such as "
                f"keras.optimizers.SGD(0.7); received {optimizer!r}."
            )
        if _is_zero(getattr(optimizer, "learning_rate", None)):
            raise ValueError(
                "The server optimizer's learning rate is 0: the model would "
                "never move. Give one above 0; 1 with SGD is plain averaging."
            )
        if hasattr(optimizer, "inner_optimizer"):
            raise ValueError(
                f"ServerOptimizer received a {type(optimizer).__name__}, which "
                "is for the workers' own steps. Give the optimizer inside it, "
                "its `inner_optimizer`."
            )
        optimizers.refuse_average(optimizers.nested(optimizer))
        self.optimizer = optimizer

    def build(self, layout, names):
        """Makes the server's variables and the optimizer's slots."""
        if self.optimizer.built:
            raise ValueError(
                "This server optimizer has been used before. Make a new one "
                "for each run: its slots belong to one model."
            )
        self._layout = layout
        self._model = [
            keras.Variable(tf.zeros(shape), name=name.replace("/", "_"))
            for shape, name in zip(layout.shapes, names, strict=True)
        ]
        self.optimizer.build(self._model)

    @property
    def variables(self) -> list[tf.Variable]:
        """The optimizer's slots and its count of synchronisations."""
        return [v.value for v in self.optimizer.variables]

    @tf.autograph.experimental.do_not_convert
    def apply(self, w0, mean):
        """Returns the new w_0 from the old one and the workers' mean."""
        for variable, value in zip(
            self._model, self._layout.unpack(w0), strict=True
        ):
            variable.assign(value)
        gradient = self._layout.unpack(vectors.subtract(w0, mean))
        self.optimizer.apply(gradient, self._model)
        return self._layout.pack([v.value for v in self._model])

    def __repr__(self) -> str:
        return f"ServerOptimizer({agreement.text(self.optimizer)})"


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
