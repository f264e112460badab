"""Checkpoints on disk: a run's state, kept so that a crash cannot spoil it.

  DIRECTORY/step-000000050/worker-00001-of-00004.data  the arrays' bytes
                           worker-00001-of-00004.json  what they are

Each worker writes its own pair, to a folder that all share or to its own
machine's; `fda_tf.checkpoint.file_format` says what is in them. TensorFlow is
not needed here.
"""

import dataclasses
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from fda_tf import validate
from fda_tf.checkpoint.file_format import (
    DamagedError,
    Part,
    flush_folder,
    names,
    plain,
)

FOLDER = re.compile("step-([0-9]{9,})")
MANIFEST = re.compile(r"worker-([0-9]{5,})-of-([0-9]{5,})\.json")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its state, how often, and how many of them.

    Args:
      directory: a folder, made if it is not there; `~` is the user's home.
        Runs with other numbers of workers may use the same one.
      every: steps from one checkpoint to the next, at least 1; None for one at
        the end of each epoch.
      keep: checkpoints that stay, at least 1; older ones are removed.

    Raises:
      ValueError: when one of them is none of these.

    Example:
      >>> saved = Checkpoint(tempfile.mkdtemp(), every=50)
      >>> saved.prepare()
      >>> for step in (50, 100):
      ...     arrays = {"weights": np.full(3, step)}
      ...     saved.write(step, 0, 1, arrays, {"epoch": step // 50})
      >>> list(saved.found(worker=0))
      [(100, 1), (50, 1)]
      >>> saved.read(100, worker=0, workers=1)
      ({'weights': array([100, 100, 100])}, {'epoch': 2})
    """

    directory: str | os.PathLike
    every: int | None = None
    keep: int = 3

    def __post_init__(self):
        try:
            if not os.fspath(self.directory):
                raise TypeError
            directory = pathlib.Path(self.directory).expanduser().absolute()
        except (TypeError, RuntimeError):  # no path; no such user's home
            raise ValueError(
                f"Checkpoint: directory={self.directory!r}: expected the path "
                "of a folder."
            ) from None
        object.__setattr__(self, "directory", directory)
        keep = validate.count("Checkpoint: keep", self.keep, "checkpoints")
        object.__setattr__(self, "keep", keep)
        if self.every is not None:
            every = validate.count("Checkpoint: every", self.every, "steps")
            object.__setattr__(self, "every", every)

    def is_due(self, step: int, at_boundary: bool) -> bool:
        """Returns whether a checkpoint is due.

        Args:
          step: steps done.
          at_boundary: whether an epoch or an evaluation has just ended.
        """
        return step % self.every == 0 if self.every else at_boundary

    def steps_to_next(self, step: int) -> int | None:
        """Returns the steps until the next one; None if no step brings it."""
        return self.every - step % self.every if self.every else None

    def prepare(self) -> None:
        """Makes the directory and sees that files can be written there.

        Raises:
          ValueError: when they cannot; it says why.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory) as file:
                file.write(b"fda_tf")
        except OSError as error:
            raise ValueError(
                f"Checkpoint: directory={str(self.directory)!r} cannot be "
                f"written: {error.strerror}. Give a folder in which this "
                "process may make files, on a disk that has room."
            ) from error

    def write(
        self,
        step: int,
        worker: int,
        workers: int,
        arrays: Mapping[str, np.ndarray],
        facts: Mapping[str, Any],
    ) -> None:
        """Writes one worker's part of a checkpoint, all of it or none.

        When this returns, the part outlasts a crash of the machine. Memory:
        `PIECE` bytes at most, however large the arrays are.

        Args:
          step: steps done.
          worker: whose part it is, from 0.
          workers: how many there are.
          arrays: of any shape; of numbers (those of ml_dtypes too), booleans,
            dates or strings of a fixed length.
          facts: what JSON can hold; it gives tuples back as lists, and the
            keys of dicts as strings.

        Raises:
          ValueError: for arrays or facts that cannot be stored so.
          OSError: for a full disk or the like; what was written of this part
            is removed, and all that was there before stays.
        """
        arrays = {k: plain(k, array) for k, array in arrays.items()}
        try:
            json.dumps(facts)  # before anything is written
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"facts cannot be written as JSON: {error}. Give dicts, lists, "
                "strings, plain numbers (float(x), int(x)), booleans or None."
            ) from error
        self._part(step, worker, workers).write(arrays, facts)
        flush_folder(self.directory)

    def read(
        self, step: int, worker: int, workers: int
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns one worker's arrays and facts of a checkpoint.

        Raises:
          ValueError: naming the file that is missing, torn, damaged (all of
            these a `DamagedError`) or of another format.
          OSError: when the disk or its permissions refuse.
        """
        try:
            return self._part(step, worker, workers).read()
        except DamagedError as error:
            raise DamagedError(
                f"{error}. Take another checkpoint and remove this one."
            ) from None

    def found(
        self, worker: int, workers: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Yields (step, workers) of this worker's sound parts, newest first.

        A part is read through before it is yielded, so take no more than
        needed. Each one that is torn or damaged is warned of, and passed over.

        Args:
          worker: whose parts, from 0.
          workers: of a run with so many workers; None for any number.

        Raises:
          ValueError: at a part of another format: no damage, and no reason to
            start from an older one without being asked.
        """
        for step in self.steps():
            for part in self.parts(step):
                if part.worker != worker or workers not in (None, part.workers):
                    continue
                try:
                    part.check()
                except DamagedError as error:
                    logging.warning("%s; taking the one before it.", error)
                else:
                    yield step, part.workers

    def workers_of(self, step: int) -> list[int]:
        """Returns each K for which the parts of all K workers are there.

        They are not looked into; in a folder that is not shared there are only
        one's own.
        """
        there = [p.workers for p in self.parts(step) if p.data.exists()]
        return sorted(k for k in set(there) if there.count(k) == k)

    def prune(self, worker: int, workers: int, but: int | None = None) -> None:
        """Removes this worker's parts, but for the newest ones.

        Also removes what a killed process of this worker has left. Call it
        when all workers have written, or the last whole set may go.

        Args:
          worker: whose parts, from 0.
          workers: how many there are; other runs' parts stay.
          but: how many to keep; None for `keep`.
        """
        left = self.keep if but is None else but
        older = []
        for step in self.steps():
            part = self._part(step, worker, workers)
            if left and part.manifest.exists():
                left -= 1
                part.remove_unfinished()
            else:
                older.append(part)
        for part in reversed(older):  # killed midway, it leaves no gap
            part.remove()

    def rewind(self, step: int, worker: int, workers: int) -> None:
        """Removes this worker's parts of all later steps.

        For a run that goes on from `step`: a later part of its former life
        must never make a set with the new ones of the other workers.
        """
        for later in self.steps():
            if later > step:
                self.discard(later, worker, workers)

    def discard(self, step: int, worker: int, workers: int) -> None:
        """Removes one worker's part of a step, if it is there."""
        self._part(step, worker, workers).remove()

    def _part(self, step: int, worker: int, workers: int) -> Part:
        if step < 0 or not 0 <= worker < workers:
            raise ValueError(
                f"step={step}, worker={worker}, workers={workers}: expected a "
                "step of at least 0 and a worker from 0 to workers - 1."
            )
        return Part(self._folder(step), int(step), int(worker), int(workers))

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / f"step-{step:09d}"

    def steps(self) -> list[int]:
        """All steps that have a folder, newest first."""
        found = map(FOLDER.fullmatch, names(self.directory))
        steps = {int(name[1]) for name in found if name}
        there = [step for step in steps if self._folder(step).is_dir()]
        return sorted(there, reverse=True)

    def parts(self, step: int) -> list[Part]:
        """Returns all parts of a step that have a manifest."""
        found = map(MANIFEST.fullmatch, names(self._folder(step)))
        numbers = {(int(name[1]), int(name[2])) for name in found if name}
        parts = [self._part(step, i, k) for i, k in sorted(numbers) if i < k]
        return [part for part in parts if part.manifest.exists()]
