"""Theta that sets itself, beside the best fixed theta in hindsight.

Each task is trained to its target accuracy by fixed thetas of a grid and by
the schedules, K workers in simulation, SketchFDA with its cascade. A finished
run is a row of --out at once, and is left out when it has one. Bytes are those
of the states and the models, counted from what is sent, the models up and down.

  python -m experiments.bench.auto --data_dir=DIR --out=auto.csv

The table has bytes and steps as ratios to the best fixed theta of the task:
that with the fewest bytes, in the mean of the seeds, among those whose steps
are at most 1.2 times the least of the grid.
"""

import csv
import json
import math
import pathlib
from collections import defaultdict

from absl import app, flags

# Target accuracies that take no more than a minute, and steps at most.
GOALS = {
    "lenet5_mnist": (0.97, 2400),
    "cnn_fashion": (0.84, 2000),
    "text_sst2": (0.78, 1000),
    "cnn_cifar10": (0.50, 2000),
    "cnn_femnist": (0.70, 2000),
}
GRID = (0.4, 1.0, 2.5, 6.0, 15.0, 40.0)
FIELDS = (
    "task", "split", "seed", "theta", "reached", "steps", "bytes",
    "state_bytes", "model_bytes", "syncs", "mean_interval", "last_theta",
    "accuracy", "seconds",
)  # fmt: skip

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", list(GOALS), "Names of tasks.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and batches.")
flags.DEFINE_list(
    "theta",
    [*map(str, GRID), "auto"],
    "Numbers, names in `SCHEDULES`, and names that `thetas.get` knows.",
)
flags.DEFINE_string("split", None, "Who has which data; default: the task's.")
flags.DEFINE_integer("workers", 5, "K.")
flags.DEFINE_integer("evaluate_every", 20, "Steps between evaluations.")
flags.DEFINE_integer("test_samples", 2000, "Samples to evaluate on, at most.")
flags.DEFINE_string("data_dir", None, "Folder with the data sets.")
flags.DEFINE_string("out", "auto.csv", "File that gets a row for each run.")


def schedule(name: str):
    """Returns the schedule of a name: a number, or a name in `SCHEDULES`."""
    from fda_tf import thetas

    known = {
        "interval:150": lambda: thetas.TargetInterval(150),
        "epochs:1": lambda: thetas.TargetInterval(epochs=1),
        "epochs:2": lambda: thetas.TargetInterval(epochs=2),
        "fdaopt:2": lambda: thetas.FdaOpt(2),
        "fdaopt:4": lambda: thetas.FdaOpt(4),
    }
    if name in known:
        return known[name]()
    try:
        return thetas.get(float(name))
    except ValueError:
        return thetas.get(name)


def samples(task, split: str, seed: int):
    """Returns (shards, test set) of a task."""
    import numpy as np

    import fda_tf
    from experiments import datasets

    data = datasets.load(task.dataset, FLAGS.data_dir, task.classes)
    x, x_test = task.inputs(data.x_train, data.x_test)
    pieces = fda_tf.partition.split(
        split, data.y_train, FLAGS.workers, seed, data.clients
    )
    some = np.random.default_rng(0).permutation(len(x_test))
    some = some[: FLAGS.test_samples]
    shards = [(x[i], data.y_train[i]) for i in pieces]
    return shards, (x_test[some], data.y_test[some])


def train(task, shards, test, theta: str, seed: int):
    """Returns the history of a run that ends at its target."""
    import fda_tf

    target, limit = GOALS[task.name]
    return fda_tf.simulate(
        lambda: task.build(seed),
        shards,
        steps=limit,
        seed=seed,
        sync=fda_tf.VarianceThreshold(schedule(theta), "sketch"),
        validation_data=test,
        evaluate_every=FLAGS.evaluate_every,
        on_evaluation=lambda row: row["val_accuracy"] > target,
    )


def row_of(key: dict, history) -> dict:
    """Returns the row of a run: its key, and what it took."""
    last = history.rows[-1]
    rounds = [s["interval"] for s in history.syncs if s["cause"] != "end"]
    mean = sum(rounds) / len(rounds) if rounds else math.inf
    return key | {
        "reached": int(last["val_accuracy"] > GOALS[key["task"]][0]),
        "steps": last["step"],
        "bytes": last["state_bytes"] + last["model_bytes"],
        "state_bytes": last["state_bytes"],
        "model_bytes": last["model_bytes"],
        "syncs": last["syncs"],
        "mean_interval": round(mean, 2),
        "last_theta": float(f"{last['theta']:.4g}"),
        "accuracy": round(last["val_accuracy"], 4),
        "seconds": round(history.seconds, 1),
    }


def key_of(row: dict) -> tuple:
    """Returns what tells one run from another."""
    return tuple(str(row[name]) for name in FIELDS[:4])


def read(path: str) -> list[dict]:
    """Returns the rows that are there."""
    if not pathlib.Path(path).exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def append(path: str, row: dict) -> None:
    """Writes a row at the end of the file."""
    new = not pathlib.Path(path).exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def means(rows: list[dict]) -> dict:
    """Returns (task, split) -> theta -> means over the seeds that reached."""
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["task"], row["split"]][row["theta"]].append(row)
    return {
        place: {theta: _mean(found) for theta, found in runs.items()}
        for place, runs in groups.items()
    }


def _mean(rows):
    def numbers(name):
        return [float(row[name]) for row in rows]

    mean = {
        name: sum(numbers(name)) / len(rows)
        for name in ("steps", "bytes", "syncs", "mean_interval", "reached")
    }
    return mean | {
        "seeds": len(rows),
        "least": min(numbers("bytes")),
        "most": max(numbers("bytes")),
    }


def best(runs: dict) -> str | None:
    """Returns the fixed theta to be held against: the best in hindsight."""
    fixed = {
        theta: mean
        for theta, mean in runs.items()
        if _is_number(theta) and mean["reached"] == 1
    }
    if not fixed:
        return None
    limit = 1.2 * min(mean["steps"] for mean in fixed.values())
    good = [theta for theta, mean in fixed.items() if mean["steps"] <= limit]
    return min(good, key=lambda theta: fixed[theta]["bytes"])


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def table(rows: list[dict]) -> str:
    """Returns the table, as Markdown."""
    lines = [
        "| task | split | theta | seeds | reached | steps | syncs | MB "
        "(least to most) | steps / best | bytes / best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, split), runs in means(rows).items():
        star = best(runs)
        for theta, mean in sorted(runs.items(), key=_order):
            least, most = mean["least"] / 1e6, mean["most"] / 1e6
            cells = [
                task, split, theta + " (best)" * (theta == star),
                mean["seeds"], f"{mean['reached']:.0%}",
                f"{mean['steps']:.0f}", f"{mean['syncs']:.1f}",
                f"{mean['bytes'] / 1e6:.1f} ({least:.1f} to {most:.1f})",
                *(f"{mean[n] / runs[star][n]:.2f}" if star else "-"
                  for n in ("steps", "bytes")),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _order(item):
    number = _is_number(item[0])
    return not number, float(item[0]) if number else 0, item[0]


def main(_) -> None:
    """Runs what has no row yet; prints the table, then all rows as JSON."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    from experiments.tasks import TASKS

    done = {key_of(row) for row in read(FLAGS.out)}
    for seed in map(int, FLAGS.seeds):
        for task in (TASKS[name] for name in FLAGS.tasks):
            split = FLAGS.split or task.split
            keys = [
                {"task": task.name, "split": split, "seed": seed, "theta": t}
                for t in FLAGS.theta
            ]
            keys = [key for key in keys if key_of(key) not in done]
            data = samples(task, split, seed) if keys else None
            for key in keys:
                history = train(task, *data, key["theta"], seed)
                row = row_of(key, history)
                append(FLAGS.out, row)
                print(" ".join(str(row[name]) for name in FIELDS), flush=True)
    rows = read(FLAGS.out)
    print(table(rows))
    print(json.dumps({"rows": rows, "goals": GOALS}))


if __name__ == "__main__":
    app.run(main)
