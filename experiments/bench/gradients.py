"""Synchronous training as others do it: by the mean gradient of each step.

Gradients are packed as the library packs models, by `fda_tf.tensors.vectors`.
"""

from collections.abc import Callable

import keras

from fda_tf.tensors import vectors

NAME = "gradients"  # what benchmarks call it beside the algorithms


def averaged(
    model: keras.Model, mean: Callable[[vectors.Vector], vectors.Vector]
) -> keras.Model:
    """Makes a model's optimizer step by the mean gradient of all workers."""
    layout = vectors.Layout([v.shape for v in model.trainable_variables])
    apply = model.optimizer.apply

    def apply_mean(grads, trainable_variables=None):
        grads = layout.unpack(mean(layout.pack(grads)))
        return apply(grads, trainable_variables)

    model.optimizer.apply = apply_mean
    return model
