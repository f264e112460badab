"""Reads what runs left; what cannot be trusted is named and left out."""

import csv
import dataclasses
import json
import math
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import results, store, style
from experiments.config import Settings
from experiments.tasks import TASKS

_FIELDS = dataclasses.fields(Settings)
_SETTINGS = tuple(field.name for field in _FIELDS)
_NEEDED = [f.name for f in _FIELDS if f.default is dataclasses.MISSING]
_FILES = ("config.json", "metrics.csv", "syncs.csv", "summary.json")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run; of --summary it has settings and summary alone.

    Attributes:
        settings: what made it.
        summary: of `results.SUMMARY`.
        rows: of metrics.csv.
        syncs: the step of each synchronisation but the one at the end.
        variance: estimate after each step [steps]; empty if not known.
        theta: at each step [steps]; empty if not known.
        about: what config.json says besides: versions, commit, data.
    """

    settings: Settings
    summary: Mapping[str, object]
    rows: Sequence[Mapping[str, float]] = ()
    syncs: Sequence[int] = ()
    variance: np.ndarray = dataclasses.field(
        default_factory=lambda: np.empty(0)
    )
    theta: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    about: Mapping[str, object] = dataclasses.field(default_factory=dict)


def load(paths: Sequence[str]) -> tuple[list[Run], list[str]]:
    """The runs of folders and of summaries, each run once.

    Raises:
        ValueError: a path that does not exist.
    """
    found: dict[str, Run] = {}
    left_out = []
    for path in map(pathlib.Path, paths):
        if not path.exists():
            raise ValueError(
                f"{path} does not exist; give a folder that experiments.run "
                "wrote, or the file of its --summary"
            )
        for source in _sources(path):
            try:
                runs = (
                    _read_file(source) if source.is_file() else [_run(source)]
                )
            except ValueError as error:
                left_out.append(f"{source}: {error}")
                continue
            for run in runs:
                key = run.settings.run_id
                if key not in found or run.rows:  # a folder says more
                    found[key] = run
        if path.is_dir() and not _sources(path):
            left_out.append(f"{path}: no run is in it")
    return list(found.values()), left_out


def _sources(path: pathlib.Path) -> list[pathlib.Path]:
    """The file, the run's folder, or the run folders inside."""
    if path.is_file() or _is_run(path):
        return [path]
    return sorted(p for p in path.iterdir() if p.is_dir() and _is_run(p))


def _is_run(folder: pathlib.Path) -> bool:
    return any((folder / name).exists() for name in _FILES)


def _read_file(path: pathlib.Path) -> list[Run]:
    runs = []
    for run_id, row in store.Runs(path).by_id().items():
        # "steps" there are those done; the limit is in RUN_ID alone.
        limit = re.search(r"-max(\d+)-", run_id)
        settings = _settings(
            row | {"steps": int(limit[1]) if limit else None}, "its row"
        )
        if settings.run_id != run_id:
            raise ValueError(
                f"damaged, its row {run_id} has the settings of "
                f"{settings.run_id}"
            )
        found = {name: row[name] for name in results.SUMMARY}
        runs.append(Run(settings, found))
    return runs


def _run(folder: pathlib.Path) -> Run:
    """The run of a folder; a ValueError says why it cannot be used."""
    if not (folder / "summary.json").exists():
        raise ValueError("not finished, it has no summary.json")
    config = _json(folder / "config.json")
    version = config.get("format", results.FORMAT)  # 0.1.0 at first had none
    if version != results.FORMAT:
        raise ValueError(
            f"of another version, its files have format {version}; this "
            f"program reads {results.FORMAT}"
        )
    settings = _settings(config, "config.json")
    if settings.run_id != config.get("run_id"):
        raise ValueError(
            f"its settings are those of {settings.run_id}, not of "
            f"{config.get('run_id')}"
        )
    values = _json(folder / "summary.json")
    missing = [name for name in results.SUMMARY if name not in values]
    if missing:
        raise ValueError(
            f"of another version, summary.json has no {', '.join(missing)}"
        )
    rows = _table(folder / "metrics.csv", results.METRICS)
    if not rows or rows[-1]["step"] != values["steps"]:
        raise ValueError(
            "damaged, metrics.csv does not end at summary.json's step "
            f"{values['steps']}"
        )
    syncs = [
        int(row["step"])
        for row in _table(folder / "syncs.csv", results.SYNCS)
        if row["cause"] != "end"
    ]
    course = _course(folder / "course.npz", values["steps"])
    return Run(settings, values, rows, syncs, *course, config)


def _json(path: pathlib.Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"damaged, it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"damaged, {path.name}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"damaged, {path.name} is no JSON object")
    return value


def _settings(found: Mapping[str, object], what: str) -> Settings:
    # Files of before lack the settings that came later.
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise ValueError(
            f"of another version, {what} has no {', '.join(missing)}"
        )
    # JSON has no infinity: `store.plain` makes it a text.
    values = {name: found.get(name) for name in _SETTINGS}
    return _known(
        Settings(
            **{n: math.inf if v == "inf" else v for n, v in values.items()}
        )
    )


def _known(settings: Settings) -> Settings:
    """Refuses what this version cannot name."""
    for what, names in (("task", TASKS), ("algorithm", style.LOOKS)):
        value = getattr(settings, what)
        if str(value) not in names:
            raise ValueError(f"of another version, its {what} is {value!r}")
    return settings


def _table(path: pathlib.Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of a CSV; what is to be a number is one."""
    try:
        rows = [
            {name: row[name] for name in columns}
            for row in store.read_csv(path)
        ]
        for row in rows:
            for name in set(columns) - {"cause"}:
                row[name] = float(row[name] or "nan")
        return rows
    except KeyError as error:
        raise ValueError(
            f"of another version, {path.name} has no column {error}"
        ) from error
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"damaged, {path.name}: {error}") from error


def _course(path: pathlib.Path, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(variance, theta) at each step; nothing from before there was a file."""
    if not path.exists():
        return np.empty(0), np.empty(0)
    try:
        with np.load(path) as arrays:
            variance, theta = arrays["variance"], arrays["theta"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as bad:
        raise ValueError(f"damaged, {path.name}: {bad}") from bad
    if variance.shape != (steps,) or theta.shape != (steps,):
        raise ValueError(
            f"damaged, {path.name} has {len(variance)} steps, not {steps}"
        )
    return variance, theta
