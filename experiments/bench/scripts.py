"""Scripts of others' making: by two processes, alone, and simulated.

  python -m experiments.bench.scripts --out=experiments/summaries/scripts.jsonl

Each of experiments/scripts is run with three seeds, alone and by two processes,
and simulated with two workers and the first seed. A row for each goes into
--out, where there is none yet, and the table of docs/scripts.md is printed, of
the rows that are there. --only names some.
"""

import io
import json
import pathlib
import statistics
import tempfile
import tokenize
from collections.abc import Iterable, Sequence

import numpy as np

from experiments import processes, scripts, store
from experiments.bench import measured, script_job

NAMES = (
    "vae", "dcgan", "distillation", "siamese", "metric_learning",
    "feature_space", "imbalanced", "text_transformer", "fine_tuning",
    "nested_logs", "own_loop", "lora",
)  # fmt: skip
# What a script adds.
OURS = {"fda_tf", "fda", "process_group", "sync", "trainer"}
COLUMNS = (
    "script", "lines", "of", "score alone", "score by two", "as alone",
    "synchronisations", "from the simulation",
)  # fmt: skip


def measure(name: str, folder: str) -> dict:
    """Returns the row of a script."""
    job = script_job.do, name, folder
    (alone,) = processes.call(*job, twin=True, timeout=900)
    found = processes.call(*job, workers=2, timeout=900)
    workers = [said["runs"] for said in found]
    scores = [run["score"] for run in alone["runs"]]
    by_two = [run["score"] for run in workers[0]]
    low, high = band(scores)
    twin, first = alone["twin"], workers[0][0]
    return {
        "script": name,
        "lines": lines(name),
        "alone": scores,
        "two": by_two,
        "within": low <= statistics.mean(by_two) <= high,
        "equal": all(map(same, zip(*workers, strict=True))),
        "syncs": first["syncs"],
        "twin_syncs": twin["syncs"],
        "twin_apart": apart(first["weights"], twin["weights"]),
    }


def band(scores: list[float]) -> tuple[float, float]:
    """Returns the range of some scores, wider by their sd at each end.

    Example:
      >>> band([1.0, 2.0, 3.0])
      (0.0, 4.0)
    """
    sd = statistics.stdev(scores)
    return min(scores) - sd, max(scores) + sd


def same(runs: Sequence[dict]) -> bool:
    """Returns whether workers have equal weights, bit for bit, and logs."""
    logs = {json.dumps(run["history"]) for run in runs}
    weights = [run["weights"] for run in runs]
    return len(logs) == 1 and not any(apart(weights[0], w) for w in weights)


def apart(file: str, other: str) -> float:
    """Returns the greatest distance between two runs' weights."""
    with np.load(file) as a, np.load(other) as b:
        return max(float(np.abs(a[k] - b[k]).max(initial=0)) for k in a)


def lines(name: str) -> tuple[int, int]:
    """Returns how many lines name something of fda_tf, and how many all are."""
    text = (pathlib.Path(scripts.__file__).parent / f"{name}.py").read_text()
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    named = {t.start[0] for t in tokens if t.string in OURS}
    code = {t.start[0] for t in tokens if t.string.strip()}
    return len(named), len(code)


def table(rows: Iterable[dict]) -> str:
    """Returns the rows as a table in Markdown."""
    head = [" | ".join(COLUMNS), "|".join("---" for _ in COLUMNS)]
    return "\n".join(f"| {line} |" for line in head + [_line(r) for r in rows])


def _line(row):
    """Returns the cells of a script's line."""
    apart, alone, two = row["twin_apart"], row["alone"], row["two"]
    cells = (
        f"[{row['script']}](../experiments/scripts/{row['script']}.py)",
        *row["lines"],
        f"{min(alone):.3f} to {max(alone):.3f}",
        f"{min(two):.3f} to {max(two):.3f}",
        "yes" if row["within"] else "no",
        row["syncs"],
        "0, bit for bit" if not apart else f"{apart:.1e}",
    )
    return " | ".join(map(str, cells))


def read(file: str | pathlib.Path) -> dict[str, dict]:
    """Returns script -> row of what has been measured, in the order above."""
    rows = {row["script"]: row for row in store.read(file)}
    return {name: rows[name] for name in NAMES if name in rows}


def main(options) -> None:
    """Measures what has no row yet; prints the table of all rows."""
    kept = store.Store(options.out, "script")
    for name in measured.chosen("only", options.only, NAMES):
        if {"script": name} not in kept:
            with tempfile.TemporaryDirectory() as folder:
                kept.add(measure(name, folder))
    print(table(read(options.out).values()))


if __name__ == "__main__":
    measured.command(
        main,
        out=("scripts.jsonl", "Of the rows: read, added to."),
        only=([], "Scripts; all by default."),
    )
