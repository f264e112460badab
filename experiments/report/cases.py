"""Runs in order: experiments, their cases, and each case's seeds.

An experiment is what can be compared: the same task, split, target and
batches. A case is one algorithm with its settings and K; its runs differ by
their seeds only.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from experiments import style
from experiments.config import Settings
from experiments.report.loading import Run

_COMMON = (
    "task", "split", "batch_size", "sampling", "target_accuracy", "backend",
)  # fmt: skip
# What tells the cases of an algorithm apart, as texts write it.
_PARAMETERS: Mapping[str, Callable[[float], str]] = {
    "theta": style.theta,
    "interval": lambda steps: f"H = {steps}",
    "local_epochs": lambda epochs: f"E = {epochs}" if epochs > 1 else "",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Runs that differ by their seeds only."""

    settings: Settings  # of the first of them
    runs: Sequence[Run]  # by ascending seed
    text: str  # name and parameters, unique among those with the same K

    @property
    def parameters(self) -> str:
        """The text without the algorithm's name."""
        name = style.LOOKS[self.settings.algorithm].name
        return self.text.removeprefix(name).removeprefix(", ")

    def values(self, what: str) -> list[float]:
        """A value of the summary, of each seed that reached the target."""
        return [r.summary[what] for r in self.runs if r.summary["reached"]]

    def median(self, what: str) -> float | None:
        """The median over the seeds that reached the target, if any did."""
        values = self.values(what)
        return statistics.median(values) if values else None

    @property
    def typical(self) -> Run:
        """The seed in the middle by bytes sent until its end."""
        runs = sorted(self.runs, key=lambda r: r.summary["total_bytes"])
        return runs[(len(runs) - 1) // 2]


Experiment = Sequence[Case]


def experiments(runs: Iterable[Run]) -> list[Experiment]:
    """Groups the runs; algorithms come in the order of `style.LOOKS`."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        key = tuple(getattr(run.settings, name) for name in _COMMON)
        groups.setdefault(key, []).append(run)
    return [_cases(groups[key]) for key in sorted(groups, key=str)]


def _cases(runs: Iterable[Run]) -> Experiment:
    groups: dict[Settings, list[Run]] = {}
    for run in sorted(runs, key=_order):
        key = dataclasses.replace(run.settings, seed=0)
        groups.setdefault(key, []).append(run)
    return [
        Case(found[0].settings, found, _text(settings, list(groups)))
        for settings, found in groups.items()
    ]


def _order(run: Run) -> tuple:
    s = run.settings
    place = list(style.LOOKS).index(s.algorithm)
    theta = math.inf if isinstance(s.theta, str) else s.theta or 0
    return s.workers, place, theta, s.interval or 0, str(s)


def _text(settings: Settings, others: Sequence[Settings]) -> str:
    """Name and parameters, and what else it takes to tell it from others."""
    text = _short_text(settings)
    alike = [
        other
        for other in others
        if _short_text(other) == text and other.workers == settings.workers
    ]
    differ = [
        field.name
        for field in dataclasses.fields(Settings)
        if len({getattr(other, field.name) for other in alike}) > 1
    ]
    more = [f"{n.replace('_', ' ')} {getattr(settings, n)}" for n in differ]
    return ", ".join([text, *more])


def _short_text(settings: Settings) -> str:
    parts = [style.LOOKS[settings.algorithm].name]
    for name, write in _PARAMETERS.items():
        value = getattr(settings, name)
        if value is not None:
            parts.append(write(value))
    return ", ".join(filter(None, parts))


def by_workers(experiment: Experiment) -> dict[int, list[Case]]:
    """K -> its cases."""
    found: dict[int, list[Case]] = {}
    for case in experiment:
        found.setdefault(case.settings.workers, []).append(case)
    return found


def times_fewer(
    case: Case, experiment: Experiment, rival: str
) -> tuple[float, Case] | None:
    """How many times fewer bytes to the target than an algorithm sent.

    Of several cases of it with the same K, the one that sent least counts.
    """
    own = case.median("bytes_to_target")
    rivals = [
        other
        for other in experiment
        if other.settings.algorithm == rival
        and other.settings.workers == case.settings.workers
        and other.median("bytes_to_target") is not None
    ]
    if not own or not rivals or case.settings.algorithm == rival:
        return None
    best = min(rivals, key=lambda other: other.median("bytes_to_target"))
    return best.median("bytes_to_target") / own, best
