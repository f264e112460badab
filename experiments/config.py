"""From flags to runs: their settings, checked, and their names.

`plan` turns the values of the flags into one `Settings` per algorithm, and
says which of the flags none of them reads.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

from experiments.algorithms import ALGORITHMS, schedule
from experiments.tasks import TASKS

BACKENDS = ("simulated", "cluster")
WEIGHTS = ("imagenet", "none")
STATISTICS = ("local", "average")
SAMPLINGS = ("passes", "independent")


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

    @property
    def run_id(self) -> str:
        """Name of the run's folder: readable, different for all settings."""
        fields = [self.task, self.algorithm]
        fields += [
            f"{key}{short(getattr(self, name))}"
            for name, key in _KEYS.items()
            if getattr(self, name) is not None
        ]
        fields.append("to" if self.stop else "nostop")
        fields[-1] += repr(self.target_accuracy)
        return "-".join([*fields, f"seed{self.seed}", self.backend])


# What RUN_ID calls each setting, in its order.
_KEYS = {
    "theta": "theta",
    "sketch_depth": "depth",
    "sketch_width": "width",
    "interval": "every",
    "local_epochs": "local",
    "server_learning_rate": "server",
    "learning_rate": "lr",
    "workers": "K",
    "split": "",
    "batch_size": "b",
    "sampling": "",
    "epochs": "e",
    "steps": "max",
    "weights": "weights",
    "statistics": "statistics",
}


def short(value: object) -> str:
    """A value in a file name; repr keeps theta 1.25 and 12.5 apart."""
    text = value if isinstance(value, str) else repr(value)
    text = re.sub(r"^([a-z]+):", r"\1", text)  # sorted:0.6 -> sorted0.6
    # The minus of 1e-05 stays: no field of RUN_ID begins with a digit.
    unfit = r"[^\w.,+-]|(?<!\de)-"
    return re.sub(unfit, lambda m: f"%{ord(m[0]):02x}", text)


# The flags that only some algorithms read.
SPECIAL = sorted({n for a in ALGORITHMS.values() for n in a.uses})
SPECIAL.remove("learning_rate")


def plan(flags: Mapping[str, object]) -> tuple[list[Settings], list[str]]:
    """One `Settings` per algorithm of the list, checked.

    Args:
        flags: name -> value; None where the task or algorithm decides.

    Returns:
        (settings, names of the flags given that no algorithm uses).

    Raises:
        ValueError: an unknown name or a value out of its range.

    Example:
        >>> flags = {"task": "lenet5_mnist", "algorithm": ["linear"],
        ...          "workers": 5, "split": "iid", "sampling": "passes",
        ...          "stop": True, "seed": 0, "backend": "simulated",
        ...          "interval": 3}
        >>> runs, unused = plan(flags)
        >>> runs[0].theta, unused
        (1.5, ['interval'])
    """
    known("--task", flags["task"], TASKS)
    if not flags["algorithm"]:
        raise ValueError(
            f"--algorithm is empty; choose from {', '.join(ALGORITHMS)}"
        )
    for name in flags["algorithm"]:
        known("--algorithm", name, ALGORITHMS)
    known("--sampling", flags["sampling"], SAMPLINGS)
    known("--backend", flags["backend"], BACKENDS)
    _check_weights(flags)
    _check_statistics(flags)
    _check_numbers(flags)
    chosen = dict.fromkeys(flags["algorithm"])  # each once, in order
    used = {field for name in chosen for field in ALGORITHMS[name].uses}
    unused = [n for n in SPECIAL if flags.get(n) is not None and n not in used]
    return [_settings(name, flags) for name in chosen], unused


def check_parts(runs: Iterable[Settings]) -> None:
    """Refuses, with a ValueError, what does not go together.

    Not before a worker has joined its cluster: parts may have tensors.
    """
    for run in runs:
        ALGORITHMS[run.algorithm].sync(run)


def _settings(name: str, flags: Mapping[str, object]) -> Settings:
    algorithm, task = ALGORITHMS[name], TASKS[flags["task"]]
    values = {"algorithm": name}
    for field in dataclasses.fields(Settings):
        if field.name in SPECIAL and field.name not in algorithm.uses:
            continue
        value = flags.get(field.name)
        if field.name == "weights" and task.weights is None:
            value = None  # "none", which says nothing of this task
        if value is None:
            value = usual(name, task.name, field.name)
        values.setdefault(field.name, value)
    return Settings(**values)


def usual(algorithm: str, task: str, setting: str) -> object:
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


def _check_weights(flags: Mapping[str, object]) -> None:
    """Refuses weights that are unknown, or that the task has not."""
    weights, task = flags.get("weights"), flags["task"]
    if weights is None:
        return
    known("--weights", weights, WEIGHTS)
    if TASKS[task].weights is None and weights != "none":
        having = [name for name in TASKS if TASKS[name].weights]
        raise ValueError(
            f"--weights={weights}, but {task} is always trained from scratch; "
            f"those with a choice: {', '.join(having)}"
        )


def _check_statistics(flags: Mapping[str, object]) -> None:
    """Refuses a choice that is unknown, or that the task has not."""
    statistics, task = flags.get("statistics"), flags["task"]
    if statistics is None:
        return
    known("--statistics", statistics, STATISTICS)
    if TASKS[task].statistics is None:
        having = [name for name in TASKS if TASKS[name].statistics]
        raise ValueError(
            f"--statistics={statistics}, but {task} has no BatchNorm; those "
            f"that have it: {', '.join(having)}"
        )


def known(what: str, name: str, names: Mapping | tuple) -> None:
    """Raises a ValueError that lists the known names, unless it is one."""
    if name not in names:
        raise ValueError(f"{what}={name} is unknown; known: {', '.join(names)}")


def _check_numbers(flags: Mapping[str, object]) -> None:
    """Refuses numbers out of range; NaN fails every comparison."""
    for name, wanted, accepts in _RANGES:
        value = flags.get(name)
        if value is not None and not accepts(value):
            raise ValueError(f"--{name} must be {wanted}, got {value}")
    if flags.get("theta") is not None:
        schedule(flags["theta"])


_WHOLE = ("a whole number of at least 1", lambda v: v >= 1)
_RATE = ("a number above 0", lambda v: 0 < v < math.inf)
_RANGES = (
    (
        "theta",
        "a number of at least 0",
        lambda v: isinstance(v, str) or v >= 0,
    ),
    ("target_accuracy", "between 0 and 1", lambda v: 0 < v < 1),
    ("seed", "from 0 to 2^32 - 1", lambda v: 0 <= v < 2**32),
    ("sketch_depth", "odd and at least 1", lambda v: v >= 1 and v % 2),
    ("sketch_width", "a whole number of at least 2", lambda v: v >= 2),
    ("learning_rate", *_RATE),
    ("server_learning_rate", *_RATE),
    *((name, *_WHOLE) for name in (
        "workers", "epochs", "steps", "batch_size", "interval", "local_epochs",
    )),
)  # fmt: skip
