"""Our runs beside those that the paper's authors published, as Markdown.

  python -m experiments.published --summary=experiments/summaries/NAME.jsonl \
      --published=published_runs.csv

The published CSV has a row per model, strategy, K, theta, split and target.
Runs are compared by their steps and completed synchronisations to the target;
ours are medians over the seeds, with the smallest and largest beside them.
"""

import argparse
import csv
import operator
import statistics
from collections.abc import Iterable, Mapping, Sequence

from experiments import config, store

MODELS = {
    "lenet5_mnist": "LeNet-5",
    "vgg16star_mnist": "VGG16*",
    "densenet121_cifar10": "DenseNet121",
    "densenet201_cifar10": "DenseNet201",
    "convnext_large_cifar100": "ConvNeXtLarge",
}
SPLITS = {
    "iid": "IID",
    "label:0": 'label "0" non-IID',
    "sorted:0.6": "60% sorted",
}
_COLUMNS = (
    "model", "distribution", "K", "strategy", "theta", "target", "reached",
    "steps", "syncs_completed",
)  # fmt: skip

# What the authors' runs did not vary: a run of ours with another is no rerun.
_KEPT = (
    "batch_size", "learning_rate", "server_learning_rate", "local_epochs",
    "sketch_depth", "sketch_width",
)  # fmt: skip

Key = tuple  # task, split, K, algorithm, theta, target
Run = Mapping[str, object]


def key(run: Run) -> Key:
    """What a run of ours and a published one have in common."""
    theta = run["theta"]
    return (
        *(run[name] for name in ("task", "split", "workers", "algorithm")),
        theta if isinstance(theta, str) else float(theta or 0),
        run["target_accuracy"],
    )


def as_theirs(run: Run) -> bool:
    """Whether a run has the task's and the algorithm's usual settings."""
    return all(
        run[name] == config.usual(run["algorithm"], run["task"], name)
        for name in _KEPT
    )


def grouped(rows: Iterable[Run], sampling: str) -> dict[Key, list[Run]]:
    """The runs of each setting, over the seeds; such as the authors' only."""
    groups: dict[Key, list[Run]] = {}
    for row in rows:
        # A theta that has a name found itself, which theirs did not.
        named = isinstance(row["theta"], str)
        if row["sampling"] == sampling and not named and as_theirs(row):
            groups.setdefault(key(row), []).append(row)
    task_split_target = operator.itemgetter(0, 1, 5)
    return dict(
        sorted(groups.items(), key=lambda g: (task_split_target(g[0]), g[0]))
    )


def published(path: str) -> dict[Key, tuple[int, int]]:
    """(steps, syncs) of the authors' runs that reached their target.

    Those that did after the learning rate had dropped are left out.

    Raises:
        ValueError: a CSV that lacks a column or has what is no number there.
    """
    try:
        return _published(path)
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"--published={path} cannot be read ({error}); give a CSV with "
            f"the columns {', '.join(_COLUMNS)}"
        ) from error


def _published(path: str) -> dict[Key, tuple[int, int]]:
    models = {model: task for task, model in MODELS.items()}
    splits = {split: spec for spec, split in SPLITS.items()}
    found = {}
    for row in store.read_csv(path):
        task = models.get(row["model"])
        split = splits.get(row["distribution"])
        # Ours has one rate throughout.
        dropped = row.get("hit_after_lr_drop") == "1"
        if task and split and row["reached"] == "1" and not dropped:
            where = (
                task, split, int(row["K"]), row["strategy"].lower(),
                float(row["theta"]), float(row["target"]),
            )  # fmt: skip
            found[where] = int(row["steps"]), int(row["syncs_completed"])
    return found


def spread(values: Sequence[float], theirs: float) -> str:
    """The median, (smallest to largest) of several, and the ratio to theirs."""
    middle, low, high = statistics.median(values), min(values), max(values)
    ratio = f"{middle / theirs:.2f}" if theirs else "-"
    between = f" ({low:g} to {high:g})" if len(values) > 1 else ""
    return f"{middle:g}{between} | {ratio}"


def tables(rows: Iterable[Run], path: str, sampling: str) -> list[str]:
    """The lines of a Markdown table for each model, split and target."""
    theirs = published(path)
    lines, before = [], None
    for setting, runs in grouped(rows, sampling).items():
        task, split, workers, algorithm, theta, target = setting
        if before != (task, split, target):
            before = task, split, target
            lines += [
                "",
                f"{MODELS.get(task, task)}, {SPLITS.get(split, split)}, to "
                f"{target:g}:",
                "",
                "| K | algorithm | theta | seeds | steps published "
                "| steps ours | ratio | syncs published | syncs ours | ratio |",
                "|---" * 10 + "|",
            ]
        steps, syncs = theirs.get(setting, (0, 0))
        lines.append(
            f"| {workers} | {algorithm} | {theta or '-'} | {len(runs)} "
            f"| {_ours(runs, 'steps', steps)} | {_ours(runs, 'syncs', syncs)} |"
        )
    return lines


def _ours(runs: Sequence[Run], what: str, theirs: float) -> str:
    """Three cells: theirs, ours, the ratio; or how far the worst came."""
    missed = [run for run in runs if not run["reached"]]
    if not missed:
        values = [run[f"{what}_to_target"] for run in runs]
        return f"{theirs or '-'} | {spread(values, theirs)}"
    worst = min(missed, key=lambda run: run["best_accuracy"])
    cell = f"{len(missed)} of {len(runs)} not in {worst[what]}"
    if what == "steps":
        cell += f" (best {worst['best_accuracy']:.4f})"
    return f"{theirs or '-'} | {cell} | -"


def main() -> None:
    """Prints the tables of each way of sampling."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--summary", required=True, help="rows that experiments.run wrote"
    )
    parser.add_argument(
        "--published", required=True, help="CSV of the authors' runs"
    )
    options = parser.parse_args()
    rows = list(store.Runs(options.summary).rows.values())
    for sampling in sorted({row["sampling"] for row in rows}):
        print(f"\n--sampling={sampling}\n")
        print("\n".join(tables(rows, options.published, sampling)))


if __name__ == "__main__":
    main()
