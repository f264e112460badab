"""What the cascade saves, and that it changes nothing else.

LeNet-5 on MNIST, batch 32, Adam, K workers in simulation: each seed is trained
twice from the same start on the same batches, with the sketch sent whole at
every check and with the cascade. Both must synchronise at the same steps and
end with the same weights; state bytes are counted from what is sent.

  python -m experiments.bench.cascade --data_dir=DIR --theta=0.5,1.5,5

Without --data_dir it takes the 5,000 images that ship with the project.
"""

import sys

from absl import app, flags

from experiments.bench import measured

FLAGS = flags.FLAGS
flags.DEFINE_list("theta", ["0.5", "1.5", "5"], "Thresholds.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and batches.")
flags.DEFINE_integer("workers", 5, "K.")
flags.DEFINE_integer("steps", 1500, "In-parallel steps of a run.")
flags.DEFINE_string("data_dir", None, "Folder with mnist.npz.")

COLUMNS = (
    "theta",
    "seed",
    "syncs",
    "same_syncs",
    "same_weights",
    "state_bytes_plain",
    "state_bytes_cascade",
    "times_fewer",
    "state_share_plain",
    "state_share_cascade",
)


def measure(theta: float, seed: int, data) -> dict:
    """Returns the row of one threshold and seed."""
    import numpy as np

    plain, cascade = (_run(theta, seed, data, c) for c in (False, True))
    a, b = plain.rows[-1], cascade.rows[-1]
    weights = zip(
        plain.model.get_weights(), cascade.model.get_weights(), strict=True
    )
    syncs = [[s.step for s in run.syncs] for run in (plain, cascade)]
    return {
        "theta": theta,
        "seed": seed,
        "syncs": a["syncs"],
        "same_syncs": syncs[0] == syncs[1],
        "same_weights": all(np.array_equal(u, v) for u, v in weights),
        "state_bytes_plain": a["state_bytes"],
        "state_bytes_cascade": b["state_bytes"],
        "times_fewer": round(a["state_bytes"] / b["state_bytes"], 2),
        "state_share_plain": _share(a),
        "state_share_cascade": _share(b),
    }


def _share(row: dict) -> float:
    """Returns the states' share of all bytes sent."""
    total = row["state_bytes"] + row["model_bytes"]
    return round(row["state_bytes"] / total, 3)


def _run(theta: float, seed: int, data, cascade: bool):
    import fda_tf
    from experiments.tasks import TASKS

    x = data.x_train[..., None] / 255.0
    pieces = fda_tf.partition.split("iid", data.y_train, FLAGS.workers)
    monitor = fda_tf.monitors.SketchMonitor(cascade=cascade)

    def build():
        model = TASKS["lenet5_mnist"].build(seed)
        model.jit_compile = False
        return model

    return fda_tf.simulate(
        build,
        [(x[i].astype("float32"), data.y_train[i]) for i in pieces],
        fda_tf.VarianceThreshold(theta, monitor),
        steps=FLAGS.steps,
        seed=seed,
        evaluate_every=FLAGS.steps,
    )


def main(_) -> None:
    """Prints a table of all runs, then all rows as JSON."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    from experiments import datasets

    name = "mnist" if FLAGS.data_dir else "mnist5000"
    data = datasets.load(name, FLAGS.data_dir)
    rows = []
    for theta in map(float, FLAGS.theta):
        for seed in map(int, FLAGS.seeds):
            rows.append(measure(theta, seed, data))
            print(rows[-1], file=sys.stderr, flush=True)
    settings = {
        "workers": FLAGS.workers,
        "steps": FLAGS.steps,
        "dataset": name,
    }
    measured.show(rows, COLUMNS, settings)


if __name__ == "__main__":
    app.run(main)
