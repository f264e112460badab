"""The files of a run, and the summary of many.

RESULTS_DIR/RUN_ID/ has config.json, metrics.csv (a row per evaluation) and
syncs.csv (a row per synchronisation) from the start; rows are written at once,
so that a run that is stopped leaves what it measured. At the end course.npz
has the variance and theta of each step, float32 [steps]; summary.json is last.
"""

import contextlib
import csv
import errno
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments import provenance

# What config.json says of the files; a run of another format is not read.
FORMAT = 1
METRICS = (
    "step", "epoch", "syncs", "checks", "state_bytes", "model_bytes",
    "paper_state_bytes", "paper_model_bytes", "eval_bytes", "wire_bytes",
    "test_loss", "test_accuracy", "variance", "theta", "seconds",
)  # fmt: skip
SYNCS = ("step", "interval", "cause", "estimate")
SUMMARY = (
    "reached", "steps_to_target", "syncs_to_target", "bytes_to_target",
    "wire_bytes_to_target", "best_accuracy", "steps", "syncs", "checks",
    "total_bytes", "worker_steps_per_second", "peak_rss_bytes", "seconds",
)  # fmt: skip


class RunFolder:
    """Writes the files of one run; a context manager.

    Args:
        results_dir: the folder that has a folder for each run.
        run_id: name of this one's; what a run of the same name left is
            replaced.
        config: what config.json says, JSON types.
    """

    def __init__(
        self, results_dir: str, run_id: str, config: Mapping[str, object]
    ):
        self.path = pathlib.Path(results_dir) / run_id
        self.path.mkdir(parents=True, exist_ok=True)
        for old in ("summary.json", "course.npz"):
            (self.path / old).unlink(missing_ok=True)
        write_json(self.path / "config.json", {"format": FORMAT, **config})
        self._metrics = _Table(self.path / "metrics.csv", METRICS)
        self._syncs = _Table(self.path / "syncs.csv", SYNCS)

    def evaluation(self, row: Mapping[str, object]) -> None:
        """Adds one of the library's evaluation rows to metrics.csv."""
        self._metrics.add(with_test_names(row))

    def synchronisation(self, row: NamedTuple) -> None:
        """Adds one of the library's synchronisations to syncs.csv."""
        self._syncs.add(row._asdict())

    def course(self, variance: np.ndarray, theta: np.ndarray) -> None:
        """Writes what the library knows of each step, float32 [steps]."""
        with open(self.path / "course.npz", "wb") as file:
            np.savez_compressed(file, variance=variance, theta=theta)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Writes, last, summary.json: its being there is done."""
        write_json(self.path / "summary.json", summary)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_) -> None:
        self._metrics.close()
        self._syncs.close()


class _Table:
    """A CSV whose rows are on disk as soon as they are added."""

    def __init__(self, path: pathlib.Path, columns: Sequence[str]):
        self._file = open(path, "w", newline="")
        self._rows = csv.DictWriter(self._file, columns, extrasaction="ignore")
        self._rows.writeheader()
        self._file.flush()

    def add(self, row: Mapping[str, object]) -> None:
        self._rows.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class NoFolder(contextlib.nullcontext):
    """Takes what a `RunFolder` takes and writes nothing."""

    def __enter__(self) -> "NoFolder":
        return self

    def evaluation(self, row: Mapping[str, object]) -> None:
        """Does nothing."""

    def synchronisation(self, row: NamedTuple) -> None:
        """Does nothing."""

    def course(self, variance: np.ndarray, theta: np.ndarray) -> None:
        """Does nothing."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Does nothing."""


def with_test_names(row: Mapping[str, object]) -> dict[str, object]:
    """The library's row with val_* called test_*: here it is the test set."""
    return {
        "test_" + name[4:] if name.startswith("val_") else name: value
        for name, value in row.items()
    }


def passes(row: Mapping[str, object], target: float) -> bool:
    """Whether test accuracy is above the target, in Keras' precision.

    Example:
        >>> passes({"val_accuracy": float(np.float32(0.98))}, 0.98)
        False
    """
    return bool(np.float32(row["val_accuracy"]) > np.float32(target))


def first_above(
    rows: Sequence[Mapping[str, object]], target: float
) -> Mapping[str, object] | None:
    """The first evaluation with a test accuracy above the target, or None.

    Example:
        >>> rows = [{"val_accuracy": 0.5}, {"val_accuracy": 0.75}]
        >>> first_above(rows, 0.5), first_above(rows, 0.75)
        ({'val_accuracy': 0.75}, None)
    """
    return next((row for row in rows if passes(row, target)), None)


def sent_bytes(row: Mapping[str, object]) -> int:
    """State and model bytes that were sent, the models up and down."""
    return int(row["state_bytes"]) + int(row["model_bytes"])


def paper_bytes(row: Mapping[str, object]) -> int:
    """State and model bytes by the paper's formulas: no cascade saves any."""
    return int(row["paper_state_bytes"]) + int(row["paper_model_bytes"])


def summarise(
    rows: Sequence[Mapping[str, object]],
    target: float,
    *,
    worker_steps_per_second: float,
    seconds: float,
) -> dict[str, object]:
    """What summary.json says.

    Syncs are completed ones, without the last, which ends training; bytes are
    by the paper's formulas, so that runs compare with the paper's, and those of
    `wire_bytes_to_target` what really crosses the wire.
    All counts are of all workers, and without those of the last sync; memory
    is this process's.

    Args:
        rows: the library's rows, one per evaluation, at least one.
        target: test accuracy.
        worker_steps_per_second: without compilation and evaluation.
        seconds: of the run, with everything.
    """
    hit, last = first_above(rows, target), rows[-1]
    values = (
        hit is not None,
        *(hit and (hit["step"], hit["syncs"], paper_bytes(hit),
                   hit["wire_bytes"]) or (None,) * 4),
        max(row["val_accuracy"] for row in rows),
        last["step"], last["syncs"], last["checks"], paper_bytes(last),
        worker_steps_per_second, provenance.peak_rss_bytes(), seconds,
    )  # fmt: skip
    return dict(zip(SUMMARY, values, strict=True))


def check_writable(flag: str, path: str, folder: pathlib.Path) -> None:
    """Raises a ValueError unless files can be written where a flag says.

    Args:
        flag: its name.
        path: its value.
        folder: where the files will be; it is made.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(
            f"--{flag}={path} cannot be written to ({error.strerror}); give "
            "one that you may write to"
        ) from error


def read_summary(
    folder: pathlib.Path, since: float = 0.0
) -> dict[str, object] | None:
    """What a run's summary.json says; None if it has none.

    Args:
        folder: of the run.
        since: seconds since the epoch; an older file does not count.
    """
    path = folder / "summary.json"
    try:
        if path.stat().st_mtime < since:
            return None
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def write_json(path: pathlib.Path, value: Mapping[str, object]) -> None:
    """Writes strict JSON, whole or not at all; NaN is null, infinity "inf"."""
    partial = path.with_suffix(".partial")
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    with open(partial, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())  # before its name: a power cut leaves no half
    os.replace(partial, path)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value  # NumPy scalars
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def write_csv(
    path: pathlib.Path,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, object]],
) -> None:
    """Writes the columns of the rows."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, as numbers; none if there is no file."""
    try:
        with open(folder / "metrics.csv", newline="") as file:
            return [
                {k: float(v or "nan") for k, v in row.items()}
                for row in csv.DictReader(file)
            ]
    except FileNotFoundError:
        return []
