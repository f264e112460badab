"""From flags to runs: their settings, checked, and their names.

`plan` turns the values of the flags into one `Settings` per algorithm, and
says which of the flags none of them reads; `settings` makes one of a text.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.algorithms import ALGORITHMS, PARAMETERS, check, known, parse
from experiments.tasks import TASKS

BACKENDS = ("simulated", "cluster")
WEIGHTS = ("imagenet", "none")
STATISTICS = ("local", "average")
SAMPLINGS = ("passes", "independent")
# What a run is without flags, and the task and the algorithm do not say.
DEFAULTS = {
    "task": "lenet5_mnist5000", "workers": 5, "stop": True, "seed": 0,
    "algorithm": ["synchronous", "linear", "sketch"],
    "sampling": SAMPLINGS[0], "backend": BACKENDS[0],
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that makes a run what it is; None where it is not used."""

    task: str
    algorithm: str
    workers: int
    split: str
    batch_size: int
    sampling: str
    epochs: int
    steps: int | None
    target_accuracy: float
    stop: bool
    seed: int
    backend: str
    learning_rate: float
    theta: float | str | None = None
    sketch_depth: int | None = None
    sketch_width: int | None = None
    interval: int | None = None
    local_epochs: int | None = None
    server_learning_rate: float | None = None
    weights: str | None = None
    statistics: str | None = None
    check_every: int | None = None
    max_interval: int | None = None
    overlap: bool | None = None
    cascade: bool | None = None
    change_every: int | None = None
    synchronous_steps: int | None = None
    server: str | None = None
    server_momentum: float | None = None
    mu: float | None = None
    compression: str | None = None

    @property
    def run_id(self) -> str:
        """Name of the run's folder: readable, different for all settings."""
        fields = [self.task, self.algorithm]
        fields += [
            f"{_KEYS.get(name, name)}{short(getattr(self, name))}"
            for name in _ORDER
            if getattr(self, name) is not None
        ]
        fields.append("to" if self.stop else "nostop")
        fields[-1] += repr(self.target_accuracy)
        return "-".join([*fields, f"seed{self.seed}", self.backend])

    @property
    def text(self) -> str:
        """The algorithm in the grammar, with what is not as usual.

        Example:
            >>> settings("linear:check_every=1:theta=3").text
            'linear:check_every=1'
        """
        own = [
            f"{name}={getattr(self, name)}"
            for name in PARAMETERS
            if getattr(self, name) != usual(self.algorithm, self.task, name)
        ]
        return ":".join([self.algorithm, *own])


# What RUN_ID calls the settings that it does not call by their name.
_KEYS = {
    "sketch_depth": "depth", "sketch_width": "width", "interval": "every",
    "local_epochs": "local", "server_learning_rate": "server",
    "learning_rate": "lr", "workers": "K", "split": "", "batch_size": "b",
    "sampling": "", "epochs": "e", "steps": "max", "server": "by",
}  # fmt: skip
_ORDER = (
    "theta", "sketch_depth", "sketch_width", "interval", "local_epochs",
    "server_learning_rate", "learning_rate", "workers", "split", "batch_size",
    "sampling", "epochs", "steps", "weights", "statistics",
)  # fmt: skip
_ORDER += tuple(name for name in PARAMETERS if name not in _ORDER)


def short(value: object) -> str:
    """A value in a file name; repr keeps theta 1.25 and 12.5 apart."""
    text = value if isinstance(value, str) else repr(value)
    text = re.sub(r"^([a-z]+):", r"\1", text)  # sorted:0.6 -> sorted0.6
    # The minus of 1e-05 stays: no field of RUN_ID begins with a digit.
    unfit = r"[^\w.,+-]|(?<!\de)-"
    return re.sub(unfit, lambda m: f"%{ord(m[0]):02x}", text)


# The flags that only some algorithms read.
SPECIAL = sorted(PARAMETERS.keys() - {"learning_rate"})


def names(runs: Iterable[Settings]) -> list[str]:
    """What to call runs: by their algorithms, in full where two are alike."""
    runs = list(runs)
    each = [run.algorithm for run in runs]
    return [
        run.algorithm if each.count(run.algorithm) == 1 else run.text
        for run in runs
    ]


def plan(flags: Mapping[str, Any]) -> tuple[list[Settings], list[str]]:
    """One `Settings` per algorithm of the list, checked.

    Args:
        flags: name -> value; None where the task or algorithm decides. What
            an algorithm's text says goes before them.

    Returns:
        (settings, names of the flags given that no algorithm uses).

    Raises:
        ValueError: an unknown name or a value out of its range.

    Example:
        >>> flags = DEFAULTS | {"algorithm": ["linear"], "interval": 3}
        >>> runs, unused = plan(flags)
        >>> runs[0].theta, unused
        (3.0, ['interval'])
    """
    known("--task", flags["task"], TASKS)
    if not flags["algorithm"]:
        raise ValueError(
            f"--algorithm is empty; choose from {', '.join(ALGORITHMS)}"
        )
    parsed = [parse(text) for text in flags["algorithm"]]
    known("--sampling", flags["sampling"], SAMPLINGS)
    known("--backend", flags["backend"], BACKENDS)
    _check_choice(flags, "weights", WEIGHTS, "is always trained from scratch")
    _check_choice(flags, "statistics", STATISTICS, "has no BatchNorm")
    for name, (wanted, accepts) in _RANGES.items():
        value = flags.get(name)
        if value is not None and not accepts(value):
            raise ValueError(f"--{name} must be {wanted}, got {value}")
    for name in PARAMETERS:
        if flags.get(name) is not None:
            check(name, flags[name])
    made = [
        _settings(name, {**flags, **own, "algorithm": name})
        for name, own in parsed
    ]
    unused = [
        flag
        for flag in SPECIAL
        if flags.get(flag) is not None
        and all(getattr(run, flag) is None for run in made)
    ]
    return list(dict.fromkeys(made)), unused  # each once, in order


def settings(text: str, **given: Any) -> Settings:
    """The settings of one algorithm's text.

    Args:
        text: as `algorithms.parse` takes it.
        **given: what is not as the task and `DEFAULTS` have it.
    """
    return plan(DEFAULTS | given | {"algorithm": [text]})[0][0]


def check_parts(runs: Iterable[Settings]) -> None:
    """Refuses, with a ValueError, what does not go together.

    Not before a worker has joined its cluster: parts may have tensors.
    """
    for run in runs:
        ALGORITHMS[run.algorithm].sync(run)


def _settings(name: str, flags: Mapping[str, Any]) -> Settings:
    task = TASKS[flags["task"]]
    takes = ALGORITHMS[name].takes(flags.get("server"))
    values = {}
    for field in dataclasses.fields(Settings):
        if field.name in SPECIAL and field.name not in takes:
            continue
        value = flags.get(field.name)
        if field.name == "weights" and task.weights is None:
            value = None  # "none", which says nothing of this task
        if value is None:
            value = usual(name, task.name, field.name)
        values[field.name] = value
    return Settings(**values)


def usual(algorithm: str, task: str, setting: str) -> Any:
    """What a setting is without its flag; None where it is not used.

    Example:
        >>> usual("linear", "lenet5_mnist", "theta")
        1.5
        >>> usual("fedadam", "lenet5_mnist", "learning_rate")
        0.01
    """
    uses = ALGORITHMS[algorithm].uses
    if setting in SPECIAL and setting not in uses:
        return None
    value = uses.get(setting)
    return getattr(TASKS[task], setting, None) if value is None else value


def _check_choice(
    flags: Mapping[str, Any], name: str, values: tuple, why: str
) -> None:
    """Refuses a choice that is unknown, or that the task has not."""
    value, task = flags.get(name), flags["task"]
    if value is None:
        return
    known(f"--{name}", value, values)
    if getattr(TASKS[task], name) is None and value != "none":
        having = [each for each in TASKS if getattr(TASKS[each], name)]
        raise ValueError(
            f"--{name}={value}, but {task} {why}; those with a choice: "
            f"{', '.join(having)}"
        )


_WHOLE = ("a whole number of at least 1", lambda v: v >= 1)
_RANGES = {
    "target_accuracy": ("between 0 and 1", lambda v: 0 < v < 1),
    "seed": ("from 0 to 2^32 - 1", lambda v: 0 <= v < 2**32),
    **dict.fromkeys(("workers", "epochs", "steps", "batch_size"), _WHOLE),
}
