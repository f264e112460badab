"""FedProx: a local optimizer that is held near the last average."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from fda_tf import checks, optimizers


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
        self.mu = checks.real("FedProx: mu", mu, 0.0, "a number of at least 0")
        self.inner_optimizer = keras.optimizers.get(optimizer)
        inside = optimizers.nested(self.inner_optimizer)
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
