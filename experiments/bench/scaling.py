"""How costs grow: with parameters, processes, simulated workers and tensors.

  python -m experiments.bench.scaling --out=DIR

Each point is a benchmark in processes of its own; what it printed is a line
of DIR/parts.jsonl, and is not measured again while that is there.

  size       what a check computes on one worker, d from 1e5 to 2e8
  bytes      a synchronisation and a bare all-reduce, d from 1e5 to 5e7
  workers    a check and a synchronisation, LeNet-5's size, 2 to 8 processes
  simulated  a worker-step of LeNet-5, up to 1,000 workers in one process
  tensors    a check and a synchronisation, the same d in 10 to 600 tensors

A line or a power law is fitted to each (fits.py), and drawn: --pictures is
the folder. With --constants, what costs.py reads is written to that file, and
with it the mean intervals of the published runs (--published, a CSV with a row
for each); without the CSV, those that are there stay.
"""

import json
import pathlib
import statistics
from collections import defaultdict

from experiments import processes, provenance, store
from experiments.bench import fits, measured

KINDS = ("check, linear", "check, sketch", "check, cascade", "synchronisation")
COLUMNS = ("part", "of", "against", "a", "b", "residual", "p", "p_residual")
# The most of the published runs' checks whose norm was above theta.
SHARE_ABOVE = 0.27


def _exchange(workers: int, model: str, *kinds: str) -> tuple[str, ...]:
    flagged = [f"--only={kind}" for kind in kinds]
    return ("exchange", f"--workers={workers}", f"--models={model}", *flagged)


# Each is a benchmark and its flags; what it printed is kept at once.
PARTS = {
    "size": [
        ("states", f"--sizes={d}") for d in ("1e5", "1e6", "1e7", "1e8", "2e8")
    ],
    "bytes": [
        _exchange(2, f"{d}x10", "synchronisation", "all-reduce")
        for d in ("1e5", "1e6", "1e7", "5e7")
    ],
    "workers": [_exchange(k, "61706x10", *KINDS) for k in (2, 3, 4, 6, 8)],
    "simulated": [
        ("simulation", f"--workers={k}", "--repeats=5")
        for k in (10, 30, 100, 300, 1000)
    ],
    "tensors": [
        _exchange(
            2, f"1e6x{n}", "check, linear", "synchronisation", "all-reduce"
        )
        for n in (10, 60, 200, 600)
    ],
}


def measure(part: str, kept: store.Store) -> list[dict]:
    """Returns the rows of a part: as they are in the store, or measured."""
    rows = []
    for command in PARTS[part]:
        key = {"of": " ".join(command)}
        if key not in kept:
            kept.add(processes.result(*command) | key)
        rows += kept[key]["rows"]
    return rows


def series(part: str, rows: list[dict]) -> dict[str, list[tuple]]:
    """Returns name -> (x, seconds, least, most) of each point, x going up."""
    found = defaultdict(list)
    for row in rows:
        if part == "simulated":
            rates = row["worker_steps_per_second_quartiles"]
            point = (row["workers"], 1 / row["worker_steps_per_second"])
            point += (1 / rates[1], 1 / rates[0])
            name = "worker-step"
        else:
            x = {"workers": "workers", "tensors": "tensors"}.get(part, "d")
            ms = [row["ms"], *row["ms_interval"]]
            point = (row[x], *(v / 1e3 for v in ms))
            name = row["monitor" if part == "size" else "kind"]
        found[name].append(point)
    base = {"size": "norm", "workers": "all-reduce of one float"}.get(part)
    if base:  # measured beside each: the median over all that it was beside
        beside = defaultdict(list)
        for row in rows:
            x = row["d" if part == "size" else "workers"]
            key = "norm_ms" if part == "size" else "float_ms"
            beside[x].append(row[key] / 1e3)
        found[base] = [
            (x, statistics.median(v), min(v), max(v)) for x, v in beside.items()
        ]
    return {name: sorted(points) for name, points in found.items()}


def fit(part: str, points: list[tuple]) -> dict:
    """Returns the line a + b x and the power law of a series.

    For processes x is the hops of a ring, 2 (K-1); else what it is drawn
    against. a and b are seconds.
    """
    x = [2 * (p[0] - 1) if part == "workers" else p[0] for p in points]
    y = [p[1] for p in points]
    law = fits.power(x, y)
    return fits.line(x, y) | {
        "c": law["c"],
        "p": law["p"],
        "p_residual": law["residual"],
    }


def constants(fitted: dict, intervals: list[dict]) -> dict:
    """Returns what costs.py reads."""
    ring = fitted["workers"]["all-reduce of one float"]
    bare = fitted["bytes"]["all-reduce"]["b"]  # seconds a parameter
    ours = fitted["bytes"]["synchronisation"]["b"]
    monitors = ("linear", "sketch, whole", "cascade, quiet")
    states = {
        name: {key: fitted["size"][name][key] for key in "ab"}
        for name in monitors
    }
    return {
        "collective": {
            "start": ring["a"],
            "hop": ring["b"],
            "byte": bare / 4,  # two workers send each byte once
        },
        "synchronisation": {"parameter": max(0.0, ours - bare)},
        # Naive reads the model and w_0.
        "state": states
        | {"bytes_per_second": 8 / fitted["size"]["naive"]["b"]},
        "share_above": SHARE_ABOVE,
        "intervals": intervals,
        "machine": provenance.machine(),
    }


def published(path: str) -> list[dict]:
    """Returns the mean intervals between synchronisations of published runs.

    Of runs that reached their target: [least, median, most] of each model and
    monitor; and the steps they took, over Synchronous' to the same target with
    the same schedule of the learning rate, where neither had dropped it yet:
    a drop that comes by the epoch would decide who is first.
    """
    runs = [row for row in store.read_csv(path) if row["reached"] == "1"]
    alike = (
        "model", "K", "distribution", "target", "lr_schedule",
        "hit_after_lr_drop",
    )  # fmt: skip
    synchronous = {
        tuple(run[name] for name in alike): int(run["steps"])
        for run in runs
        if run["strategy"] == "synchronous" and run["hit_after_lr_drop"] == "0"
    }
    rows: dict = {}
    for run in runs:
        monitor, syncs = run["strategy"], int(run["syncs_completed"])
        if monitor not in ("linear", "sketch") or not syncs:
            continue
        row = rows.setdefault(
            run["model"],
            {"model": run["model"], "d": int(run["d"])}
            | {name: [] for name in ("linear", "sketch", "steps")},
        )
        row[monitor].append(int(run["steps"]) / syncs)
        least = synchronous.get(tuple(run[name] for name in alike))
        if least:
            row["steps"].append(int(run["steps"]) / least)
    for row in rows.values():
        for name in ("linear", "sketch", "steps"):
            values = row[name]
            row[name] = (
                [round(f(values), 2) for f in (min, statistics.median, max)]
                if values
                else None
            )
    return sorted(rows.values(), key=lambda row: row["d"])


def main(options) -> None:
    """Measures, fits and draws; prints the fits, then JSON."""
    from experiments.bench import scaling_picture

    wanted = measured.chosen("part", options.part, PARTS)
    folder = pathlib.Path(options.out)
    kept = store.Store(folder / "parts.jsonl", "of")
    fitted: dict = {}
    for part in wanted:
        found = series(part, measure(part, kept))
        fitted[part] = {name: fit(part, found[name]) for name in found}
        path = pathlib.Path(options.pictures or folder) / f"scaling_{part}.png"
        scaling_picture.draw(part, found, fitted[part], path)
    if options.constants:
        _write_constants(fitted, options)
    axis = {"workers": "2 (K-1)", "simulated": "K", "tensors": "tensors"}
    rows = [
        {"part": part, "of": name, "against": axis.get(part, "d")} | line
        for part, lines in fitted.items()
        for name, line in lines.items()
    ]
    measured.show(rows, COLUMNS, options)


def _write_constants(fitted, options):
    missing = {"size", "bytes", "workers"} - set(fitted)
    if missing:
        raise ValueError(
            f"--constants needs the parts {', '.join(sorted(missing))}, too."
        )
    file = pathlib.Path(options.constants)
    if options.published:
        intervals = published(options.published)
    elif file.exists():
        intervals = json.loads(file.read_text(encoding="utf-8"))["intervals"]
    else:
        raise ValueError(
            "--constants: a new file needs --published=CSV, the intervals of "
            "the published runs."
        )
    text = json.dumps(constants(fitted, intervals), indent=1)
    file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    measured.command(
        main,
        out=("scaling", "Folder for what was measured."),
        pictures=(str, "Folder for pictures; default: --out."),
        constants=(str, "File to write the constants to."),
        published=(str, "CSV of the authors' published runs."),
        part=((), "A part to measure; by default all."),
    )
