"""What a worker says, line by line, with its name before each."""

import sys
import threading
from collections.abc import Sequence
from typing import IO

CHUNK_BYTES = 65536  # also the longest line that is shown in one piece


class Reader(threading.Thread):
    """Shows a worker's output until it ends.

    A progress bar draws over itself: it ends its states with carriage returns,
    and its line only when it is full. Of such a line the last state is shown.

    Args:
      stream: the worker's output.
      prefix: what each line begins with.
    """

    def __init__(self, stream: IO[bytes], prefix: str):
        super().__init__(daemon=True)
        self._stream, self._prefix = stream, prefix

    def run(self) -> None:
        """Reads to the end: a worker that nobody reads would stand still."""
        rest = b""
        with self._stream:
            while chunk := self._stream.read1(CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                rest = _undrawn(rest)
                if len(rest) > CHUNK_BYTES:
                    lines, rest = [*lines, rest], b""
                self._show(lines)
        if shown(rest):
            self._show([rest])

    def _show(self, lines: Sequence[bytes]) -> None:
        texts = [shown(line).decode(errors="replace") for line in lines]
        whole = "".join(f"{self._prefix}{text}\n" for text in texts)
        try:
            sys.stdout.write(whole)
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
