"""One worker's part of a checkpoint: two files that vouch for each other.

The data file is nothing but the arrays' bytes, one array after the other in C
order, so that reading it can run no code. The manifest tells names, dtypes,
shapes and the data's SHA-256, ends with a SHA-256 of itself, and comes last:
data without a manifest is no checkpoint.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

# Of the manifest, and of what a run state names in it. Count it up when either
# changes, and store a fixture as tests/checkpoint/test_format.py says. The seal
# is the same in every format.
FORMAT = 2
PIECE = 2**22  # bytes: hashed and written while the processor has them at hand


class DamagedError(ValueError):
    """A file of a checkpoint that is not as it was written."""


@dataclasses.dataclass(frozen=True)
class Part:
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
            flush_folder(self.folder)
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove_unfinished()
                self.folder.rmdir()
            raise

    def read(self) -> tuple[dict[str, np.ndarray], Any]:
        content = self._content()
        arrays = {e["name"]: self._blank(e) for e in content["arrays"]}
        if sum(a.nbytes for a in arrays.values()) != content["bytes"]:
            raise DamagedError(
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
        """Reads all of it; raises DamagedError unless it is sound."""
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
            raise DamagedError(f"{self.manifest} is missing") from None
        body, seal = sealed[: -len(_seal(b""))], sealed[-len(_seal(b"")) :]
        if seal != _seal(body):
            raise DamagedError(
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
            raise DamagedError(
                f"{self.manifest} is another's: it says "
                + ", ".join(f"{k} {content.get(k)}" for k in self._place())
            )
        return content

    def _blank(self, entry: dict[str, Any]) -> np.ndarray:
        """Returns an array to be filled, never one of Python objects."""
        try:
            return np.empty(entry["shape"], _dtype(entry["dtype"]))
        except (TypeError, ValueError, AttributeError) as error:
            raise DamagedError(
                f"{self.manifest}: array {entry['name']!r} has dtype "
                f"{entry['dtype']!r} and shape {entry['shape']}: {error}"
            ) from None

    def _open_data(self, content: dict[str, Any]) -> BinaryIO:
        try:
            file = open(self.data, "rb")
        except FileNotFoundError:
            raise DamagedError(f"{self.data} is missing") from None
        size = os.fstat(file.fileno()).st_size
        if size != content["bytes"]:
            file.close()
            raise DamagedError(
                f"{self.data} is torn: {size} of {content['bytes']} bytes"
            )
        return file

    def _compare(self, digest: Any, content: dict[str, Any]) -> None:
        if digest.hexdigest() != content["sha256"]:
            raise DamagedError(
                f"{self.data} is damaged: its {content['bytes']} bytes do not "
                f"fit the SHA-256 in {self.manifest.name}"
            )


def plain(name: str, array: Any) -> np.ndarray:
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


def names(folder: pathlib.Path) -> list[str]:
    """Returns the names in a folder; none if it is not there."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # removed by another worker, or not made yet
        return []


def flush_folder(folder: pathlib.Path) -> None:
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
