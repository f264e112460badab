"""One CSV with a row per finished run: what --summary names.

Long tables are made over days; a run that has its row is not run again.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Mapping

from experiments import results
from experiments.config import Settings

_SETTINGS = tuple(field.name for field in dataclasses.fields(Settings))
COLUMNS = ("run_id", *_SETTINGS, *results.SUMMARY)


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
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError("its columns are others")
            return {
                row["run_id"]: {k: _number(v) for k, v in row.items()}
                for row in reader
            }
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a summary that this program wrote ({error}); give "
            "another file, or one that does not exist"
        ) from error


def append(
    path: str, settings: Settings, summary: Mapping[str, object]
) -> None:
    """Adds the row of a finished run; a row that it had is replaced."""
    row = {"run_id": settings.run_id, **dataclasses.asdict(settings), **summary}
    known = read(path)
    file = pathlib.Path(path)
    if row["run_id"] not in known and known:
        with open(file, "a", newline="", encoding="utf-8") as out:
            csv.DictWriter(out, COLUMNS).writerow(row)
        return
    known[row["run_id"]] = row
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    results.write_csv(partial, COLUMNS, known.values())
    os.replace(partial, file)


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
