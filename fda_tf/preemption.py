"""SIGTERM: the machine is wanted for something else."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Preemption:
    """Remembers SIGTERM while it watches, in place of ending the process.

    Only the main thread can watch; elsewhere nothing is changed.

    Example:
      >>> preemption = Preemption()
      >>> with preemption.watch():
      ...     signal.raise_signal(signal.SIGTERM)
      >>> preemption.came
      True
    """

    def __init__(self):
        self.came = False

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Makes the context in which SIGTERM is remembered."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._remember)
        try:
            yield
        finally:
            # None: what was there was set in C, and cannot be put back.
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    def _remember(self, *_) -> None:
        self.came = True
