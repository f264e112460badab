"""An end to every wait for other workers.

TensorFlow has a time limit of its own for a collective; but each one then
keeps two threads asleep until its time is over, and a process that has had
some 16,000 of them can make no more threads. One thread here watches all.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

LONGEST_PAUSE = 1.0  # seconds between two looks


class Patience:
    """Watches what waits for others, and calls when it takes too long.

    Args:
      seconds: to wait.
      lose: what to do then, once, in another thread.

    Example:
      >>> lost = threading.Event()
      >>> patience = Patience(0.1, lost.set)
      >>> with patience.waiting():
      ...     lost.wait(10)
      True
    """

    def __init__(self, seconds: float, lose: Callable[[], None]):
        self._seconds, self._lose = seconds, lose
        self._progress: Callable[[], int] | None = None
        self._since: float | None = None  # None: nobody waits
        self._last: int | None = None
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def waiting(self, progress: Callable[[], int] | None = None) -> Iterator:
        """Makes a context in which this process may wait for others.

        Args:
          progress: returns a number; as long as it changes, all is well.
        """
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._watch, name="fda_tf patience", daemon=True
            )
            self._thread.start()
        before = self._since, self._progress, self._last
        self._progress, self._last = progress, None
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since, self._progress, self._last = before

    def _watch(self) -> None:
        while True:
            time.sleep(min(LONGEST_PAUSE, self._seconds / 4))
            since, progress = self._since, self._progress
            if since is None:
                continue
            if progress is not None and (now := progress()) != self._last:
                if self._since == since:  # still the same wait
                    self._last, self._since = now, time.monotonic()
            elif time.monotonic() - since > self._seconds:
                self._since = None
                self._lose()
