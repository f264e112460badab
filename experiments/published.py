"""Our runs beside those that the paper's authors published, as Markdown.

  python -m experiments.published --summary=experiments/summaries/NAME.csv \
      --published=published_runs.csv

The published CSV has a row per model, strategy, K, theta, split and target.
Runs are compared by their steps and completed synchronisations to the target;
ours are medians over the seeds, with the smallest and largest beside them.
"""

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence

from absl import app, flags

from experiments import summary

FLAGS = flags.FLAGS
flags.DEFINE_string("summary", None, "CSV that experiments.run wrote.")
flags.DEFINE_string("published", None, "CSV of the authors' runs.")

MODELS = {"lenet5_mnist": "LeNet-5", "vgg16star_mnist": "VGG16*"}
SPLITS = {"iid": "IID"}

Key = tuple  # task, split, K, algorithm, theta, target
Run = Mapping[str, object]


def grouped(rows: Iterable[Run], sampling: str) -> dict[Key, list[Run]]:
    """The runs of each setting, over the seeds."""
    groups: dict[Key, list[Run]] = {}
    for row in rows:
        if row["sampling"] == sampling:
            theta = float(row["theta"] or 0)
            key = (
                *(row[name] for name in ("task", "split", "workers")),
                row["algorithm"],
                theta,
                row["target_accuracy"],
            )
            groups.setdefault(key, []).append(row)
    return dict(sorted(groups.items()))


def published(path: str) -> dict[Key, tuple[int, int]]:
    """(steps, syncs) of the authors' runs that reached their target."""
    models = {model: task for task, model in MODELS.items()}
    splits = {split: spec for spec, split in SPLITS.items()}
    found = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            task = models.get(row["model"])
            split = splits.get(row["distribution"])
            if task and split and row["reached"] == "1":
                key = (
                    task,
                    split,
                    int(row["K"]),
                    row["strategy"].lower(),
                    float(row["theta"]),
                    float(row["target"]),
                )
                found[key] = int(row["steps"]), int(row["syncs_completed"])
    return found


def spread(values: Sequence[float], theirs: float) -> str:
    """The median, the ratio to theirs, and (smallest to largest)."""
    middle = statistics.median(values)
    ratio = f"{middle / theirs:.2f}" if theirs else "-"
    return f"{middle:g} ({min(values):g} to {max(values):g}) | {ratio}"


def table(rows: Iterable[Run], path: str, sampling: str) -> list[str]:
    """The lines of the Markdown table."""
    theirs = published(path)
    lines = [
        "| K | algorithm | theta | seeds | steps published | steps ours "
        "| ratio | syncs published | syncs ours | ratio |",
        "|---" * 10 + "|",
    ]
    for key, runs in grouped(rows, sampling).items():
        _, _, workers, algorithm, theta, _ = key
        steps, syncs = theirs.get(key, (0, 0))
        reached = [run for run in runs if run["reached"]]
        if not reached:
            continue
        ours = [
            spread([run[f"{what}_to_target"] for run in reached], count)
            for what, count in (("steps", steps), ("syncs", syncs))
        ]
        lines.append(
            f"| {workers} | {algorithm} | {theta or '-'} | {len(reached)} "
            f"| {steps} | {ours[0]} | {syncs} | {ours[1]} |"
        )
    return lines


def main(argv: Sequence[str]) -> None:
    """Prints a table for each way of sampling."""
    rows = list(summary.read(FLAGS.summary).values())
    for sampling in sorted({row["sampling"] for row in rows}):
        print(f"\n--sampling={sampling}\n")
        print("\n".join(table(rows, FLAGS.published, sampling)))


if __name__ == "__main__":
    flags.mark_flags_as_required(["summary", "published"])
    app.run(main)
