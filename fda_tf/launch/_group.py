"""The processes of one start: they begin together, and end together."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from fda_tf.launch import _output, _tether

GRACE_SECONDS = 5.0  # from being asked to end to being killed
POLL_SECONDS = 0.05  # between two looks at the workers
LAST_WORDS_SECONDS = 1.0  # for those that fail of the same, to say so
ENDED_BY_SIGTERM = 128 + signal.SIGTERM  # as programs say it themselves


@dataclasses.dataclass(frozen=True)
class Failure:
    """The worker that failed first, and its process's return code."""

    worker: int
    code: int

    def words(self) -> str:
        """Returns what happened.

        Example:
          >>> Failure(2, -9).words()
          'worker 2 was ended by signal 9 (SIGKILL)'
        """
        ended = f"ended with exit code {self.code}"
        if self.code < 0:
            ended = f"was ended by signal {-self.code} ({_name(-self.code)})"
        return f"worker {self.worker} {ended}"

    def exit_code(self) -> int:
        """A process ended by signal n has code -n; shells say 128 + n."""
        return self.code if self.code >= 0 else 128 - self.code


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Waits until the condition holds; returns whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


class Group:
    """The workers of one start.

    Args:
      asked: the signals that asked us to end, which come in as they come.
    """

    def __init__(self, asked: Sequence[int]):
        self._asked = asked
        self._processes: list[subprocess.Popen] = []
        self._readers: list[_output.Reader] = []

    def start(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Starts the next worker."""
        worker = len(self._processes)
        # Isolated and without site: it starts in 20 ms, whatever is installed.
        tether = [sys.executable, "-I", "-S", _tether.__file__]
        process = subprocess.Popen(
            [*tether, str(os.getpid()), *command],
            env=environment,
            stdout=subprocess.PIPE if worker else None,
            stderr=subprocess.STDOUT if worker else None,
        )
        self._processes.append(process)
        if worker:
            reader = _output.Reader(process.stdout, f"[worker {worker}] ")
            self._readers.append(reader)
            reader.start()

    def wait(self) -> Failure | None:
        """Waits for all, for the first failure, or until asked to end."""
        while not self._asked:
            failure = self.failure()
            if failure is not None:
                until(self._ended, LAST_WORDS_SECONDS)
                return failure
            if self._ended():
                break
            time.sleep(POLL_SECONDS)
        return None

    def failure(self) -> Failure | None:
        """Returns which has failed; if several, the likeliest cause."""
        codes = [process.poll() for process in self._processes]
        failed = [k for k, code in enumerate(codes) if code]
        if not failed:
            return None
        # Within one look, one that was killed (its code is below 0) is the
        # likelier cause: the others fail because it is gone.
        first = min(failed, key=lambda k: codes[k] > 0)
        return Failure(first, codes[first])

    def end(self, grace: float) -> None:
        """Ends what still runs: asks first, since it may be writing files.

        One that fails meanwhile leaves the others waiting in a collective,
        where TensorFlow swallows SIGTERM: they have `GRACE_SECONDS` more.

        Args:
          grace: seconds until they are killed.
        """
        try:
            for process in self._processes:
                process.terminate()  # does nothing to one that has ended
            if not until(self._settled, grace) or self._asked_twice():
                return
            until(
                lambda: self._ended() or self._asked_twice(),
                min(grace, GRACE_SECONDS),
            )
        finally:  # also at a Ctrl-C
            for process in self._processes:
                process.kill()
                process.wait()
            for reader in self._readers:
                # One that left a process of its own behind may never be read
                # to its end.
                reader.join(timeout=GRACE_SECONDS)

    def _ended(self) -> bool:
        return all(process.poll() is not None for process in self._processes)

    def _settled(self) -> bool:
        """Whether there is no point in more patience than `GRACE_SECONDS`."""
        codes = [process.poll() for process in self._processes]
        failed = any(code not in (None, 0, ENDED_BY_SIGTERM) for code in codes)
        return None not in codes or failed or self._asked_twice()

    def _asked_twice(self) -> bool:
        return len(self._asked) > 1
