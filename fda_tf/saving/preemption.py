"""SIGTERM: the machine is wanted for something else."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from absl import logging


class Preemption:
    """Remembers SIGTERM while it watches, in place of ending the process.

    Only the main thread can watch; elsewhere nothing is changed.

    Args:
      tell: called when it comes, in a thread of its own, since the main one
        may be in a compiled call of many steps.

    Example:
      >>> preemption = Preemption()
      >>> with preemption.watch():
      ...     signal.raise_signal(signal.SIGTERM)
      >>> preemption.came
      True
    """

    def __init__(self, tell: Callable[[], None] = lambda: None):
        self.came = False
        self._tell = tell

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Makes the context in which SIGTERM is remembered."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with self._listening(), _handler(self._remember):
            yield

    @staticmethod
    def end(step: int, chief: bool) -> None:
        """Ends the process, whose state is saved.

        Args:
          step: that was saved.
          chief: whether to say so.
        """
        if chief:
            logging.warning(
                "SIGTERM: all workers have saved step %d, and end. Started "
                "again, they go on from there.",
                step,
            )
        raise SystemExit(0)

    def _remember(self, *_) -> None:
        self.came = True

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Hears of signals at once, whatever the main thread is doing."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        thread = threading.Thread(
            target=self._listen, args=(reading,), daemon=True
        )
        thread.start()
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(writing)  # which ends the thread
            thread.join()
            os.close(reading)

    def _listen(self, reading: int) -> None:
        while heard := os.read(reading, 1):
            if heard[0] == signal.SIGTERM:
                self.came = True
                self._tell()


@contextlib.contextmanager
def _handler(function: Callable) -> Iterator[None]:
    """Handles SIGTERM by a function."""
    before = signal.signal(signal.SIGTERM, function)
    try:
        yield
    finally:
        # None: what was there was set in C, and cannot be put back.
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
