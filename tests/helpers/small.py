"""A small problem that simulation, cluster and reference all can train."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

import fda_tf

INPUTS, CLASSES, RATE = 12, 3, 0.3


def data(samples=240, seed=0):
    """Returns (x, y) of a problem that a linear model half solves."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(samples, INPUTS)).astype(np.float32)
    truth = random.normal(size=(INPUTS, CLASSES))
    noise = random.gumbel(size=(samples, CLASSES))
    return x, (x @ truth + noise).argmax(1).astype(np.int32)


def shards(workers, samples=240):
    """Returns the K shards: sorted by label, so that drifts part."""
    x, y = data(samples)
    order = np.argsort(y, kind="stable")
    return [(x[i], y[i]) for i in np.array_split(order, workers)]


def start(seed=1):
    """Returns w0 [INPUTS + 1, CLASSES], small and random."""
    random = np.random.default_rng(seed)
    shape = (INPUTS + 1, CLASSES)
    return (0.1 * random.normal(size=shape)).astype(np.float32)


def compile_model(model, optimizer=None):
    """Compiles a classifier by its logits."""
    model.compile(
        optimizer or keras.optimizers.SGD(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


def linear_model(w=None, optimizer=None):
    """Returns compiled softmax regression that starts at w."""
    w = start() if w is None else w
    model = keras.Sequential(
        [keras.Input((INPUTS,)), keras.layers.Dense(CLASSES)]
    )
    model.set_weights([w[:-1], w[-1]])
    return compile_model(model, optimizer)


def rich_model(seed=3):
    """Returns a compiled model with dropout, BatchNorm and Adam."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((INPUTS,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(CLASSES),
        ]
    )
    return compile_model(model, keras.optimizers.Adam(0.01))


def frozen_model(seed=1):
    """Returns a compiled model whose first layer never changes."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    frozen = layers.Dense(8, activation="relu", trainable=False)
    return compile_model(
        keras.Sequential(
            [keras.Input((INPUTS,)), frozen, layers.Dense(CLASSES)]
        )
    )


def flat(model):
    """Returns the model's trainable variables as one vector."""
    none = np.zeros(0, np.float32)
    return np.concatenate(
        [none, *(np.ravel(v.numpy()) for v in model.trainable_variables)]
    )


def kept(model):
    """Returns what a model learns, as arrays: weights and statistics."""
    return [v.numpy() for v in model.variables if v.dtype == "float32"]


def history_of(history):
    """Returns what a run did, as JSON can hold it."""
    return {
        "syncs": [s.step for s in history.syncs if s.cause != "end"],
        "variance": history.variance.tolist(),
        "weights": flat(history.model).tolist(),
        "statistics": [
            np.ravel(v.numpy()).tolist()
            for v in history.model.non_trainable_variables
            if v.dtype == "float32"
        ],
        "row": {k: v for k, v in history.rows[-1].items() if k != "seconds"},
    }


def in_parts(options):
    """Returns options with an `Algorithm` in place of its parts, if any."""
    names = {field.name for field in dataclasses.fields(fda_tf.Algorithm)}
    parts = {k: v for k, v in options.items() if k in names}
    rest = {k: v for k, v in options.items() if k not in names}
    return {"algorithm": fda_tf.Algorithm(**parts), **rest} if parts else rest


def as_tensors(*values):
    """Returns a vector of one bucket for each value."""
    return tuple(tf.constant(v, tf.float32) for v in values)
