"""The words and tables of a report: what an experiment's runs come to."""

from collections.abc import Sequence

from experiments import show, style
from experiments.report import figures
from experiments.report.beside import Pair
from experiments.report.cases import Case, Experiment, times_fewer
from experiments.report.loading import Run
from experiments.report.page import Table

RIVALS = ("synchronous", "fedavgm", "fedadam", "local_sgd")
FDA = ("linear", "sketch", "naive", "exact", "max")


def lead(experiment: Experiment) -> str:
    """What FDA saved, of the case that saved most and never failed."""
    target = experiment[0].settings.target_accuracy
    found = [
        (*saved, case)
        for case in experiment
        if case.settings.algorithm in FDA
        and all(run.summary["reached"] for run in case.runs)
        and (saved := times_fewer(case, experiment, "synchronous"))
    ]
    if not found:
        return f"What it took to pass a test accuracy of {target:g}."
    times, rival, case = max(found, key=lambda triple: triple[0])
    steps = case.median("steps_to_target") / rival.median("steps_to_target")
    seeds = len(case.runs)
    return (
        f"To pass a test accuracy of {target:g}, {case.text} on "
        f"{case.settings.workers} workers sent {times:.3g} times fewer bytes "
        f"than synchronous training, and took {steps:.2f} times its steps "
        f"({f'medians over {seeds} seeds' if seeds > 1 else 'one seed'})."
    )


def facts(experiment: Experiment) -> str:
    """Small print: what all the runs have in common."""
    settings = experiment[0].settings
    runs = [run for case in experiment for run in case.runs]
    batches = {"passes": "shuffled passes", "independent": "independent draws"}
    parts = [
        f"{len(runs)} runs",
        f"split {settings.split}",
        f"batch {settings.batch_size}, {batches[settings.sampling]}",
        f"{settings.backend} workers",
        *_origin(runs),
    ]
    return "; ".join(parts) + ". Bytes are states and models of all workers."


def _origin(runs: Sequence[Run]) -> list[str]:
    """Commits and versions, if folders say them."""
    commits = {
        str(run.about["git_commit"])[:10]
        for run in runs
        if run.about.get("git_commit")
    }
    versions = {
        f"{name} {version}"
        for run in runs
        for name, version in (run.about.get("versions") or {}).items()
        if name in ("tensorflow", "keras") and version
    }
    found = [", ".join(sorted(versions))] if versions else []
    if commits:
        found.append(f"commit {', '.join(sorted(commits))}")
    return found


def runs_table(experiment: Experiment) -> Table:
    """A row per case: what it took, and how many times fewer bytes."""
    rivals = [
        rival
        for rival in RIVALS
        if any(times_fewer(case, experiment, rival) for case in experiment)
    ]
    columns = [
        "algorithm", "K", "seeds\nreached", "accuracy\nbest", "steps",
        "syncs", "sent\npaper's formulas", "on the wire\nring all-reduce",
        *(f"times fewer than\n{style.LOOKS[r].name}" for r in rivals),
    ]  # fmt: skip
    rows = [_row(case, experiment, rivals) for case in experiment]
    return Table(
        columns,
        rows,
        "What it took to pass the target: medians over the seeds that did, "
        "with the smallest and the largest.",
    )


def _row(
    case: Case, experiment: Experiment, rivals: Sequence[str]
) -> list[str]:
    best = [run.summary["best_accuracy"] for run in case.runs]
    name = style.LOOKS[case.settings.algorithm].name
    return [
        f"{name}\n{case.parameters}",
        str(case.settings.workers),
        f"{len(case.values('steps_to_target'))} of {len(case.runs)}",
        f"{sorted(best)[len(best) // 2]:.4f}",
        _ranged(case, "steps_to_target"),
        _ranged(case, "syncs_to_target"),
        _ranged(case, "bytes_to_target", bytes_=True),
        _ranged(case, "wire_bytes_to_target", bytes_=True),
        *(_times(case, experiment, rival) for rival in rivals),
    ]


def _ranged(case: Case, what: str, bytes_: bool = False) -> str:
    """The median and, on a line of its own, the range."""
    values = case.values(what)
    if not values:
        return "not reached" if what == "steps_to_target" else "-"
    write = show.readable_bytes if bytes_ else "{:,.0f}".format
    text = write(case.median(what))
    low, high = write(min(values)), write(max(values))
    return text if low == high else f"{text}\n{low} to {high}"


def _times(case: Case, experiment: Experiment, rival: str) -> str:
    found = times_fewer(case, experiment, rival)
    if found is None:
        return "-"
    times, other = found
    return f"{times:.3g}\u00d7\n{other.parameters}"


def published_table(pairs: Sequence[Pair]) -> Table:
    """Ours beside theirs: steps and synchronisations to the target."""
    names = list(pairs[0].theirs)
    columns = ["setting", "our seeds"]
    for name in names:
        columns += [f"{name}\npublished", f"{name}\nours", "ratio"]
    rows = []
    for pair in pairs:
        row = [pair.text, str(len(pair.ours[names[0]]))]
        for name in names:
            middle, low, high = pair.ratios(name)
            theirs = pair.theirs[name]
            ours = f"{middle * theirs:,.0f}"
            if low < high:
                ours += f"\n{low * theirs:,.0f} to {high * theirs:,.0f}"
            row += [f"{theirs:,.0f}", ours, f"{middle:.2f}"]
        rows.append(row)
    return Table(
        columns, rows, "Beside the authors' published runs, one per setting."
    )


def tables(experiment: Experiment, theirs: figures.Theirs) -> list[Table]:
    """The tables of a section."""
    pairs = figures.compared(experiment, theirs)
    found = [runs_table(experiment)]
    return found + [published_table(pairs)] if pairs else found
