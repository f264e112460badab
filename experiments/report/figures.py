"""The table of figures: what an experiment's runs can show.

Each row of `FIGURES` makes figures of an experiment, or none when its runs do
not have what they need: a file of --summary has no curves.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import picture, published, style
from experiments.report import beside, costs, course
from experiments.report.cases import Case, Experiment, by_workers
from experiments.tasks import TASKS

Named = Iterator[tuple[str, Figure]]  # (end of the file's name, figure)
Theirs = Mapping[tuple, tuple[int, int]]  # of `experiments.published`


def title(experiment: Experiment) -> str:
    """What was trained, on whose data."""
    settings = experiment[0].settings
    more = {"independent": ", independent draws", "cluster": ", a cluster"}
    return (
        f"{TASKS[settings.task].title}, {settings.split}, "
        f"to {settings.target_accuracy:g}"
        + more.get(settings.sampling, "")
        + more.get(settings.backend, "")
    )


def _accuracy(x: str, experiment: Experiment) -> Named:
    for workers, found in by_workers(experiment).items():
        seen: list[str] = []
        curves = []
        for case in found:
            algorithm = case.settings.algorithm
            if case.typical.rows:
                curves += [
                    picture.Curve(
                        algorithm, run.rows,
                        case.text if run is case.typical else "",
                        seen.count(algorithm),
                    )
                    for run in case.runs
                    if run.rows
                ]  # fmt: skip
                seen.append(algorithm)
        if any(len(curve.points()) for curve in curves):
            target = found[0].settings.target_accuracy
            name = f"Accuracy against {x}, K = {workers}"
            yield f"K{workers}", picture.accuracy(curves, target, name, x)


def _clouds(experiment: Experiment) -> Named:
    found: dict[str, list] = {}
    for case in experiment:
        each = map(case.values, ("steps_to_target", "bytes_to_target"))
        pairs = [pair for pair in zip(*each, strict=True) if min(pair) > 0]
        if pairs:
            found.setdefault(case.settings.algorithm, []).extend(pairs)
    if sum(map(len, found.values())) > 1:
        points = {name: np.array(p, float) for name, p in found.items()}
        yield "", costs.clouds(points, "Cost of the target accuracy")


def _against(what: str, x: str, experiment: Experiment) -> Named:
    """Bytes or steps along theta or K."""
    lines: list[costs.Line] = []

    def add(text: str, group: list[Case], xs: list[float], dash: int) -> None:
        values = [case.values(what) for case in group]
        each = [(np.median(v), min(v), max(v)) for v in values]
        own = group[0].settings.algorithm
        lines.append(costs.Line(own, text, xs, np.array(each, float), dash))

    if x == "K":
        for text, group in _groups(experiment, what, lambda case: case.text):
            dash = [line.algorithm for line in lines].count(
                group[0].settings.algorithm
            )
            if len(group) > 1:
                add(text, group, [c.settings.workers for c in group], dash)
    for i, found in enumerate(
        by_workers(experiment).values() if x == "Θ" else ()
    ):
        # Of one K: level lines of what has no theta, then along theta.
        for case in found:
            theta = case.settings.theta
            if case.median(what) and (theta is None or isinstance(theta, str)):
                add(_text(case), [case], [np.nan], i)
        for text, group in _groups(found, what, _along_theta):
            if text and len(group) > 1:
                add(text, group, [case.settings.theta for case in group], i)
    if any(len(line.x) > 1 for line in lines):
        name, label = what.split("_")[0].capitalize(), _LABELS[what]
        x_label = {"K": "workers K"}.get(x, x) + " (log scale)"
        yield "", costs.against(lines, x_label, label, f"{name} against {x}")


def _text(case: Case) -> str:
    return f"{case.text}, K = {case.settings.workers}"


def _along_theta(case: Case) -> str:
    """What cases have in common that differ by a theta with a logarithm."""
    theta = case.settings.theta
    if theta is None or isinstance(theta, str) or not 0 < theta < np.inf:
        return ""
    return _text(case).replace(f", {style.theta(theta)}", "")


def _groups(
    cases: Iterable[Case], what: str, text: Callable[[Case], str]
) -> Iterable[tuple[str, list[Case]]]:
    """Text -> the cases that have it, of those that reached the target."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        if case.median(what):
            found.setdefault(text(case), []).append(case)
    return found.items()


_LABELS = {
    "bytes_to_target": "sent to the target, paper's formulas (log scale)",
    "steps_to_target": "in-parallel steps to the target (log scale)",
}


def _course(experiment: Experiment) -> Named:
    for workers, found in by_workers(experiment).items():
        runs: dict[str, list[course.Course]] = {}
        for case in found:
            run, algorithm = case.typical, case.settings.algorithm
            if np.isfinite(run.variance).any():
                own = run.variance, run.theta, run.syncs
                drawn = course.Course(algorithm, case.parameters, *own)
                runs.setdefault(algorithm, []).append(drawn)
        for algorithm, group in runs.items():
            name = f"{style.LOOKS[algorithm].name} over its steps"
            figure = course.course(group, f"{name}, K = {workers}")
            yield f"{algorithm}-K{workers}", figure


def _beside(experiment: Experiment, theirs: Theirs) -> Named:
    for workers, found in by_workers(experiment).items():
        pairs = compared(found, theirs)
        if pairs:
            name = f"To the target: ours beside theirs, K = {workers}"
            yield f"K{workers}", beside.beside(pairs, name)


def compared(experiment: Experiment, theirs: Theirs) -> list[beside.Pair]:
    """The cases that the authors published, with both numbers."""
    found = []
    for case in experiment:
        key, settings = published.key(vars(case.settings)), case.settings
        alike = published.as_theirs(vars(settings))
        ours = [case.values(f"{x}_to_target") for x in ("steps", "syncs")]
        known = alike and key in theirs and all(ours)
        # Ratios are drawn on a log scale.
        if not known or not all(map(min, ours)) or not all(theirs[key]):
            continue
        names = ("steps", "synchronisations")
        some = len(ours[0]) < len(case.runs)
        part = f", {len(ours[0])} of {len(case.runs)} seeds" if some else ""
        found.append(
            beside.Pair(
                case.settings.algorithm,
                f"{case.text}, K = {case.settings.workers}{part}",
                dict(zip(names, ours, strict=True)),
                dict(zip(names, theirs[key], strict=True)),
            )
        )
    return found


_SEEDS = (
    "A thick curve is the seed in the middle by bytes sent; thin ones are the "
    "other seeds."
)
_RANGE = "Medians over the seeds that reached the target, with their range."

# Name of the files, caption, experiment -> figures.
FIGURES = (
    ("accuracy-bytes", _SEEDS, functools.partial(_accuracy, "bytes")),
    ("accuracy-steps", _SEEDS, functools.partial(_accuracy, "steps")),
    (
        "clouds",
        "Each small marker is a run that reached the target, of all Θ, K and "
        "seeds; a large one is the geometric mean of its algorithm, and the "
        "shade holds three quarters of the density. Below and left is better.",
        _clouds,
    ),
    *(
        (
            f"{what}-{name}", _RANGE,
            functools.partial(_against, f"{what}_to_target", x),
        )
        for x, name in (("Θ", "theta"), ("K", "workers"))
        for what in ("bytes", "steps")
    ),
    (
        "course",
        "The monitor's estimate of the model variance after each step; models "
        "are averaged when it exceeds Θ (dashed). Each tick below is a "
        "synchronisation. SketchFDA's cascade estimates from above and looks "
        "closer near Θ: so it dips.",
        _course,
    ),
)  # fmt: skip
_BESIDE = (
    "Markers are medians over our seeds, lines their range; the authors "
    "published one run of each setting."
)


def draw(
    experiment: Experiment, theirs: Theirs
) -> Iterator[tuple[str, str, Any]]:
    """(name of its files, caption, figure) of all that can be drawn."""
    beside_theirs = functools.partial(_beside, theirs=theirs)
    for name, caption, make in (
        *FIGURES,
        ("published", _BESIDE, beside_theirs),
    ):
        for end, figure in make(experiment):
            yield "-".join(filter(None, [name, end])), caption, figure
