"""SIGTERM: the machine is wanted for something else."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from absl import logging

NOT_SAVED = 128 + signal.SIGTERM  # as programs say that it ended them


class Preempted(SystemExit):
    """The end of a worker that got SIGTERM; that of all, as they agreed."""


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
    def end(step: int, saved: int | None, chief: bool) -> None:
        """Ends the process, when all workers have tried to save their state.

        Args:
          step: that they are at.
          saved: the step of the last checkpoint; None if there is none.
          chief: whether to say so.

        Raises:
          Preempted: with 0 if the step is saved, else with `NOT_SAVED`.
        """
        if saved == step:
            message = f"all workers have saved step {step}, and end. Started "
            message += "again, they go on from there."
        else:
            then = "begin anew" if saved is None else f"go on from step {saved}"
            message = f"all workers end, but step {step} could not be saved; "
            message += f"their output says why. Started again, they {then}."
        if chief:
            logging.warning("SIGTERM: %s", message)
        raise Preempted(0 if saved == step else NOT_SAVED)

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
