"""One of two workers: what they say, and what a new callback uses again."""

import json
import pathlib
import sys

import keras
import numpy as np
import small
import tensorflow as tf

import fda_tf

FITS = 2
# What a run draws, keeps or learns from round to round, each in some case.
CASES = {
    "sketch": lambda: fda_tf.FDA(1e-2, fda_tf.monitors.SketchMonitor(3, 8)),
    "auto": lambda: fda_tf.FDA("auto", "linear", overlap=True),
    "int8": lambda: fda_tf.Averaging(
        fda_tf.Algorithm(
            fda_tf.Every(steps=2),
            compression=fda_tf.compression.Int8(feedback=True),
        )
    ),
}


class Model(keras.Sequential):
    """Counts how often its step is traced."""

    traces = 0

    def train_step(self, data):
        """Does Keras' own step."""
        self.traces += 1
        return super().train_step(data)


def build():
    """Returns a model that draws random numbers and has statistics."""
    keras.utils.set_random_seed(3)
    model = Model(
        [
            keras.Input((small.INPUTS,)),
            keras.layers.Dense(4, activation="relu"),
            keras.layers.Dropout(0.3, seed=5),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(small.CLASSES),
        ]
    )
    return small.compile_model(model, keras.optimizers.Adam(0.05))


def fit(*data, callbacks=(), **options):
    """Fits as a script would, and says all that Keras says."""
    return build().fit(*data, epochs=2, callbacks=list(callbacks), **options)


def fits(callback, shard, anew):
    """Returns what some fits of one model did, each with a new callback.

    Args:
      callback: makes one.
      shard: this worker's arrays.
      anew: whether each fit compiles all that it needs.
    """
    model, done = build(), []
    for _ in range(FITS):
        if anew:
            vars(model).pop("_fda_tf_made", None)
        fda = callback()
        data = fda_tf.shard(shard, 8, mine=True)
        history = model.fit(data, epochs=2, verbose=0, callbacks=[fda])
        weights = np.concatenate([np.ravel(w) for w in model.get_weights()])
        made = [history.history, fda.syncs, fda.variance, weights.tolist()]
        done.append(json.dumps(made))
    return {"done": done, "traces": model.traces}


def main(folder):
    """Runs all cases as the worker that TF_CONFIG says this is."""
    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    shard = small.shards(process_group.count, 96)[process_group.index]
    fit(fda_tf.shard(shard, 8, mine=True), callbacks=[CASES["sketch"]()])
    # To compile all anew, again and again, is rightly warned of.
    tf.get_logger().setLevel("ERROR")
    result = {
        name: [fits(callback, shard, anew) for anew in (False, True)]
        for name, callback in CASES.items()
    }
    path = pathlib.Path(folder) / f"{process_group.index}.json"
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
