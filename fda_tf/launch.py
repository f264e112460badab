"""Starts the workers of a job on this machine, one process each."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

GRACE_SECONDS = 5  # from being asked to end to being ended


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
    each line. When one fails, or on Ctrl-C, all are ended.

    Args:
      command: the program and its arguments.
      workers: K.
      env: the environment; by default this process's. TF_CONFIG is added.

    Returns:
      0, or the exit code of the first worker that failed.

    Raises:
      ValueError: if workers is below 1.

    Example:
      >>> import sys
      >>> launch([sys.executable, "-c", "raise SystemExit(3)"], workers=2)
      3
    """
    if not (isinstance(workers, int) and workers >= 1):
        raise ValueError(
            f"workers={workers!r}: expected a whole number, at least 1."
        )
    environment = dict(os.environ if env is None else env)
    processes, readers = [], []
    try:
        for k, config in enumerate(tf_configs(workers)):
            process = subprocess.Popen(
                list(command),
                env=environment | {"TF_CONFIG": config},
                stdout=None if k == 0 else subprocess.PIPE,
                stderr=None if k == 0 else subprocess.STDOUT,
            )
            processes.append(process)
            if k:
                reader = threading.Thread(
                    target=_prefix, args=(process.stdout, k), daemon=True
                )
                reader.start()
                readers.append(reader)
        return _wait(processes)
    finally:
        _end(processes)
        for reader in readers:
            reader.join(timeout=GRACE_SECONDS)


def _wait(processes: Sequence[subprocess.Popen]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        for code in codes:
            if code:
                # A worker killed by signal n has code -n; shells say 128 + n.
                return code if code > 0 else 128 - code
        if None not in codes:
            return 0
        time.sleep(0.05)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Ends what still runs: asks first, since files may be half written."""
    running = [p for p in processes if p.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # TensorFlow swallows SIGTERM while it waits
            process.wait()


def _prefix(stream, worker: int) -> None:
    for line in stream:
        text = line.decode(errors="replace")
        sys.stdout.write(f"[worker {worker}] {text}")
        sys.stdout.flush()
