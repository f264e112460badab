"""The processes of one start: they begin together, and end together."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from fda_tf.launch import _output, _tether

GRACE_SECONDS = 5.0  # from being asked to end to being killed
POLL_SECONDS = 0.05  # between two looks at the workers
LAST_WORDS_SECONDS = 5.0  # for those that fail of the same, to say so
PREEMPTED = 128 + signal.SIGTERM  # the exit code of one that has saved


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
      output: where the workers' output goes.
    """

    def __init__(self, asked: Sequence[int], output: _output.Output):
        self._asked, self._output = asked, output
        self._processes: list[subprocess.Popen] = []
        self._readers: dict[int, _output.Reader] = {}

    def start(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Starts the next worker."""
        worker = len(self._processes)
        piped = self._output.is_piped(worker)
        process = subprocess.Popen(
            _tether.tethered(command),
            env=environment,
            stdout=subprocess.PIPE if piped else None,
            stderr=subprocess.STDOUT if piped else None,
            start_new_session=True,  # with all processes that it will start
        )
        self._processes.append(process)
        if piped:
            reader = self._output.reader(worker, process.stdout)
            self._readers[worker] = reader
            reader.start()

    def wait(self, grace: float) -> Failure | None:
        """Waits for all, for the first failure, or until asked to end.

        Args:
          grace: seconds that the others have when one was preempted.
        """
        while not (self._asked or self._ended()):
            failure = self.failure()
            if failure is not None:
                until(self._ended, LAST_WORDS_SECONDS)
                return failure
            if self.preempted:
                until(self._settled, grace)
                break
            time.sleep(POLL_SECONDS)
        return None

    @property
    def preempted(self) -> bool:
        """Whether a worker has ended since SIGTERM came to it."""
        return PREEMPTED in self._codes()

    def failure(self) -> Failure | None:
        """Returns which has failed; if several, the likeliest cause."""
        codes = self._codes()
        failed = [
            k
            for k, code in enumerate(codes)
            if code not in (None, 0, PREEMPTED)
        ]
        if not failed:
            return None
        # Within one look, one that was killed (its code is below 0) is the
        # likelier cause: the others fail because it is gone.
        first = min(failed, key=lambda k: codes[k] > 0)
        return Failure(first, codes[first])

    def end(self, grace: float) -> None:
        """Ends what still runs: asks first, since it may be writing files.

        Only the workers are asked: what they have started, such as the
        processes that load data, they may need until they have saved; then
        it is killed. One that fails meanwhile leaves the others waiting for
        it: they have `GRACE_SECONDS` more.

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
                _kill_all(process)
                process.wait()
            for reader in self._readers.values():
                # One whose daemon has left its session may never be read to
                # its end.
                reader.join(timeout=GRACE_SECONDS)

    def show_last(self, worker: int) -> None:
        """Shows the end of a worker's output, if it was not shown."""
        if worker in self._readers:
            self._readers[worker].show_last()

    def _codes(self) -> list[int | None]:
        return [process.poll() for process in self._processes]

    def _ended(self) -> bool:
        return None not in self._codes()

    def _settled(self) -> bool:
        """Whether there is no point in more patience than `GRACE_SECONDS`."""
        failed = self.failure() is not None
        return self._ended() or failed or self._asked_twice()

    def _asked_twice(self) -> bool:
        return len(self._asked) > 1


def _kill_all(process: subprocess.Popen) -> None:
    """Kills a worker, and what it has started and not ended."""
    with contextlib.suppress(ProcessLookupError):  # nothing is left
        os.killpg(process.pid, signal.SIGKILL)
