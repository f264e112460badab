"""What a worker says, line by line, with its name before each."""

import codecs
import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import sys
import threading
from collections.abc import Iterable
from typing import IO

from absl import logging

# Information of TensorFlow's C++: what its import says, before any setting
# counts, is the same on all workers, and worker 0's is shown.
INFORMATION = re.compile(
    rb"I\d{4} [\d:.]+ +\d+ \S+:\d+\] |"
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
)
CHUNK_BYTES = 65536  # also the longest line that is shown in one piece
LAST_LINES = 60  # of a worker that failed, where its output is not shown


@dataclasses.dataclass(frozen=True)
class Output:
    """Where the workers' output goes.

    Args:
      quiet: whether only worker 0's is shown.
      folder: which has a file for each worker, to which its output is added;
        None for no files.
    """

    quiet: bool = False
    folder: str | os.PathLike | None = None

    def is_piped(self, worker: int) -> bool:
        """Whether we read it: worker 0 has the terminal, if nobody need."""
        return worker > 0 or self.folder is not None

    def reader(self, worker: int, stream: IO[bytes]) -> "Reader":
        """Returns what reads a worker's output."""
        prefix = f"[worker {worker}] " if worker else None
        file = None
        if self.folder is not None:
            path = pathlib.Path(self.folder, f"worker-{worker}.log")
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab", buffering=0)
        return Reader(stream, prefix, worker > 0 and self.quiet, file)


class Reader(threading.Thread):
    """Shows a worker's output until it ends.

    A progress bar draws over itself: it ends its states with carriage returns,
    and its line only when it is full. Of such a line the last state is shown.

    Args:
      stream: the worker's output.
      prefix: what each line begins with; None shows all as it comes.
      quiet: whether nothing is shown, but by `show_last`.
      file: to which everything is written as it is, or None.
    """

    def __init__(
        self,
        stream: IO[bytes],
        prefix: str | None,
        quiet: bool = False,
        file: IO[bytes] | None = None,
    ):
        super().__init__(daemon=True)
        self._stream, self._prefix = stream, prefix
        self._quiet, self._file = quiet, file
        self._last: collections.deque[bytes] = collections.deque(
            maxlen=LAST_LINES
        )

    def run(self) -> None:
        """Reads to the end: a worker that nobody reads would stand still."""
        rest = b""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        with self._stream, self._file or contextlib.nullcontext():
            while chunk := self._stream.read1(CHUNK_BYTES):
                self._keep(chunk)
                if self._prefix is None:
                    _write(decode(chunk))
                    continue
                *lines, rest = (rest + chunk).split(b"\n")
                rest = _undrawn(rest)
                if len(rest) > CHUNK_BYTES:
                    lines, rest = [*lines, rest], b""
                self._take(lines)
        if shown(rest):
            self._take([rest])

    def show_last(self) -> None:
        """Shows the end of what was not shown."""
        self._show(self._last)
        self._last.clear()

    def _keep(self, chunk: bytes) -> None:
        try:
            if self._file is not None:
                self._file.write(chunk)
        except OSError as error:  # such as a full disk; the worker goes on
            logging.warning("%s is not whole: %s", self._file.name, error)
            self._file = None

    def _take(self, lines: Iterable[bytes]) -> None:
        if self._quiet:
            self._last.extend(lines)
        else:
            self._show(lines)

    def _show(self, lines: Iterable[bytes]) -> None:
        texts = [
            shown(line).decode(errors="replace")
            for line in lines
            if not INFORMATION.match(line)
        ]
        _write("".join(f"{self._prefix}{text}\n" for text in texts))


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError):
        pass  # nobody listens to us any more; the worker may go on


def shown(line: bytes) -> bytes:
    r"""Returns what a terminal would show of a line in the end.

    Example:
      >>> shown(b"\r1/2\b\b\b\r2/2\r")
      b'2/2'
    """
    return line.rstrip(b"\r\b").rpartition(b"\r")[2].lstrip(b"\b")


def _undrawn(rest: bytes) -> bytes:
    """Returns a line's beginning without the states that are drawn over."""
    state = rest.rstrip(b"\r\b")
    return rest[state.rfind(b"\r") + 1 :]
