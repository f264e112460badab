"""The table of figures: what an experiment's runs can show.

Each row of `FIGURES` makes figures of an experiment, or none when its runs do
not have what they need: a summary CSV has no curves.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import picture, published, style
from experiments.report import beside, costs, course
from experiments.report.cases import Case, Experiment, by_workers
from experiments.tasks import TASKS

Named = Iterator[tuple[str, Figure]]  # (end of the file's name, figure)
Theirs = Mapping[tuple, tuple[int, int]]  # of `experiments.published`


@dataclasses.dataclass(frozen=True)
class Plot:
    """A row of the table.

    Attributes:
        name: of its files.
        caption: what a reader should know; whole sentences.
        draw: (experiment, published runs) -> figures.
    """

    name: str
    caption: str
    draw: Callable[[Experiment, Theirs], Named]


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


def _accuracy(x: str) -> Callable[[Experiment, Theirs], Named]:
    def draw(experiment: Experiment, _: Theirs) -> Named:
        for workers, found in by_workers(experiment).items():
            drawn = [case for case in found if case.typical.rows]
            if not drawn:
                continue
            curves = [
                picture.Curve(
                    case.settings.algorithm, run.rows,
                    case.text if run is case.typical else "",
                    _place(case, drawn),
                )
                for case in drawn
                for run in case.runs
                if run.rows
            ]  # fmt: skip
            if any(len(curve.points()) for curve in curves):
                yield (
                    f"K{workers}",
                    picture.accuracy(
                        curves,
                        found[0].settings.target_accuracy,
                        f"Accuracy against {x}, K = {workers}",
                        x,
                    ),
                )

    return draw


def _place(case: Case, among: list[Case]) -> int:
    """Which of its algorithm's cases it is."""
    own = case.settings.algorithm
    return [c for c in among if c.settings.algorithm == own].index(case)


def _clouds(experiment: Experiment, _: Theirs) -> Named:
    found: dict[str, list] = {}
    for case in experiment:
        pairs = zip(
            case.values("steps_to_target"),
            case.values("bytes_to_target"),
            strict=True,
        )
        pairs = [pair for pair in pairs if min(pair) > 0]
        if pairs:
            found.setdefault(case.settings.algorithm, []).extend(pairs)
    if sum(map(len, found.values())) > 1:
        points = {name: np.array(p, float) for name, p in found.items()}
        yield "", costs.clouds(points, "Cost of the target accuracy")


_COSTS = {
    "bytes_to_target": (
        "Bytes",
        "sent to the target, paper's formulas (log scale)",
    ),
    "steps_to_target": ("Steps", "in-parallel steps to the target (log scale)"),
}


def _against_theta(what: str) -> Callable[[Experiment, Theirs], Named]:
    def draw(experiment: Experiment, _: Theirs) -> Named:
        groups = by_workers(experiment).values()
        lines = [
            line
            for i, found in enumerate(groups)
            for line in _theta_lines(found, what, i)
        ]
        if any(len(line.x) > 1 for line in lines):
            yield "", _costs(lines, what, "Θ")

    return draw


def _theta_lines(found: list[Case], what: str, dash: int) -> list[costs.Line]:
    """The cases of one K: along theta, or level if they have none."""
    level, rows = [], {}
    for case in found:
        theta, workers = case.settings.theta, case.settings.workers
        text = f"{case.text}, K = {workers}"
        if not case.median(what):
            continue
        if theta is None or isinstance(theta, str):
            cost = _spread([case], what)
            level.append(
                costs.Line(case.settings.algorithm, text, [np.nan], cost, dash)
            )
        elif 0 < theta < np.inf:
            text = text.replace(f", {style.theta(theta)}", "")
            rows.setdefault(text, []).append(case)
    return level + [
        costs.Line(
            group[0].settings.algorithm, text,
            [case.settings.theta for case in group],
            _spread(group, what), dash,
        )
        for text, group in rows.items()
        if len(group) > 1
    ]  # fmt: skip


def _against_workers(what: str) -> Callable[[Experiment, Theirs], Named]:
    def draw(experiment: Experiment, _: Theirs) -> Named:
        rows: dict[str, list[Case]] = {}
        for case in experiment:
            if case.median(what):
                rows.setdefault(case.text, []).append(case)
        lines, seen = [], []
        for text, group in rows.items():
            if len(group) > 1:
                algorithm = group[0].settings.algorithm
                lines.append(
                    costs.Line(
                        algorithm, text,
                        [case.settings.workers for case in group],
                        _spread(group, what), seen.count(algorithm),
                    )
                )  # fmt: skip
                seen.append(algorithm)
        if lines:
            yield "", _costs(lines, what, "K")

    return draw


def _costs(lines: list[costs.Line], what: str, x: str) -> Figure:
    name, label = _COSTS[what]
    x_label = {"K": "workers K (log scale)"}.get(x, f"{x} (log scale)")
    return costs.against(lines, x_label, label, f"{name} against {x}")


def _spread(group: list[Case], what: str) -> np.ndarray:
    values = [case.values(what) for case in group]
    return np.array([(np.median(v), min(v), max(v)) for v in values], float)


def _course(experiment: Experiment, _: Theirs) -> Named:
    for workers, found in by_workers(experiment).items():
        runs: dict[str, list[course.Course]] = {}
        for case in found:
            run, algorithm = case.typical, case.settings.algorithm
            if np.isfinite(run.variance).any():
                runs.setdefault(algorithm, []).append(
                    course.Course(
                        algorithm, case.parameters, run.variance, run.theta,
                        run.syncs,
                    )
                )  # fmt: skip
        for algorithm, group in runs.items():
            name = style.LOOKS[algorithm].name
            yield (
                f"{algorithm}-K{workers}",
                course.course(group, f"{name} over its steps, K = {workers}"),
            )


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

FIGURES = (
    Plot("accuracy-bytes", _SEEDS, _accuracy("bytes")),
    Plot("accuracy-steps", _SEEDS, _accuracy("steps")),
    Plot(
        "clouds",
        "Each small marker is a run that reached the target, of all Θ, K and "
        "seeds; a large one is the geometric mean of its algorithm, and the "
        "shade holds three quarters of the density. Below and left is better.",
        _clouds,
    ),
    Plot("bytes-theta", _RANGE, _against_theta("bytes_to_target")),
    Plot("steps-theta", _RANGE, _against_theta("steps_to_target")),
    Plot("bytes-workers", _RANGE, _against_workers("bytes_to_target")),
    Plot("steps-workers", _RANGE, _against_workers("steps_to_target")),
    Plot(
        "course",
        "The monitor's estimate of the model variance after each step; models "
        "are averaged when it exceeds Θ (dashed). Each tick below is a "
        "synchronisation. SketchFDA's cascade estimates from above and looks "
        "closer near Θ: so it dips.",
        _course,
    ),
    Plot(
        "published",
        "Markers are medians over our seeds, lines their range; the authors "
        "published one run of each setting.",
        _beside,
    ),
)


def draw(
    experiment: Experiment, theirs: Theirs
) -> Iterator[tuple[str, str, Any]]:
    """(name of its files, caption, figure) of all that can be drawn."""
    for plot in FIGURES:
        for end, figure in plot.draw(experiment, theirs):
            yield "-".join(filter(None, [plot.name, end])), plot.caption, figure
