"""Rows of JSON, one a line: what runs, sweeps and benchmarks leave.

A row is added at the end and never changed; of two rows with one key the last
counts. What has its row is not run again: long tables are made over days.
"""

import csv
import dataclasses
import fcntl
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def plain(value: Any) -> Any:
    """A value as strict JSON has it; NaN is null, infinity "inf"."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value  # NumPy scalars
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def read(path: str | os.PathLike | None) -> list[Row]:
    """The rows of a file; none if there is no file.

    Raises:
        ValueError: it cannot be read, or a line is no JSON object.
    """
    if not path or not os.path.exists(path):
        return []
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines() if line]
        if all(isinstance(row, dict) for row in rows):
            return rows
        error: Exception | str = "a line is no object"
    except (OSError, ValueError) as found:
        error = found
    raise ValueError(
        f"{path} is not a summary or a table that this program wrote "
        f"({error}); give another file, or one that does not exist"
    )


class Store:
    """The rows of a file by their key; a new one is written at once.

    Args:
        path: of the file; None: rows are kept here alone.
        key: names of the columns that tell one row from another.
    """

    def __init__(self, path: str | os.PathLike | None, *key: str):
        self.path, self._key = path, key
        try:
            self.rows = {self.key_of(row): row for row in read(path)}
        except KeyError as error:
            raise ValueError(
                f"{path} is not a summary or a table of this command: a row "
                f"has no {error}; give another file"
            ) from error

    def key_of(self, row: Mapping[str, Any]) -> tuple:
        """What tells a row from others."""
        return tuple(row[name] for name in self._key)

    def __contains__(self, row: Mapping[str, Any]) -> bool:
        return self.key_of(row) in self.rows

    def __getitem__(self, row: Mapping[str, Any]) -> Row:
        return self.rows[self.key_of(row)]

    def add(self, row: Mapping[str, Any]) -> Row:
        """Adds a row, which counts in place of one with its key."""
        row = plain(row)
        self.rows[self.key_of(row)] = row
        if self.path:
            pathlib.Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(json.dumps(row, allow_nan=False) + "\n")
        return row


# --- Finished runs


class Runs(Store):
    """The finished runs of a file: their settings, and their summaries."""

    def __init__(self, path: str | os.PathLike | None):
        super().__init__(path, "run_id")
        from experiments import results

        for row in self.rows.values():
            if absent := [n for n in results.SUMMARY if n not in row]:
                raise ValueError(
                    f"{path} is not a summary that this program wrote: a row "
                    f"has no {', '.join(absent)}; give another file"
                )

    def by_id(self) -> dict[str, Row]:
        """RUN_ID -> its row."""
        return {row["run_id"]: row for row in self.rows.values()}


def row_of(settings: Any, summary: Mapping[str, Any]) -> Row:
    """The row of a finished run; `steps` is what it took, not its limit."""
    values = dataclasses.asdict(settings)
    return {"run_id": settings.run_id, **values, **summary}


def collect(
    results_dir: str | os.PathLike,
    path: str | None = None,
    wanted: Sequence[str] = (),
) -> None:
    """Writes results.jsonl: a row for each finished run of a folder, by name.

    It appears as a whole; of two that write at once, the second waits.

    Args:
        results_dir: has a folder for each run, and gets the file.
        path: of a file that gets the rows of runs that it has not, too.
        wanted: RUN_IDs whose rows go there.
    """
    folder = pathlib.Path(results_dir)
    with open(folder / ".results.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = map(_row, sorted(folder.glob("*/summary.json")))
        rows = [row for row in found if row]
        partial = folder / "results.partial"
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(partial, folder / "results.jsonl")
        kept = Runs(path)
        for row in rows:
            if path and row["run_id"] in wanted and row not in kept:
                kept.add(row)


def _row(summary: pathlib.Path) -> Row | None:
    """A finished run's row; None if it has just been begun again."""
    from experiments.config import Settings

    folder = summary.parent
    try:
        config = json.loads((folder / "config.json").read_text())
        values = json.loads(summary.read_text())
    except FileNotFoundError:
        return None
    names = [field.name for field in dataclasses.fields(Settings)]
    own = {name: config.get(name) for name in names}
    return {"run_id": folder.name, **own, **values}


# --- CSVs of others, and of a run


def read_csv(path: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of a CSV, as texts."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
