"""What must be the same on every worker of a model and of its settings."""

import hashlib
from typing import Any

import keras
import tensorflow as tf

from fda_tf import keras_internals, version
from fda_tf.algorithm.algorithm import Algorithm
from fda_tf.algorithm.part import flatten
from fda_tf.processes import agreement


def describe(
    worker: Any, algorithm: Algorithm | None = None, **settings: Any
) -> dict[str, Any]:
    """Returns what must be the same on every worker, by name, as JSON has it.

    Args:
      worker: a `fda_tf.workers.local_model.Worker`.
      algorithm: that the workers run.
      **settings: of the run: numbers, words, or lists of such.
    """
    described = describe_model(worker)
    for name, value in (algorithm.get_config() if algorithm else {}).items():
        described |= flatten(name, value)
    return described | {n: agreement.plain(v) for n, v in settings.items()}


def describe_model(worker: Any) -> dict[str, Any]:
    """Returns the versions, and what a worker's model is, by name.

    Args:
      worker: a `fda_tf.workers.local_model.Worker`.
    """
    model = worker.model
    versions = {
        "fda_tf": version.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    compiled = {
        "optimizer": agreement.text(model.optimizer),
        "loss": agreement.text(model.loss),
    }
    compiled |= {
        f"optimizer {i} ({type(optimizer).__name__})": agreement.text(optimizer)
        for i, optimizer in enumerate(worker.optimizers)
        if optimizer is not model.optimizer
    }
    shapes = {
        f"the {what} (number {i})": list(shape)
        for what, all_of_it in worker.shapes().items()
        for i, shape in enumerate(all_of_it)
    }
    layers = {
        f"layer {i} ({type(layer).__name__})": _digest(layer)
        for i, layer in enumerate(keras_internals.layers_of(model))
        if layer is not model
    }
    return versions | compiled | shapes | layers | worker.held


def _digest(layer: Any) -> str:
    """Returns a short digest of a layer's settings, as far as it has them."""
    return hashlib.sha256(agreement.text(layer).encode()).hexdigest()[:8]
