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
import statistics
from collections import defaultdict
from collections.abc import Iterable

from absl import app, flags

from experiments import results
from experiments.bench import measured

# Target accuracies that take no more than a minute, and steps at most.
GOALS = {
    "lenet5_mnist": (0.97, 2400),
    "cnn_fashion": (0.84, 2000),
    "text_sst2": (0.78, 1000),
    "cnn_cifar10": (0.50, 2000),
    "cnn_femnist": (0.70, 2000),
}
GRID = (0.4, 1.0, 2.5, 6.0, 15.0, 40.0, 100.0)
FIELDS = (
    "task", "split", "seed", "theta", "workers", "evaluate_every",
    "test_samples", "reached", "steps", "bytes", "state_bytes", "model_bytes",
    "syncs", "mean_interval", "last_theta", "accuracy", "seconds",
)  # fmt: skip
KEY = FIELDS[:7]  # what tells one run from another

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", list(GOALS), "Names of tasks.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and batches.")
flags.DEFINE_list(
    "theta",
    [*(f"{theta:g}" for theta in GRID), "auto"],
    "Numbers and names, as --theta of experiments.run.",
)
flags.DEFINE_string("split", None, "Who has which data; default: the task's.")
flags.DEFINE_integer("workers", 5, "K.")
flags.DEFINE_integer("evaluate_every", 20, "Steps between evaluations.")
flags.DEFINE_integer("test_samples", 2000, "Samples to evaluate on, at most.")
flags.DEFINE_string("data_dir", None, "Folder with the data sets.")
flags.DEFINE_string("out", "auto.csv", "File that gets a row for each run.")


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
        fda_tf.VarianceThreshold(_schedule(theta), "sketch"),
        steps=limit,
        seed=seed,
        validation_data=test,
        evaluate_every=FLAGS.evaluate_every,
        on_evaluation=lambda row: results.passes(row, target),
    )


def row_of(key: dict, history) -> dict:
    """Returns the row of a run: its key, and what it took."""
    last = history.rows[-1]
    rounds = [s.interval for s in history.syncs if s.cause != "end"]
    mean = sum(rounds) / len(rounds) if rounds else math.inf
    return key | {
        "reached": int(results.passes(last, GOALS[key["task"]][0])),
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
    return tuple(str(row[name]) for name in KEY)


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


def by_theta(rows: list[dict]) -> dict:
    """Returns (task, split) -> theta -> seed -> row."""
    places = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        place = places[row["task"], row["split"]]
        place[row["theta"]][row["seed"]] = row
    return places


def mean(runs: dict, name: str, seeds: Iterable[str] | None = None) -> float:
    """Returns the mean of a column over the seeds, by default all."""
    return statistics.mean(float(runs[s][name]) for s in seeds or runs)


def best(thetas: dict) -> str | None:
    """Returns the fixed theta to be held against: the best in hindsight."""
    fixed = {
        theta: runs
        for theta, runs in thetas.items()
        if _is_number(theta) and mean(runs, "reached") == 1
    }
    most = max(map(len, fixed.values()), default=0)
    fixed = {t: runs for t, runs in fixed.items() if len(runs) == most}
    if not fixed:
        return None
    limit = 1.2 * min(mean(runs, "steps") for runs in fixed.values())
    good = [t for t in fixed if mean(fixed[t], "steps") <= limit]
    return min(good, key=lambda t: mean(fixed[t], "bytes"))


def _schedule(text: str):
    from experiments.algorithms import schedule

    return schedule(float(text) if _is_number(text) else text)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def table(rows: list[dict]) -> str:
    """Returns the table, as Markdown; ratios are over the same seeds."""
    lines = [
        "| task | split | theta | seeds | reached | steps | syncs | MB "
        "(least to most) | steps / best | bytes / best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, split), thetas in by_theta(rows).items():
        star = best(thetas)
        for theta in sorted(thetas, key=_order):
            cells = [task, split, theta + " (best)" * (theta == star)]
            cells += _cells(thetas[theta], thetas[star] if star else {})
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(runs, star):
    megabytes = [float(row["bytes"]) / 1e6 for row in runs.values()]
    spread = f"({min(megabytes):.1f} to {max(megabytes):.1f})"
    both = [seed for seed in runs if seed in star]
    if not all(int(row["reached"]) for row in runs.values()):
        both = []  # what a run did until its limit is no cost of the target
    ratios = [
        f"{mean(runs, name, both) / mean(star, name, both):.2f}"
        if both
        else "-"
        for name in ("steps", "bytes")
    ]
    reached = sum(int(row["reached"]) for row in runs.values())
    return [
        str(len(runs)),
        str(reached),
        f"{mean(runs, 'steps'):.0f}",
        f"{mean(runs, 'syncs'):.1f}",
        f"{statistics.mean(megabytes):.1f} {spread}",
        *ratios,
    ]


def _order(theta):
    number = _is_number(theta)
    return not number, float(theta) if number else 0, theta


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
                | {name: getattr(FLAGS, name) for name in KEY[4:]}
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
    about = {"goals": GOALS, "machine": measured.machine()}
    print(json.dumps({"rows": rows} | about))


if __name__ == "__main__":
    app.run(main)
