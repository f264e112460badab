"""Grids of flags: from a text, or a preset's file, to runs that were checked.

A grid gives some flags of `experiments.run` several values each; its runs are
all combinations. A preset is a file of presets/ with one grid or more.
"""

import dataclasses
import itertools
import pathlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from absl import flags, logging

import fda_tf
from experiments import config, datasets
from experiments.config import Settings
from experiments.tasks import TASKS

PRESETS = {
    path.stem: path
    for path in sorted(pathlib.Path(__file__).with_name("presets").glob("*"))
    if path.suffix == ".toml"
}

# Flags of `experiments.run` whose values a sweep chooses for all of its runs.
OWN = ("results_dir", "summary", "overwrite", "picture")

Grid = Mapping[str, Sequence[str]]  # flag -> its values


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    settings: Settings  # what it is, and its RUN_ID
    arguments: tuple[str, ...]  # the flags that make `experiments.run` train it


def parse(text: str) -> Grid:
    """A grid from its text: NAME=VALUE[,VALUE...] with spaces between.

    Raises:
        ValueError: a part without "=", an empty value or a name given twice.

    Example:
        >>> parse("theta=0.5,1.5 workers=5")
        {'theta': ['0.5', '1.5'], 'workers': ['5']}
    """
    grid = {}
    for part in text.split():
        name, equals, values = part.partition("=")
        if not equals or "" in values.split(",") or name in grid:
            raise ValueError(
                f"--grid={text} has the part {part!r}; expected each name "
                "once, with its values: 'theta=0.5,1.5 workers=5,10'"
            )
        grid[name] = values.split(",")
    return grid


def preset(name: str) -> list[Grid]:
    """The grids of a preset.

    Raises:
        ValueError: an unknown name; lists those that are known.

    Example:
        >>> preset("lenet5_iid")[0]["split"]
        ['iid']
    """
    config.known("--preset", name, PRESETS)
    tables = tomllib.loads(PRESETS[name].read_text())["grid"]
    return [
        {
            flag: [
                str(v) for v in (value if isinstance(value, list) else [value])
            ]
            for flag, value in table.items()
        }
        for table in tables
    ]


def runs(grids: Iterable[Grid], given: Mapping[str, flags.Flag]) -> list[Run]:
    """The different runs of the grids, each checked against its data.

    What the command line gives goes before what a grid says of the same flag.
    Combinations that differ only in what their algorithm does not use, such
    as theta for synchronous training, are one run.

    Raises:
        ValueError: a flag or value that is unknown, out of its range or does
            not fit the data.
    """
    found, unused, labels = {}, None, {}
    for grid in grids:
        _check_names(grid, set(given) - {*OWN, "data_dir"})
        for point in _points(grid, given):
            values = {name: flag.value for name, flag in given.items()}
            values |= {
                name: _value(given[name], v) for name, v in point.items()
            }
            (settings,), idle = config.plan(values)
            arguments = [
                f"--{name}={point[name]}" if name in point else flag.serialize()
                for name, flag in given.items()
                if name not in (*OWN, *idle) and (name in point or flag.present)
            ]
            run = Run(settings, tuple(arguments))
            if found.setdefault(settings.run_id, run) is run:
                config.check_parts([settings])
                _check_split(settings, values["data_dir"], labels)
            unused = set(idle) if unused is None else unused & set(idle)
    for name in sorted(unused or ()):
        logging.warning("--%s is dropped: no algorithm here uses it", name)
    return list(found.values())


def _check_names(grid: Grid, names: Iterable[str]) -> None:
    for name in grid:
        if name not in names:
            raise ValueError(
                f"A grid has {name!r}, which is no flag that may be varied; "
                f"known: {', '.join(sorted(names))}"
            )


def _points(
    grid: Grid, given: Mapping[str, flags.Flag]
) -> Iterator[dict[str, str]]:
    """One value for each flag, in all combinations."""
    axes = {"algorithm": given["algorithm"].value} | grid
    for name in axes:
        if given[name].present:
            value = given[name].value
            axes[name] = value if isinstance(value, list) else [str(value)]
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _value(flag: flags.Flag, text: str) -> object:
    try:
        return flag.parser.parse(text)
    except ValueError as error:
        raise ValueError(f"--{flag.name}={text}: {error}") from error


def _check_split(settings: Settings, data_dir: str | None, seen: dict) -> None:
    """Refuses a split that the data do not allow, and data that are not there.

    It also has a set downloaded once, before many processes want it.
    """
    task = TASKS[settings.task]
    if task.dataset not in seen:
        data = datasets.load(task.dataset, data_dir, task.classes)
        seen[task.dataset] = data.y_train, data.clients
    labels, clients = seen[task.dataset]
    cut = settings.split, settings.workers, settings.seed
    if (task.dataset, *cut) not in seen:
        seen[task.dataset, *cut] = True
        fda_tf.partition.split(
            settings.split, labels, settings.workers, settings.seed, clients
        )
