"""Starts the workers of a job on this machine, one process each."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from absl import logging

from fda_tf import _tether

GRACE_SECONDS = 5  # from being asked to end to being ended
POLL_SECONDS = 0.05  # between two looks at the workers
LAST_WORDS_SECONDS = 1.0  # for those that fail of the same, to say so


def free_ports(count: int) -> list[int]:
    """Returns ports of 127.0.0.1 that nobody listens on now.

    Example:
      >>> len(set(free_ports(3)))
      3
    """
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def tf_configs(workers: int) -> list[str]:
    """Returns the TF_CONFIG of each worker of a job on this machine."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    return [
        json.dumps(
            {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": k},
            }
        )
        for k in range(workers)
    ]


def launch(
    command: Sequence[str],
    workers: int,
    env: Mapping[str, str] | None = None,
) -> int:
    """Runs a command once for each worker, and waits for all of them.

    Worker 0's output is shown as it is, the others' with `[worker k]` before
    each line. When one fails, all are ended, and a line of the log says which
    it was. Ctrl-C reaches this process alone; on it and on SIGTERM all are
    ended. On Linux none outlives this process, even if it is killed.

    Args:
      command: the program and its arguments.
      workers: K.
      env: the environment; by default this process's. TF_CONFIG is added.

    Returns:
      0, or the exit code of the worker that failed first in time.

    Raises:
      ValueError: if workers is below 1, or the command is no list of words.
      SystemExit: on SIGTERM, with 143, in the main thread.

    Example:
      >>> import sys
      >>> launch([sys.executable, "-c", "raise SystemExit(3)"], workers=2)
      3
    """
    if not (isinstance(workers, int) and workers >= 1):
        raise ValueError(
            f"workers={workers!r}: expected a whole number, at least 1."
        )
    if isinstance(command, str) or not command:
        raise ValueError(
            f"command={command!r}: expected a program and its arguments, such "
            'as ["python", "job.py"].'
        )
    environment = dict(os.environ if env is None else env)
    processes, readers = [], []
    with _sigterm() as asked_to_end:
        try:
            for k, config in enumerate(tf_configs(workers)):
                variables = environment | {"TF_CONFIG": config}
                processes.append(_start(command, k, variables))
                if k:
                    readers.append(_reader(processes[k].stdout, k))
            failed = _wait(processes, asked_to_end)
        finally:
            _end(processes)
            for reader in readers:
                reader.join(timeout=GRACE_SECONDS)
    if asked_to_end:
        logging.error("The launcher got SIGTERM; all workers were ended")
        raise SystemExit(_exit_code(-signal.SIGTERM))
    if failed is None:
        return 0
    logging.error("%s", _say(failed, processes[failed].returncode, workers))
    return _exit_code(processes[failed].returncode)


@contextlib.contextmanager
def _sigterm() -> Iterator[list[int]]:
    """Gives a list that SIGTERM puts itself in, in place of ending us."""
    got: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield got  # only the main thread may have handlers
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        yield got
    finally:
        # None: what was there was set in C, and cannot be put back.
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _start(
    command: Sequence[str], worker: int, environment: Mapping[str, str]
) -> subprocess.Popen:
    # Isolated and without site: it starts in 20 ms, whatever is installed.
    tether = [sys.executable, "-I", "-S", _tether.__file__, str(os.getpid())]
    return subprocess.Popen(
        [*tether, *command],
        env=environment,
        stdout=subprocess.PIPE if worker else None,
        stderr=subprocess.STDOUT if worker else None,
    )


def _reader(stream: IO[bytes], worker: int) -> threading.Thread:
    reader = threading.Thread(target=_prefix, args=(stream, worker))
    reader.daemon = True
    reader.start()
    return reader


def _wait(
    processes: Sequence[subprocess.Popen], asked_to_end: Sequence[int]
) -> int | None:
    """Returns which worker failed first; None if none, or if asked to end."""
    while not asked_to_end:
        codes = [process.poll() for process in processes]
        failed = [k for k, code in enumerate(codes) if code]
        if failed:
            _await_last_words(processes)
            # Within one look, one that was killed (its code is below 0) is
            # the likelier cause: the others fail because it is gone.
            return min(failed, key=lambda k: codes[k] > 0)
        if None not in codes:
            break
        time.sleep(POLL_SECONDS)
    return None


def _await_last_words(processes: Sequence[subprocess.Popen]) -> None:
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    while time.monotonic() < deadline:
        if all(process.poll() is not None for process in processes):
            return
        time.sleep(POLL_SECONDS)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Ends what still runs: asks first, since files may be half written."""
    running = [p for p in processes if p.poll() is None]
    try:
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in running:
            process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # TensorFlow swallows SIGTERM while it waits
    finally:  # also at another Ctrl-C
        for process in running:
            process.kill()
            process.wait()


def _say(worker: int, code: int, workers: int) -> str:
    ended = f"ended with exit code {code}"
    if code < 0:
        ended = f"was ended by signal {-code} ({_name(-code)})"
    others = "; the others were ended" if workers > 1 else ""
    return f"worker {worker} {ended}{others}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"


def _exit_code(code: int) -> int:
    """A process ended by signal n has code -n; shells say 128 + n."""
    return code if code >= 0 else 128 - code


def _prefix(stream: IO[bytes], worker: int) -> None:
    for line in stream:
        text = line.decode(errors="replace")
        sys.stdout.write(f"[worker {worker}] {text}")
        sys.stdout.flush()
