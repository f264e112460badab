"""FDA beside its rivals at equal bytes, and what compressions cost.

LeNet-5 on MNIST, K workers in simulation, each with Adam and batches of 32;
the first 60 % of the set is dealt sorted by label. FDA with the sketch goes
first. H is the mean interval between its synchronisations; every rival is
given that, so that all send about as many bytes in as many steps.

  python -m experiments.bench.methods --data_dir=DIR --output=methods.jsonl
  python -m experiments.bench.methods --data_dir=DIR --group=compressions

Each finished run is one line of the output; those that are there are not run
again. Without --data_dir it takes the 5,000 images that ship with the project.
"""

import json
import os
import statistics

from absl import app, flags

from experiments import results
from experiments.bench import measured

FLAGS = flags.FLAGS
flags.DEFINE_enum("group", "rivals", ["rivals", "compressions"], "What to run.")
flags.DEFINE_float("theta", 3.0, "Of FDA.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Of weights and batches.")
flags.DEFINE_integer("workers", 10, "K.")
flags.DEFINE_integer("steps", 1500, "In-parallel steps of a run.")
flags.DEFINE_float("target", 0.97, "Test accuracy to reach.")
flags.DEFINE_string("data_dir", None, "Folder with mnist.npz.")
flags.DEFINE_string("output", None, "File of JSON lines, to append to.")

EVALUATE_EVERY = 25


def rivals(interval: int) -> dict:
    """Returns name -> (algorithm, wrapper of the local optimizer).

    Args:
      interval: H, steps.
    """
    import keras

    import fda_tf

    def by_clock(server_optimizer=None, sync=None):
        return fda_tf.Algorithm(
            sync or fda_tf.Every(steps=interval),
            server_optimizer=server_optimizer,
        )

    def fda():
        return fda_tf.VarianceThreshold(FLAGS.theta, "sketch")

    sgd = keras.optimizers.SGD
    plain = [
        ("FDA, sketch", by_clock(sync=fda())),
        ("local SGD, H", by_clock()),
        (
            "QSR",  # at a constant rate: H0 alone
            by_clock(
                sync=fda_tf.policies.QuadraticRule(1e-3, 1e-3, least=interval)
            ),
        ),
        (
            "AdaComm",  # longer first rounds, shorter ones later
            by_clock(
                sync=fda_tf.policies.AdaComm(
                    2 * interval, every=FLAGS.steps // 4
                )
            ),
        ),
        (
            "post-local SGD",  # half of its bytes go to the first steps
            by_clock(
                sync=fda_tf.policies.PostLocal(
                    max(1, FLAGS.steps // interval // 2),
                    fda_tf.Every(steps=2 * interval),
                )
            ),
        ),
        ("DiLoCo", by_clock(sgd(0.7, momentum=0.9, nesterov=True))),
        ("FedAvgM, H", by_clock(sgd(1.0, momentum=0.5))),
        ("FedAdam, H", by_clock(keras.optimizers.Adam(1e-2))),
        ("FedYogi, H", by_clock(fda_tf.optimizers.Yogi(1e-2))),
        ("FedAdagrad, H", by_clock(keras.optimizers.Adagrad(3e-2))),
        (
            "FDA, Nesterov (dynamic DiLoCo)",
            by_clock(sgd(0.7, momentum=0.9, nesterov=True), sync=fda()),
        ),
        ("FDA, FedAvgM", by_clock(sgd(1.0, momentum=0.5), sync=fda())),
    ]
    methods = {name: (options, lambda o: o) for name, options in plain}
    methods["FedProx, H"] = (
        by_clock(),
        lambda o: fda_tf.optimizers.FedProx(o, mu=0.1),
    )
    return methods


def compressions(_) -> dict:
    """Returns name -> the same, for FDA with each compression."""
    import fda_tf

    fda = fda_tf.VarianceThreshold(FLAGS.theta, "sketch")
    sent = {
        "float32": None,
        "bfloat16": "bfloat16",
        "int8, stochastic": "int8",
        "int8, feedback": fda_tf.compression.Int8(feedback=True),
        "top 10 %": fda_tf.compression.TopK(0.1),
        "top 1 %": fda_tf.compression.TopK(0.01),
    }
    return {
        name: (fda_tf.Algorithm(fda, compression=compression), lambda o: o)
        for name, compression in sent.items()
    }


def run(seed: int, data, algorithm, wrap) -> dict:
    """Trains once; returns what came of it."""
    import fda_tf
    from experiments.tasks import TASKS

    task = TASKS["lenet5_mnist"]
    x = task.scaled(data.x_train)
    pieces = fda_tf.partition.split("sorted:0.6", data.y_train, FLAGS.workers)
    history = fda_tf.simulate(
        lambda: task.build(seed, lambda: wrap(task.optimizer())),
        [(x[i], data.y_train[i]) for i in pieces],
        algorithm,
        steps=FLAGS.steps,
        seed=seed,
        validation_data=(task.scaled(data.x_test), data.y_test),
        evaluate_every=EVALUATE_EVERY,
    )
    first = results.first_above(history.rows, FLAGS.target)
    last = history.rows[-1]
    tail = [row["val_accuracy"] for row in history.rows[-4:]]
    return {
        "seed": seed,
        "syncs": last["syncs"],
        "megabytes": (last["model_bytes"] + last["state_bytes"]) / 1e6,
        "wire_megabytes": last["wire_bytes"] / 1e6,
        "accuracy": statistics.mean(tail),
        "steps_to_target": first and first["step"],
        "megabytes_to_target": first
        and (first["model_bytes"] + first["state_bytes"]) / 1e6,
    }


def main(_) -> None:
    """Runs what is not there yet; prints a line for each, a table, JSON."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    from experiments import datasets

    name = "mnist" if FLAGS.data_dir else "mnist5000"
    data = datasets.load(name, FLAGS.data_dir)
    settings = {
        key: getattr(FLAGS, key)
        for key in ("theta", "workers", "steps", "target")
    } | {"data": name}
    done = _read(settings)
    for seed in map(int, FLAGS.seeds):
        interval = 1
        for method in {"rivals": rivals, "compressions": compressions}[
            FLAGS.group
        ](1):
            make = {"rivals": rivals, "compressions": compressions}[FLAGS.group]
            key = (method, seed)
            if key not in done:
                row = run(seed, data, *make(interval)[method])
                done[key] = row | {"method": method, "H": interval} | settings
                print(json.dumps(done[key]), flush=True)
                if FLAGS.output:
                    with open(FLAGS.output, "a") as lines:
                        lines.write(json.dumps(done[key]) + "\n")
            if method == "FDA, sketch":
                interval = round(FLAGS.steps / done[key]["syncs"])
    _show(done)
    about = settings | {"machine": measured.machine()}
    print(json.dumps({"rows": list(done.values())} | about))


def _read(settings: dict) -> dict:
    """Returns (method, seed) -> the row of each run that is there."""
    if not (FLAGS.output and os.path.exists(FLAGS.output)):
        return {}
    with open(FLAGS.output) as lines:
        rows = [json.loads(line) for line in lines]
    return {
        (row["method"], row["seed"]): row
        for row in rows
        if settings.items() <= row.items()
    }


def _show(done: dict) -> None:
    columns = (
        "megabytes", "accuracy", "steps_to_target", "megabytes_to_target",
    )  # fmt: skip
    print("| method | " + " | ".join(columns) + " |")
    for method in dict.fromkeys(method for method, _ in done):
        rows = [row for (name, _), row in done.items() if name == method]
        cells = [_spread([row[column] for row in rows]) for column in columns]
        print(f"| {method} | " + " | ".join(cells) + " |")


def _spread(values: list) -> str:
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return f"{len(known)} of {len(values)} reached it"
    return f"{statistics.median(known):.4g} ({min(known):.4g}-{max(known):.4g})"


if __name__ == "__main__":
    app.run(main)
