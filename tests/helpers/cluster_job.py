"""One worker of the tests' cluster: runs every case, writes what it did."""

import json
import pathlib
import sys

# For the larger clusters.
FEW_RUNS = ("theta", "empty shard", "bad drift", "callback", "stop")


def outcome(run):
    """Returns what a run did, or the error that ended it."""
    import small

    try:
        return small.history_of(run())
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def alike(process_group, shard):
    """Returns a run of workers that differ in what does not matter.

    Keras numbers the names of worker 1 otherwise, and functions are elsewhere.
    """
    import keras
    import numpy as np
    import small

    import fda_tf

    kept = [keras.layers.Dense(1) for _ in range(3 * process_group.index)]
    kept += [keras.Sequential() for _ in kept]
    x, y = shard

    class Untold(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

    def loss(y, prediction):
        return (y - prediction) ** 2

    def build():
        layers = keras.layers
        inner = keras.Sequential([layers.Dense(4), layers.Reshape((2, 2))])
        two_ways = layers.Bidirectional(layers.LSTM(2))
        inputs = keras.Input((small.INPUTS,))
        top = two_ways(inner(inputs))
        ends = {name: layers.Dense(1, name=name)(top) for name in ("a", "b")}
        model = keras.Model(inputs, ends)
        losses = {"a": loss, "b": lambda y, prediction: y - prediction}
        model.compile(keras.optimizers.SGD(Untold()), losses)
        return model

    return lambda: fda_tf.train(
        build(),
        (x, {"a": y[:, None] / 1.0, "b": y[:, None] / 1.0}),
        fda_tf.Every(steps=2),
        steps=6,
        batch_size=np.int64(8),
        seed=np.int64(1),
        process_group=process_group,
    )


def refusals(process_group, shard):
    """Returns name -> a run in which worker 1 is unlike the others."""
    import keras
    import numpy as np
    import small
    import tensorflow as tf

    import fda_tf

    odd = process_group.index == 1
    x, y = shard
    model = small.linear_model

    def train(data=shard, model=model, theta=1.0, seed=0, **options):
        monitor = fda_tf.monitors.SketchMonitor(seed=seed)
        settings = {"sync": fda_tf.VarianceThreshold(theta, monitor)} | options
        return lambda: fda_tf.train(
            model(),
            data,
            steps=6,
            batch_size=8,
            process_group=process_group,
            **small.in_parts(settings),
        )

    def stop_on_one(row):
        return odd and row["step"] >= 4

    def fail_on_one(row):
        if odd:
            raise KeyError("mine")

    def compiled(optimizer="sgd", loss="mse", activation="relu", frozen=2):
        first = keras.layers.Dense(frozen, trainable=False)
        last = keras.layers.Dense(1, activation=activation)
        built = keras.Sequential([keras.Input((small.INPUTS,)), first, last])
        built.compile(optimizer, loss)
        return built

    batches = tf.data.Dataset.from_tensor_slices(shard).batch(8)

    return {
        "theta": train(theta=2.0 if odd else 1.0),
        "sketch seed": train(seed=int(odd)),
        "model": train(model=small.rich_model if odd else small.linear_model),
        "empty shard": train(data=(x[:0], y[:0]) if odd else shard),
        "bad drift": train(data=(np.full_like(x, np.nan), y) if odd else shard),
        "all bad": train(
            data=(np.full_like(x, np.nan), y),
            sync=fda_tf.Every(steps=2),
            guard=fda_tf.OutlierGuard(),
        ),
        "optimizer": train(model=lambda: compiled(["sgd", "adam"][odd])),
        "rate": train(model=lambda: compiled(keras.optimizers.SGD(0.1 + odd))),
        "loss": train(model=lambda: compiled(loss=["mse", "mae"][odd])),
        "layer": train(
            model=lambda: compiled(activation=["relu", "tanh"][odd])
        ),
        "frozen": train(model=lambda: compiled(frozen=2 + odd)),
        "dataset": train(data=batches if odd else shard),
        "callback": train(evaluate_every=2, on_evaluation=fail_on_one),
        "stop": train(evaluate_every=2, on_evaluation=stop_on_one),
    }


def main(folder):
    """Runs everything as the worker that TF_CONFIG says this is."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    import cases
    import small

    shard = small.shards(process_group.count)[process_group.index]
    report = {}
    for name, (build, options) in cases.cases().items():
        if process_group.count > 2 and name not in cases.FEW:
            continue
        own = cases.shards(process_group.count, name)[process_group.index]
        model = build(1 + process_group.index)  # all must start from worker 0's
        report[name] = outcome(
            lambda m=model, s=own, o=options: fda_tf.train(
                m, s, process_group=process_group, **small.in_parts(o)
            )
        )
    runs = {"alike": alike(process_group, shard)} | refusals(
        process_group, shard
    )
    for name, run in runs.items():
        if process_group.count == 2 or name in FEW_RUNS:
            report[name] = outcome(run)
    path = pathlib.Path(folder) / f"{process_group.index}.json"
    path.write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
