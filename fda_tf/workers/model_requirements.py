"""What a model must be to be trained here, and why one is refused."""

from collections.abc import Sequence
from typing import Any

import keras

from fda_tf import keras_internals
from fda_tf.algorithm import optimizers


def check_model(model: keras.Model) -> None:
    """Raises ValueError unless the model is compiled for training here."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()!r}; fda_tf needs "
            "TensorFlow. Set KERAS_BACKEND=tensorflow before importing keras."
        )
    # Keras fits what is a layer and a Trainer, which has no public name.
    if not (isinstance(model, keras.Layer) and hasattr(model, "train_step")):
        raise ValueError(f"Expected a keras.Model; received {model!r}.")
    if keras_internals.is_of_a_strategy(model):
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


def check_weights(weights: Sequence[Any]) -> None:
    """Raises ValueError unless the weights that a step trains are float32."""
    for variable in weights:
        if variable.dtype != "float32":
            raise ValueError(
                f"The trainable variable {variable.path!r} is "
                f"{variable.dtype}; expected float32. For lower precision "
                "use a policy such as keras.mixed_precision.set_global_policy("
                '"mixed_bfloat16"), which keeps float32 variables.'
            )


def check_statistic(variable: Any) -> None:
    """Raises ValueError for a statistic that cannot be averaged.

    Args:
      variable: Keras' or TensorFlow's, a float that a step updates.
    """
    name = getattr(variable, "path", variable.name)
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if dtype != "float32":
        raise ValueError(
            f"The variable {name!r}, which a training step updates, is "
            f"{dtype}; expected float32, in which such statistics are "
            'averaged. Give its layer, or its add_weight(), dtype="float32".'
        )
    if getattr(variable, "aggregation", None) == "sum":
        raise ValueError(
            f'The variable {name!r} has aggregation="sum" and a training step '
            "updates it: at each synchronisation what it held before would be "
            'added up once more. Give its add_weight() aggregation="mean", '
            'the default, or "only_first_replica"; or count in a metric.'
        )
