"""The files of a run.

RESULTS_DIR/RUN_ID/ has config.json, metrics.csv (a row per evaluation) and
syncs.csv (a row per synchronisation) from the start; rows are written at once,
so that a run that is stopped leaves what it measured. At the end course.npz
has the variance and theta of each step, float32 [steps]; summary.json is last.
"""

import csv
import errno
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import provenance, store

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
        folder: of the run, named RUN_ID; what a run of the same name left is
            replaced. None: nothing is written.
        config: what config.json says, JSON types.
    """

    def __init__(
        self, folder: pathlib.Path | None, config: Mapping[str, object]
    ):
        self.path = folder
        self._tables: dict[str, tuple[Any, csv.DictWriter]] = {}
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for old in ("summary.json", "course.npz"):
            (folder / old).unlink(missing_ok=True)
        write_json(folder / "config.json", {"format": FORMAT, **config})
        for name, columns in (("metrics", METRICS), ("syncs", SYNCS)):
            file = open(folder / f"{name}.csv", "w", newline="")
            rows = csv.DictWriter(file, columns, extrasaction="ignore")
            rows.writeheader()
            file.flush()
            self._tables[name] = file, rows

    def _add(self, name: str, row: Mapping[str, object]) -> None:
        if self.path is not None:
            file, rows = self._tables[name]
            rows.writerow(row)
            file.flush()

    def evaluation(self, row: Mapping[str, object]) -> None:
        """Adds one of the library's evaluation rows to metrics.csv."""
        # Here it is the test set.
        own = {
            n.removeprefix("val_"): v for n, v in row.items() if n[:4] == "val_"
        }
        self._add("metrics", row | {f"test_{n}": v for n, v in own.items()})

    def synchronisation(self, row: NamedTuple) -> None:
        """Adds one of the library's synchronisations to syncs.csv."""
        self._add("syncs", row._asdict())

    def finish(
        self,
        summary: Mapping[str, object],
        variance: np.ndarray,
        theta: np.ndarray,
    ) -> None:
        """Writes course.npz, float32 [steps], and last summary.json."""
        if self.path is not None:
            with open(self.path / "course.npz", "wb") as file:
                np.savez_compressed(file, variance=variance, theta=theta)
            write_json(self.path / "summary.json", summary)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_) -> None:
        for file, _ in self._tables.values():
            file.close()


def passes(row: Mapping[str, object], target: float) -> bool:
    """Whether test accuracy is above the target, in Keras' precision.

    Example:
        >>> passes({"val_accuracy": float(np.float32(0.98))}, 0.98)
        False
    """
    return bool(np.float32(row["val_accuracy"]) > np.float32(target))


def first_above(
    rows: Sequence[Mapping[str, Any]], target: float
) -> Mapping[str, Any] | None:
    """The first evaluation with a test accuracy above the target, or None.

    Example:
        >>> rows = [{"val_accuracy": 0.5}, {"val_accuracy": 0.75}]
        >>> first_above(rows, 0.5), first_above(rows, 0.75)
        ({'val_accuracy': 0.75}, None)
    """
    return next((row for row in rows if passes(row, target)), None)


def sent_bytes(row: Mapping[str, Any]) -> int:
    """State and model bytes that were sent, the models up and down."""
    return int(row["state_bytes"]) + int(row["model_bytes"])


def paper_bytes(row: Mapping[str, Any]) -> int:
    """State and model bytes by the paper's formulas: no cascade saves any."""
    return int(row["paper_state_bytes"]) + int(row["paper_model_bytes"])


def summarise(
    rows: Sequence[Mapping[str, Any]],
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


def check_outputs(results_dir: str, summary: str | None) -> None:
    """Refuses folders and files that cannot be written; see above."""
    check_writable("results_dir", results_dir, pathlib.Path(results_dir))
    if summary:
        check_writable("summary", summary, pathlib.Path(summary).parent)


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
    """Writes strict JSON, whole or not at all, as `store.plain` makes it."""
    partial = path.with_suffix(".partial")
    text = json.dumps(store.plain(value), indent=2, allow_nan=False)
    with open(partial, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())  # before its name: a power cut leaves no half
    os.replace(partial, path)


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, as numbers; none if there is no file."""
    try:
        rows = store.read_csv(folder / "metrics.csv")
    except FileNotFoundError:
        return []
    return [{k: float(v or "nan") for k, v in row.items()} for row in rows]
