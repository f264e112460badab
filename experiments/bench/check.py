"""Has anything become slower? Fresh ratios against the committed ones.

  python -m experiments.bench.check            # some minutes
  python -m experiments.bench.check --quick    # under a minute: for CI
  python -m experiments.bench.check --update   # writes what it measures

A figure is what ours costs over what it is compared with, on the same machine
in the same minute: the sketch over the norm, what a check adds to a step over
the step. figures.json has what it was; at 1.5 times that it warns, at 3 times
it fails, with exit code 1. What is worse than the first limit is measured once
more, and the better one counts, since a machine may be busy for a moment; what
--update writes is the median of three.
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping

from experiments import processes, provenance
from experiments.bench import measured, startup

FIGURES = pathlib.Path(__file__).with_name("figures.json")
WARN, FAIL = 1.5, 3.0
COLUMNS = ("figure", "ratio", "committed", "times", "verdict")
_IMPORTS = f"""
import json, time
start = time.perf_counter()
import tensorflow
between = time.perf_counter()
{startup.FDA_TF}
end = time.perf_counter()
print(json.dumps((end - between) / (between - start)))
"""


def imports(quick: bool) -> dict[str, float]:
    """Importing fda_tf, after TensorFlow, over importing that."""
    command = [sys.executable, "-c", _IMPORTS]
    ratios = [processes.run(command)[0] for _ in range(2 if quick else 7)]
    return {"importing fda_tf/TensorFlow": statistics.median(ratios)}


def sketches(quick: bool) -> dict[str, float]:
    """The sketch over the norm; and over the scatter form, its rival."""
    import tensorflow as tf

    from experiments.bench import sketch

    found, repeats = {}, 15 if quick else 60
    norm = tf.function(lambda v: tf.reduce_sum(v * v), jit_compile=True)
    for size in (10**6,) if quick else (61_706, 10**6, 2 * 10**7):
        vector = tf.random.stateless_normal([size], [0, 0])
        made = tf.function(sketch.AMSSketch(size).sketch)
        ours, theirs = sketch.time_pairs(
            lambda made=made, vector=vector: made(vector),
            lambda vector=vector: norm(vector),
            repeats,
        )
        found[f"sketch/norm, d={size}"] = statistics.median(ours / theirs)
        if size == 10**6 and not quick:
            scatter, _ = sketch.scatter_sketch(size)
            ours, theirs = sketch.time_pairs(
                lambda made=made, vector=vector: made(vector),
                lambda scatter=scatter, vector=vector: scatter(vector),
                repeats // 6,
            )
            found["sketch/scatter"] = statistics.median(ours / theirs)
    return found


def simulation(quick: bool) -> dict[str, float]:
    """A worker-step of the simulation over a step of a model alone."""
    flagged = ["--workers=5", "--repeats=3", "--block_seconds=0.5"]
    if not quick:
        flagged = ["--workers=5,10,60", "--repeats=5", "--block_seconds=2"]
    return {
        f"simulation/step, K={row['workers']}": 1 / row["ratio_to_single_step"]
        for row in processes.result("simulation", *flagged)["rows"]
    }


def checks(quick: bool) -> dict[str, float]:
    """What a check adds to a step, over the step, 2 processes."""
    flagged = ["--pairs=15", "--steps=100"]
    kinds = ["linear", "sketch"]
    if quick:
        flagged = ["--pairs=5", "--steps=60"]
    else:
        kinds += ["naive", "sketch:cascade=False", "sketch:check_every=16"]
    flagged += [f"--only={kind}:theta=1e30" for kind in kinds]
    return {
        f"a check, {row['kind'].removesuffix(':theta=1e30')}/local step": row[
            "ratio"
        ]
        - 1
        for row in processes.result("overhead", *flagged)["rows"]
    }


def synchronisations(quick: bool) -> dict[str, float]:
    """A synchronisation over a bare all-reduce of as many bytes."""
    models = "1e6x10" if quick else "1e6x10,1e6x600"
    flagged = [f"--models={models}", f"--repeats={5 if quick else 9}"]
    kinds = ("synchronisation", "all-reduce")
    flagged += [f"--only={kind}" for kind in kinds]
    rows = processes.result("exchange", *flagged)["rows"]
    ms = {(row["kind"], row["tensors"]): row["all_ms"] for row in rows}

    def over(ours, theirs):
        pairs = zip(ms[ours], ms[theirs], strict=True)
        return measured.ratio(list(pairs))["ratio"]

    return {
        f"synchronisation/all-reduce, {n} tensors": over(
            *((kind, n) for kind in kinds)
        )
        for n in ((10,) if quick else (10, 600))
    }


MEASUREMENTS: dict[str, Callable[[bool], dict[str, float]]] = {
    "imports": imports,
    "sketches": sketches,
    "simulation": simulation,
    "checks": checks,
    "synchronisations": synchronisations,
}


def verdict(times: float | None) -> str:
    """Returns what is said of a figure that is so many times the committed one.

    Example:
      >>> verdict(1.2), verdict(1.6), verdict(3.5), verdict(None)
      ('ok', 'WARNING', 'FAILURE', 'new')
    """
    if times is None:
        return "new"
    if times > FAIL or times != times:
        return "FAILURE"
    return "WARNING" if times > WARN else "ok"


def compare(
    fresh: Mapping[str, float], committed: Mapping[str, float]
) -> list[dict]:
    """Returns a row for each fresh figure: itself, what it was, the verdict."""
    rows = []
    for name, ratio in fresh.items():
        was = committed.get(name)
        times = ratio / was if was else None
        row = (name, ratio, was, times, verdict(times))
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def measure(
    names: list[str], quick: bool, committed: Mapping[str, float]
) -> dict[str, float]:
    """Returns the fresh figures, each the better of two if it looks bad."""
    fresh: dict[str, float] = {}
    for name in names:
        found = MEASUREMENTS[name](quick)
        rows = compare(found, committed)
        if any(row["verdict"] in ("WARNING", "FAILURE") for row in rows):
            again = MEASUREMENTS[name](quick)
            found = {key: min(found[key], again[key]) for key in found}
        fresh |= found
    return fresh


def main(options) -> None:
    """Measures; prints the figures beside the committed ones, then JSON."""
    names = measured.chosen("only", options.only, MEASUREMENTS)
    form, kept = "quick" if options.quick else "full", {}
    if FIGURES.exists():
        kept = json.loads(FIGURES.read_text(encoding="utf-8"))
    committed = kept.get(form, {})
    if not committed and not options.update:
        sys.exit(f"{FIGURES.name} has no {form} figures: --update writes them.")
    if options.update:
        runs = [measure(names, options.quick, {}) for _ in range(3)]
        fresh = {n: statistics.median(run[n] for run in runs) for n in runs[0]}
        kept[form] = committed | {n: round(r, 4) for n, r in fresh.items()}
        text = json.dumps(kept | {"machine": provenance.machine()}, indent=1)
        FIGURES.write_text(text + "\n", encoding="utf-8")
    else:
        fresh = measure(names, options.quick, committed)
    rows = compare(fresh, committed)
    measured.show(rows, COLUMNS, options)
    failed = [row["figure"] for row in rows if row["verdict"] == "FAILURE"]
    if failed and not options.update:
        sys.exit(
            f"{', '.join(failed)}: more than {FAIL:g} times what is committed "
            f"in {FIGURES.name}. Mend it, or say why and run with --update."
        )


FLAGS = {
    "quick": (False, "Fewer figures and repeats."),
    "update": (False, "Write figures.json."),
    "only": ((), "A measurement; by default all."),
}

if __name__ == "__main__":
    measured.command(main, **FLAGS)
