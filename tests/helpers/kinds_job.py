"""One worker of a cluster that fits models of every kind."""

import json
import pathlib
import sys
import time


def as_the_simulation(process_group):
    """Returns name -> run, of the cases that the simulation can do, too."""
    import fit_job
    import kinds
    import small

    import fda_tf

    shard = small.shards(process_group.count)[process_group.index]

    def run(build, change, options):
        model = build(1 + process_group.index)  # all start from worker 0's
        fda = fda_tf.FDA(**kinds.POLICY)
        history = model.fit(
            fda_tf.shard(change(shard), kinds.BATCH, mine=True),
            verbose=0,
            callbacks=[fda],
            **{"epochs": kinds.EPOCHS} | options,
        )
        optimizer = model.optimizer or model.optimizers[0]
        model.optimizer = optimizer  # whose iterations are reported
        return fit_job.report(fda, model, history)

    return {
        name: lambda build=build, change=change, options=options: run(
            build, change, options
        )
        for name, (build, change, options, _) in kinds.CASES.items()
    }


def counted():
    """Returns what callbacks count in the model, in steps and validations."""
    import keras
    import kinds
    import small

    import fda_tf

    class Counts(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.layers[-1].steps.assign_add(1)

        def on_test_batch_end(self, batch, logs=None):
            self.model.layers[-1].tests.assign_add(1)

    class Counters(keras.layers.Layer):
        def build(self, shape):
            self.steps = self.add_weight(shape=(), initializer="zeros")
            self.tests = self.add_weight(shape=(), initializer="zeros")

        def call(self, x):
            return x

    layers = [keras.layers.Dense(3), Counters()]
    model = keras.Sequential([keras.Input((12,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    x, y = small.data(40)
    model.fit(
        x,
        y,
        batch_size=10,
        epochs=3,
        verbose=0,
        validation_data=(x[:20], y[:20]),
        validation_batch_size=10,
        callbacks=[Counts(), fda_tf.FDA(**kinds.POLICY)],
    )
    counters = model.layers[-1]
    return [float(counters.steps), float(counters.tests)]


def failures(process_group):
    """Returns name -> run, of what has to end on all workers."""
    import keras
    import kinds
    import numpy as np
    import small
    import tensorflow as tf

    import fda_tf

    class Fails(keras.Sequential):
        """Fails on worker 1 in its fourth step, in Python."""

        done = -1  # a trace, and steps

        def train_step(self, data):
            self.done += 1
            if process_group.index and self.done == 4:
                raise KeyError("mine")
            return super().train_step(data)

    def fit(run_eagerly, **options):
        model = Fails([keras.Input((12,)), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, run_eagerly=run_eagerly)
        data = tf.data.Dataset.from_tensor_slices(small.data(64)).batch(8)
        fda = fda_tf.FDA(**kinds.POLICY, **options)
        model.fit(data, verbose=0, callbacks=[fda])

    class Divides(keras.Sequential):
        """Waits in a step; what it then divides by is 0 where it is to fail."""

        def train_step(self, data):
            (x, seconds, by), y = data
            waited = tf.numpy_function(wait, [seconds[0, 0]], tf.float32)
            x = (x + 0 * tf.ensure_shape(waited, [])) / by
            x = tf.debugging.check_numerics(x, "mine")
            return super().train_step((x, y))

    def wait(seconds):
        time.sleep(float(seconds))
        return np.float32(seconds)

    def compiled(theta, waits, step):
        """Fits; worker 1 fails in its step 4, `waits` a second in `step`."""
        model = Divides([keras.Input((12,)), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)

        def change(i, batch):
            x, y = batch
            one = tf.ones([8, 1])
            late = (i == step) & (process_group.index == waits)
            bad = (i == 4) & (process_group.index == 1)
            seconds, by = tf.where(late, one, 0.0), tf.where(bad, 0.0, one)
            return (x, seconds, by), y

        data = tf.data.Dataset.from_tensor_slices(small.data(64)).batch(8, True)
        fda = fda_tf.FDA(theta, "naive", overlap=True)
        data = data.enumerate().map(change)
        model.fit(data, verbose=0, callbacks=[fda])

    return {
        "a step fails, its exchange is over": lambda: compiled(1e9, 1, 4),
        "a step fails, it says synchronise": lambda: compiled(1e-9, 1, 4),
        "an eager step fails": lambda: fit(True),
        "an eager step fails, overlapped": lambda: fit(True, overlap=True),
        "eager on worker 1 alone": lambda: fit(bool(process_group.index)),
        # The last: no exchange is possible after it.
        "a step fails amid an exchange": lambda: compiled(1e9, 0, 3),
    }


def main(folder):
    """Runs everything as the worker that TF_CONFIG says this is."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    import fit_job

    runs = as_the_simulation(process_group) | {"counted": counted}
    runs |= failures(process_group)
    result = {name: fit_job.outcome(run) for name, run in runs.items()}
    path = pathlib.Path(folder) / f"{process_group.index}.json"
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
