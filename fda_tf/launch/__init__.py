"""Starts the workers of a job on this machine, one process each.

From a shell: `python -m fda_tf.launch --workers=4 train.py`.
"""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from absl import logging

from fda_tf import validate
from fda_tf.launch import _group, _output
from fda_tf.launch._tether import tethered as tethered
from fda_tf.processes.environment import describes_job as describes_job

PREEMPTION_SECONDS = 30.0  # from SIGTERM to being killed: time to save
FIRST_PAUSE_SECONDS = 1.0  # before the first restart; each is twice as long
LONGEST_PAUSE_SECONDS = 30.0
SOON_SECONDS = 15.0  # a start that failed in less is one more of a row
# TensorFlow tells of its cluster and of XLA, in ten lines that no one process
# has; its warnings are shown.
QUIET = ("TF_CPP_MIN_LOG_LEVEL", "1")
RESTART_VARIABLE = "FDA_TF_RESTART"  # 0, 1, ...: which start this is


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


def tf_configs(
    workers: int, addresses: Sequence[str] | None = None
) -> list[str]:
    """Returns the TF_CONFIG of each worker of a job.

    Args:
      workers: how many.
      addresses: host:port of each; by default free ports of this machine.
    """
    if addresses is None:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    return [
        json.dumps(
            {
                "cluster": {"worker": list(addresses)},
                "task": {"type": "worker", "index": k},
            }
        )
        for k in range(workers)
    ]


def pause(failures: int) -> float:
    """Returns the seconds to wait after so many starts that failed soon.

    What fails at once, such as an import, must not keep the machine busy. A
    start that trained for a while and failed then is the first of a new row.

    Args:
      failures: in a row, this one included.

    Example:
      >>> [pause(failures) for failures in (1, 2, 3, 4, 5, 6, 7)]
      [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    """
    doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30)
    return min(doubled, LONGEST_PAUSE_SECONDS)


def launch(
    command: Sequence[str],
    workers: int,
    env: Mapping[str, str] | None = None,
    max_restarts: int = 0,
    grace: float = PREEMPTION_SECONDS,
    quiet: bool = False,
    log_dir: str | os.PathLike | None = None,
) -> int:
    """Runs a command once for each worker, and waits for all of them.

    Worker 0's output is shown as it is, the others' with `[worker k]` before
    each line. When one fails, all are ended, and a line of the log says which
    it was; with `max_restarts` all are then started again, on new ports, after
    a `pause`. The command goes on from its own last checkpoint, if it has one.

    SIGTERM is passed on to the workers, which may save their state and end;
    what still runs after `grace` seconds is killed, and so is everything at a
    second SIGTERM. Ctrl-C reaches this process alone, which ends the workers.
    Neither is followed by a restart, nor is exit code 143 of a worker: it has
    got SIGTERM itself, and all have saved their state. On Linux no worker
    outlives this process, even if it is killed.

    Processes that a worker has started, such as a `multiprocessing.Pool`, are
    killed when the workers have ended; not if this process is killed itself.

    Args:
      command: the program and its arguments.
      workers: K.
      env: the environment; by default this process's. TF_CONFIG is added,
        FDA_TF_RESTART, which is 0 at the first start, then 1, 2, ..., and, if
        it is not there, TF_CPP_MIN_LOG_LEVEL=1: no information of
        TensorFlow's C++, only warnings and errors.
      max_restarts: how often all workers are started again, in all.
      grace: seconds that the workers have after SIGTERM. After a failure they
        have 5: they wait for one that is gone.
      quiet: whether to show only worker 0's output; of another worker that
        fails, the last lines are shown.
      log_dir: a folder in which `worker-0.log`, `worker-1.log`, ... get the
        whole output of each worker besides; they are added to if they are
        there. By default there are none. Worker 0's standard output is then
        no terminal, and includes its standard error.

    Returns:
      0 when all workers have ended with 0; 143 when they have ended with 0 or
      143, since SIGTERM came to a worker; else the exit code of the worker
      that failed first in time, in the last start.

    Raises:
      ValueError: if the command is no list of words, workers is below 1, or
        max_restarts or grace below 0.
      SystemExit: on SIGTERM, in the main thread, with what would have been
        returned, unless all workers then end with 0. Of workers that SIGTERM
        itself ends, since they do not handle it, this is 143, too.

    Example:
      >>> import sys
      >>> launch([sys.executable, "-c", "raise SystemExit(3)"], workers=2)
      3
    """
    _check(command, workers, max_restarts)
    grace = validate.real("grace", grace, 0, "seconds, 0 or more")
    environment = dict(os.environ if env is None else env)
    environment.setdefault(*QUIET)
    output = _output.Output(quiet, log_dir)
    failures = 0
    with _sigterm() as asked:
        for start in range(max_restarts + 1):
            began = time.monotonic()
            variables = environment | {RESTART_VARIABLE: str(start)}
            group = _group.Group(asked, output)
            failure = _run(group, command, workers, variables, asked, grace)
            ends = asked or group.preempted
            if failure is None or ends or start == max_restarts:
                break
            soon = time.monotonic() - began < SOON_SECONDS
            failures = failures + 1 if soon else 1
            seconds = pause(failures)
            logging.warning(
                "restart %d of %d: %s; it begins in %g s",
                *(start + 1, max_restarts, failure.words(), seconds),
            )
            if _group.until(lambda: asked, seconds):
                raise SystemExit(_group.PREEMPTED)
    return _result(group, failure, asked, workers, max_restarts)


def _check(command: Sequence[str], workers: int, max_restarts: int) -> None:
    if isinstance(command, str) or not command:
        raise ValueError(
            f"command={command!r}: expected a program and its arguments, such "
            'as ["python", "job.py"].'
        )
    validate.count("workers", workers, "processes")
    if type(max_restarts) is not int or max_restarts < 0:
        raise ValueError(
            f"max_restarts={max_restarts!r}: expected a whole number of "
            "restarts, 0 or more."
        )


def _run(
    group: _group.Group,
    command: Sequence[str],
    workers: int,
    environment: Mapping[str, str],
    asked: list[int],
    grace: float,
) -> _group.Failure | None:
    """Starts all workers once; returns which failed first, if one did."""
    seconds = _group.GRACE_SECONDS
    try:
        for config in tf_configs(workers):
            group.start(command, environment | {"TF_CONFIG": config})
        failure = group.wait(grace)
        if asked:
            logging.warning(
                "The launcher got SIGTERM and passed it on: the workers have "
                "%g s to save their state and end",
                grace,
            )
            seconds = grace
    except KeyboardInterrupt:
        asked.append(signal.SIGINT)  # then SIGTERM is the second to ask
        raise
    finally:
        group.end(seconds)
    failure = failure or group.failure()
    if failure is not None:
        group.show_last(failure.worker)
    return failure


def _result(
    group: _group.Group,
    failure: _group.Failure | None,
    asked: Sequence[int],
    workers: int,
    max_restarts: int,
) -> int:
    """Says how it ended; returns the exit code, or raises SystemExit."""
    code = _group.PREEMPTED if group.preempted else 0
    if failure is not None:
        code = failure.exit_code()
    if asked and code:
        if failure is not None:
            logging.error("The launcher got SIGTERM; %s", failure.words())
        raise SystemExit(code)
    if failure is not None:
        others = "; the others were ended" if workers > 1 else ""
        spent = f"; this was restart {max_restarts}, the last"
        spent *= bool(max_restarts)
        logging.error("%s%s%s", failure.words(), others, spent)
    return code


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
