"""Synchronous training as others do it: by the mean gradient of each step."""

from collections.abc import Callable

import keras

from fda_tf.tensors import vectors


def averaged(
    model: keras.Model, mean: Callable[[vectors.Vector], vectors.Vector]
) -> keras.Model:
    """Makes a model's optimizer step by the mean gradient of all workers.

    Args:
      model: compiled, with its weights made, and not yet traced.
      mean: returns the means of flat tensors over the workers.

    Returns:
      The model.
    """
    layout = vectors.Layout([v.shape for v in model.trainable_variables])
    apply = model.optimizer.apply

    def apply_mean(grads, trainable_variables=None):
        grads = layout.unpack(mean(layout.pack(grads)))
        return apply(grads, trainable_variables)

    model.optimizer.apply = apply_mean
    return model
