"""One CSV with a row per finished run: what --summary names.

Long tables are made over days; a run that has its row is not run again.
"""

import csv
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from experiments import results
from experiments.config import Settings

# `steps` is what a run took; its limit is in its config.json.
_SETTINGS = tuple(
    field.name
    for field in dataclasses.fields(Settings)
    if field.name not in results.SUMMARY
)
COLUMNS = ("run_id", *_SETTINGS, *results.SUMMARY)
# Settings that came later: files of before lack them, and they are None there.
LATER = {"weights", "statistics"}


def read(path: str | None) -> dict[str, dict[str, object]]:
    """The rows that are there, by RUN_ID; none if there is no file.

    Args:
        path: of the CSV, or None.

    Raises:
        ValueError: it cannot be read or has other columns.
    """
    if not path or not os.path.exists(path):
        return {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not _is_ours(reader.fieldnames):
                raise ValueError("its columns are others")
            later = dict.fromkeys(LATER)
            return {
                row["run_id"]: later | {k: _number(v) for k, v in row.items()}
                for row in reader
            }
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a summary that this program wrote ({error}); give "
            "another file, or one that does not exist"
        ) from error


def _is_ours(columns: Sequence[str] | None) -> bool:
    absent = [c for c in COLUMNS if c not in (columns or ())]
    return set(absent) <= LATER and list(columns) == [
        c for c in COLUMNS if c not in absent
    ]


def append(
    path: str, settings: Settings, summary: Mapping[str, object]
) -> None:
    """Adds the row of a finished run; a row that it had is replaced."""
    _add(
        path,
        {"run_id": settings.run_id, **dataclasses.asdict(settings), **summary},
    )


def _add(path: str, row: Mapping[str, object]) -> None:
    known = read(path)
    file = pathlib.Path(path)
    if row["run_id"] not in known and known and _has_all(file):
        with open(file, "a", newline="", encoding="utf-8") as out:
            csv.DictWriter(out, COLUMNS).writerow(row)
        return
    known[row["run_id"]] = row
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    results.write_csv(partial, COLUMNS, known.values())
    os.replace(partial, file)


def _has_all(file: pathlib.Path) -> bool:
    """Whether a file of ours has the columns that came later, too."""
    with open(file, newline="", encoding="utf-8") as out:
        return next(csv.reader(out)) == list(COLUMNS)


def collect(
    results_dir: str | os.PathLike,
    path: str | None = None,
    wanted: Sequence[str] = (),
) -> None:
    """Writes results.csv: a row for each finished run of a folder, by name.

    It appears as a whole; of two that write at once, the second waits.

    Args:
        results_dir: has a folder for each run, and gets the file.
        path: of a CSV that gets the rows of runs that it has not, too.
        wanted: RUN_IDs whose rows go there.
    """
    folder = pathlib.Path(results_dir)
    with open(folder / ".results.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = [_row(path.parent) for path in folder.glob("*/summary.json")]
        rows = sorted(filter(None, rows), key=lambda row: row["run_id"])
        partial = folder / "results.partial"
        results.write_csv(partial, COLUMNS, rows)
        os.replace(partial, folder / "results.csv")
        known = read(path)
        for row in rows:
            name = row["run_id"]
            if path and name in wanted and name not in known:
                _add(path, {column: row.get(column) for column in COLUMNS})


def _row(folder: pathlib.Path) -> dict[str, object] | None:
    """A finished run's row; None if it has just been begun again."""
    try:
        config = json.loads((folder / "config.json").read_text())
        summary = json.loads((folder / "summary.json").read_text())
    except FileNotFoundError:
        return None
    settings = {name: config.get(name) for name in _SETTINGS}
    return {"run_id": folder.name, **settings, **summary}


def _number(text: str) -> object:
    """What `csv` wrote, as the value that it was."""
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return text
