"""Theta that sets itself, beside the best fixed theta in hindsight.

Each task is trained to its target accuracy by fixed thetas of a grid and by
the schedules, K workers in simulation, SketchFDA with its cascade. A finished
run is a row of --out at once, and is left out when it has one. Bytes are those
of the states and the models, counted from what is sent, the models up and down.

  python -m experiments.bench.auto --data_dir=DIR --out=auto.jsonl

The table has bytes and steps as ratios to the best fixed theta of the task:
that with the fewest bytes, in the mean of the seeds, among those whose steps
are at most 1.2 times the least of the grid.
"""

import collections
import functools
import json
import math
import statistics
from collections.abc import Iterable

from experiments import config, provenance, results, store, training
from experiments.bench import measured
from experiments.tasks import TASKS

# Target accuracies that take no more than a minute, and steps at most.
GOALS = {
    "lenet5_mnist": (0.97, 2400),
    "cnn_fashion": (0.84, 2000),
    "text_sst2": (0.78, 1000),
    "cnn_cifar10": (0.50, 2000),
    "cnn_femnist": (0.70, 2000),
}
GRID = ("0.4", "1", "2.5", "6", "15", "40", "100")
KEY = (
    "algorithm", "task", "split", "seed", "workers", "evaluate_every",
    "test_samples",
)  # fmt: skip


def train(key: dict, data: training.Data) -> dict:
    """Returns the row of a run that ends at its target."""
    target, limit = GOALS[key["task"]]
    given = {name: key[name] for name in ("task", "split", "seed", "workers")}
    history = training.simulate(
        config.settings(key["algorithm"], steps=limit, **given),
        data,
        evaluate_every=key["evaluate_every"],
        on_evaluation=lambda row: results.passes(row, target),
    )
    last = history.rows[-1]
    rounds = [s.interval for s in history.syncs if s.cause != "end"]
    return key | {
        "reached": int(results.passes(last, target)),
        "steps": last["step"],
        "bytes": results.sent_bytes(last),
        **{n: last[n] for n in ("state_bytes", "model_bytes", "syncs")},
        "mean_interval": round(statistics.mean(rounds or [math.inf]), 2),
        "last_theta": float(f"{last['theta']:.4g}"),
        "accuracy": round(last["val_accuracy"], 4),
        "seconds": round(history.seconds, 1),
    }


def mean(runs: dict, name: str, seeds: Iterable[int] | None = None) -> float:
    """Returns the mean of a column over the seeds, by default all."""
    return statistics.mean(float(runs[s][name]) for s in seeds or runs)


def number(algorithm: str) -> float | None:
    """Returns the theta of an algorithm's text, if that is a number."""
    theta = algorithm.partition("theta=")[2]
    try:
        return float(theta)
    except ValueError:
        return None


def best(thetas: dict) -> str | None:
    """Returns the fixed theta to be held against: the best in hindsight."""
    fixed = {
        text: runs
        for text, runs in thetas.items()
        if number(text) is not None and mean(runs, "reached") == 1
    }
    most = max(map(len, fixed.values()), default=0)
    fixed = {t: runs for t, runs in fixed.items() if len(runs) == most}
    if not fixed:
        return None
    limit = 1.2 * min(mean(runs, "steps") for runs in fixed.values())
    good = [t for t in fixed if mean(fixed[t], "steps") <= limit]
    return min(good, key=lambda t: mean(fixed[t], "bytes"))


def table(rows: Iterable[dict]) -> str:
    """Returns the table, as Markdown; ratios are over the same seeds."""
    lines = [
        "| task | split | algorithm | seeds | reached | steps | syncs | MB "
        "(least to most) | steps / best | bytes / best |",
        "|---" * 10 + "|",
    ]
    places: dict = collections.defaultdict(
        functools.partial(collections.defaultdict, dict)
    )
    for row in rows:
        place = places[row["task"], row["split"]]
        place[row["algorithm"]][row["seed"]] = row
    for (task, split), thetas in places.items():
        star = best(thetas)
        for text in sorted(thetas, key=lambda t: (number(t) or math.inf, t)):
            cells = [task, split, text + " (best)" * (text == star)]
            cells += _cells(thetas[text], thetas[star] if star else {})
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(runs: dict, star: dict) -> list[str]:
    megabytes = [float(row["bytes"]) / 1e6 for row in runs.values()]
    spread = f"({min(megabytes):.1f} to {max(megabytes):.1f})"
    reached = sum(int(row["reached"]) for row in runs.values())
    both = [seed for seed in runs if seed in star]
    if reached < len(runs):
        both = []  # what a run did until its limit is no cost of the target
    ratios = [
        f"{mean(runs, n, both) / mean(star, n, both):.2f}" if both else "-"
        for n in ("steps", "bytes")
    ]
    return [
        str(len(runs)),
        str(reached),
        f"{mean(runs, 'steps'):.0f}",
        f"{mean(runs, 'syncs'):.1f}",
        f"{statistics.mean(megabytes):.1f} {spread}",
        *ratios,
    ]


def main(options) -> None:
    """Runs what has no row yet; prints the table, then all rows as JSON."""
    training.one_thread()
    kept = store.Store(options.out, *KEY)
    for seed in map(int, options.seeds):
        for task in options.tasks:
            split = options.split or TASKS[task].split
            own = {"task": task, "split": split, "seed": seed}
            own |= {name: getattr(options, name) for name in KEY[4:]}
            load = functools.cache(
                lambda own=own: training.load(
                    *(own[n] for n in ("task", "workers", "seed", "split")),
                    data_dir=options.data_dir,
                    test_samples=own["test_samples"],
                )
            )
            for theta in options.theta:
                key = {"algorithm": f"sketch:theta={theta}"} | own
                if key not in kept:
                    row = kept.add(train(key, load()))
                    print(*row.values(), flush=True)
    rows = list(kept.rows.values())
    print(table(rows))
    about = {"goals": GOALS, "machine": provenance.machine()}
    print(json.dumps({"rows": rows} | about))


if __name__ == "__main__":
    measured.command(
        main,
        tasks=(list(GOALS), "Names of tasks."),
        seeds=(["0", "1", "2"], "Seeds of weights and batches."),
        theta=([*GRID, "auto"], "As --theta of experiments.run."),
        split=(str, "Who has which data; default: the task's."),
        workers=(5, "K."),
        evaluate_every=(20, "Steps between evaluations."),
        test_samples=(2000, "Samples to evaluate on, at most."),
        data_dir=(str, "Folder with the data sets."),
        out=("auto.jsonl", "File that gets a row for each run."),
    )
