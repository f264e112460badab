"""Checkpoints on disk: a run's state, kept so that a crash cannot spoil it.

  DIRECTORY/step-000000050/worker-00001-of-00004.data  the arrays' bytes
                           worker-00001-of-00004.json  what they are

Each worker writes its own pair, to a folder that all share or to its own
machine's. The data file is nothing but the arrays' bytes, one array after the
other in C order, so that reading it can run no code. The manifest tells names,
dtypes, shapes and the data's SHA-256, ends with a SHA-256 of itself, and comes
last: data without a manifest is no checkpoint. TensorFlow is not needed here.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from fda_tf import checks

FORMAT = 1  # of the manifest; its seal is the same in every version
PIECE = 2**22  # bytes: hashed and written while the processor has them at hand
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
        keep = checks.count("Checkpoint: keep", self.keep, "checkpoints")
        object.__setattr__(self, "keep", keep)
        if self.every is not None:
            every = checks.count("Checkpoint: every", self.every, "steps")
            object.__setattr__(self, "every", every)

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
        arrays = {k: _plain(k, array) for k, array in arrays.items()}
        try:
            json.dumps(facts)  # before anything is written
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"facts cannot be written as JSON: {error}. Give dicts, lists, "
                "strings, plain numbers (float(x), int(x)), booleans or None."
            ) from error
        self._part(step, worker, workers).write(arrays, facts)
        _flush_folder(self.directory)

    def read(
        self, step: int, worker: int, workers: int
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns one worker's arrays and facts of a checkpoint.

        Raises:
          ValueError: naming the file that is missing, torn, damaged or of
            another format.
          OSError: when the disk or its permissions refuse.
        """
        try:
            return self._part(step, worker, workers).read()
        except _DamagedError as error:
            raise ValueError(
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
            for part in self._parts(step):
                if part.worker != worker or workers not in (None, part.workers):
                    continue
                try:
                    part.check()
                except _DamagedError as error:
                    logging.warning("%s; taking the one before it.", error)
                else:
                    yield step, part.workers

    def workers_of(self, step: int) -> list[int]:
        """Returns each K for which the parts of all K workers are there.

        They are not looked into; in a folder that is not shared there are only
        one's own.
        """
        there = [p.workers for p in self._parts(step) if p.data.exists()]
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
        for step in self.steps():
            part = self._part(step, worker, workers)
            if left and part.manifest.exists():
                left -= 1
                part.remove_unfinished()
            else:
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

    def _part(self, step: int, worker: int, workers: int) -> "_Part":
        if step < 0 or not 0 <= worker < workers:
            raise ValueError(
                f"step={step}, worker={worker}, workers={workers}: expected a "
                "step of at least 0 and a worker from 0 to workers - 1."
            )
        return _Part(self._folder(step), int(step), int(worker), int(workers))

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / f"step-{step:09d}"

    def steps(self) -> list[int]:
        """All steps that have a folder, newest first."""
        names = map(FOLDER.fullmatch, _names(self.directory))
        steps = {int(name[1]) for name in names if name}
        there = [step for step in steps if self._folder(step).is_dir()]
        return sorted(there, reverse=True)

    def _parts(self, step: int) -> list["_Part"]:
        """All parts of a step that have a manifest."""
        names = map(MANIFEST.fullmatch, _names(self._folder(step)))
        numbers = {(int(name[1]), int(name[2])) for name in names if name}
        parts = [self._part(step, i, k) for i, k in sorted(numbers) if i < k]
        return [part for part in parts if part.manifest.exists()]


class _DamagedError(ValueError):
    """A file of a checkpoint that is not as it was written."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """One worker's two files of one step."""

    folder: pathlib.Path
    step: int
    worker: int
    workers: int

    @property
    def data(self) -> pathlib.Path:
        return self._file(".data")

    @property
    def manifest(self) -> pathlib.Path:
        return self._file(".json")

    def _file(self, ending: str) -> pathlib.Path:
        name = f"worker-{self.worker:05d}-of-{self.workers:05d}{ending}"
        return self.folder / name

    def write(self, arrays: dict[str, np.ndarray], facts: Any) -> None:
        new_data, new_manifest = map(_unfinished, (self.data, self.manifest))
        try:
            pieces = (p for array in arrays.values() for p in _pieces(array))
            size, sha256 = _store(new_data, pieces)
            content = self._place() | {
                "bytes": size,
                "sha256": sha256,
                "arrays": [_entry(*item) for item in arrays.items()],
                "facts": facts,
            }
            body = json.dumps(content, indent=1).removesuffix("\n}").encode()
            _store(new_manifest, [body, _seal(body)])
            # Never an old manifest with new data: no checkpoint, rather.
            self.manifest.unlink(missing_ok=True)
            os.replace(new_data, self.data)
            os.replace(new_manifest, self.manifest)
            _flush_folder(self.folder)
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove_unfinished()
                self.folder.rmdir()
            raise

    def read(self) -> tuple[dict[str, np.ndarray], Any]:
        content = self._content()
        arrays = {e["name"]: self._blank(e) for e in content["arrays"]}
        if sum(a.nbytes for a in arrays.values()) != content["bytes"]:
            raise _DamagedError(
                f"{self.manifest} is damaged: its arrays do not add up to "
                f"{content['bytes']} bytes"
            )
        digest = hashlib.sha256()
        with self._open_data(content) as file:
            for array in arrays.values():
                for piece in _pieces(array):
                    file.readinto(piece)
                    digest.update(piece)
        self._compare(digest, content)
        return arrays, content["facts"]

    def check(self) -> None:
        """Reads all of it; raises _DamagedError unless it is sound."""
        content = self._content()
        with self._open_data(content) as file:
            digest = hashlib.file_digest(file, "sha256")
        self._compare(digest, content)

    def remove(self) -> None:
        """Removes the files, and the folder when it is empty then."""
        self.manifest.unlink(missing_ok=True)
        self.data.unlink(missing_ok=True)
        self.remove_unfinished()
        with contextlib.suppress(OSError):  # not empty, or gone already
            self.folder.rmdir()

    def remove_unfinished(self) -> None:
        for path in (self.data, self.manifest):
            _unfinished(path).unlink(missing_ok=True)

    def _place(self) -> dict[str, int]:
        """What a manifest begins with."""
        return {
            "fda_tf_checkpoint": FORMAT,
            "step": self.step,
            "worker": self.worker,
            "workers": self.workers,
        }

    def _content(self) -> dict[str, Any]:
        """Returns the manifest, once its seal and its place are seen to fit."""
        try:
            sealed = self.manifest.read_bytes()
        except FileNotFoundError:
            raise _DamagedError(f"{self.manifest} is missing") from None
        body, seal = sealed[: -len(_seal(b""))], sealed[-len(_seal(b"")) :]
        if seal != _seal(body):
            raise _DamagedError(
                f"{self.manifest} is torn or damaged: its {len(sealed)} bytes "
                "do not fit their own SHA-256"
            )
        content = json.loads(sealed)
        version = content.get("fda_tf_checkpoint")
        if version != FORMAT:
            raise ValueError(
                f"{self.manifest} has format version {version}; this fda_tf "
                f"reads version {FORMAT}. Use the fda_tf that wrote it, or "
                "give another directory."
            )
        if not self._place().items() <= content.items():
            raise _DamagedError(
                f"{self.manifest} is another's: it says "
                + ", ".join(f"{k} {content.get(k)}" for k in self._place())
            )
        return content

    def _blank(self, entry: dict[str, Any]) -> np.ndarray:
        """Returns an array to be filled, never one of Python objects."""
        try:
            return np.empty(entry["shape"], _dtype(entry["dtype"]))
        except (TypeError, ValueError, AttributeError) as error:
            raise _DamagedError(
                f"{self.manifest}: array {entry['name']!r} has dtype "
                f"{entry['dtype']!r} and shape {entry['shape']}: {error}"
            ) from None

    def _open_data(self, content: dict[str, Any]) -> BinaryIO:
        try:
            file = open(self.data, "rb")
        except FileNotFoundError:
            raise _DamagedError(f"{self.data} is missing") from None
        size = os.fstat(file.fileno()).st_size
        if size != content["bytes"]:
            file.close()
            raise _DamagedError(
                f"{self.data} is torn: {size} of {content['bytes']} bytes"
            )
        return file

    def _compare(self, digest: Any, content: dict[str, Any]) -> None:
        if digest.hexdigest() != content["sha256"]:
            raise _DamagedError(
                f"{self.data} is damaged: its {content['bytes']} bytes do not "
                f"fit the SHA-256 in {self.manifest.name}"
            )


def _plain(name: str, array: Any) -> np.ndarray:
    """Returns the array if its bytes alone, with its dtype, say what it is."""
    if not isinstance(name, str):
        raise ValueError(f"arrays: key {name!r}: expected a string.")
    if not isinstance(array, np.ndarray | np.generic):
        raise ValueError(
            f"arrays[{name!r}] is a {type(array).__name__}: expected a NumPy "
            "array; np.asarray makes one."
        )
    try:
        if _dtype(_dtype_name(array.dtype)) != array.dtype:
            raise TypeError("its name does not tell its fields")
    except TypeError as error:
        raise ValueError(
            f"arrays[{name!r}] has dtype {array.dtype}: {error}. Expected "
            "numbers, booleans, dates or strings of a fixed length; a "
            "checkpoint holds nothing that needs pickle."
        ) from None
    return np.asarray(array)


def _entry(name: str, array: np.ndarray) -> dict[str, Any]:
    dtype = _dtype_name(array.dtype)
    return {"name": name, "dtype": dtype, "shape": list(array.shape)}


def _dtype_name(dtype: np.dtype) -> str:
    """Returns "<f4" and the like, or "ml_dtypes.bfloat16" and the like."""
    if dtype.type.__module__ == "ml_dtypes":
        return f"ml_dtypes.{dtype.name}"
    return dtype.str


def _dtype(name: str) -> np.dtype:
    """Returns the dtype of a name; TypeError if it is one of objects."""
    package, _, short = name.rpartition(".")
    if package == "ml_dtypes":
        import ml_dtypes  # TensorFlow brings it

        dtype = np.dtype(getattr(ml_dtypes, short))
    else:
        dtype = np.dtype(name)
    if dtype.hasobject:
        raise TypeError("it holds Python objects")
    return dtype


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    """Yields the array's own bytes in C order, at most PIECE at a time.

    Of an array that is not contiguous, they are copies.
    """
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    length = max(1, PIECE // max(1, array.itemsize))
    for i in range(0, array.size, length):
        piece = np.ascontiguousarray(flat[i : i + length])
        yield memoryview(piece.view(np.uint8))


def _store(path: pathlib.Path, pieces: Iterable[Any]) -> tuple[int, str]:
    """Writes through to the disk; returns how many bytes, and their SHA-256."""
    size, digest = 0, hashlib.sha256()
    try:
        with _create(path) as file:
            for piece in pieces:
                digest.update(piece)
                size += file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names none
        raise
    return size, digest.hexdigest()


def _create(path: pathlib.Path) -> BinaryIO:
    """Opens a new file, in a new folder if need be."""
    for _ in range(100):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another worker may have found the folder empty, and removed it.
        with contextlib.suppress(FileNotFoundError):
            return open(path, "wb")
    raise FileNotFoundError(errno.ENOENT, "its folder is not kept", str(path))


def _unfinished(path: pathlib.Path) -> pathlib.Path:
    """A file's name as long as it is being written."""
    return path.with_name(path.name + ".tmp")


def _seal(body: bytes) -> bytes:
    """The end of a manifest, which makes it JSON and vouches for the rest."""
    digest = hashlib.sha256(body).hexdigest()
    return f',\n "sha256_of_the_above": "{digest}"\n}}\n'.encode()


def _names(folder: pathlib.Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # removed by another worker, or not made yet
        return []


def _flush_folder(folder: pathlib.Path) -> None:
    """Makes new names in a folder outlast a crash of the machine."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some file systems have no such thing
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
