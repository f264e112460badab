"""One worker of a cluster that fits models of every kind."""

import json
import pathlib
import sys


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


def failures(process_group):
    """Returns name -> run, of what has to end on all workers."""
    import keras
    import kinds
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

    return {
        "an eager step fails": lambda: fit(True),
        "an eager step fails, overlapped": lambda: fit(True, overlap=True),
        "eager on worker 1 alone": lambda: fit(bool(process_group.index)),
    }


def main(folder):
    """Runs everything as the worker that TF_CONFIG says this is."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    import fit_job

    runs = as_the_simulation(process_group) | failures(process_group)
    result = {name: fit_job.outcome(run) for name, run in runs.items()}
    path = pathlib.Path(folder) / f"{process_group.index}.json"
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
