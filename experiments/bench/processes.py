"""Processes that a benchmark starts: each has an end, and prints JSON last."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fda_tf import launch
from fda_tf.launch import _tether

# With oneDNN, TensorFlow keeps what memory it once had in a pool.
NO_POOL = {"TF_ENABLE_ONEDNN_OPTS": "0"}


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM an exit within it, by way of what is to be tidied up."""
    before = signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("Ended by SIGTERM.")
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(
    command: Sequence[str],
    workers: int = 1,
    timeout: float = 400.0,
    env: Mapping[str, str] | None = None,
    hosts: Any = None,
) -> list[dict]:
    """Runs a command, or as many of it as a job has workers.

    Args:
      command: what to run; it prints a JSON object on its last line.
      workers: processes; more than one have a TF_CONFIG each.
      timeout: seconds for all of them.
      env: more environment variables.
      hosts: a `netlab.Hosts`, one for each worker; None: on this machine.

    Returns:
      What each one printed last.

    Raises:
      SystemExit: if one failed, or took too long; says what it wrote. The
        first to fail ends all.
    """
    # Who ends us ends them, too; however we end, the system ends them.
    tether = [sys.executable, "-I", "-S", _tether.__file__, str(os.getpid())]
    places = hosts and [f"{address}:2222" for address in hosts.addresses]
    configs = launch.tf_configs(workers, places) if workers > 1 else [""]
    outputs = [tempfile.TemporaryFile("w+") for _ in configs]
    errors = [tempfile.TemporaryFile("w+") for _ in configs]
    with ended_by_sigterm():
        jobs = [
            subprocess.Popen(
                [*tether, *(hosts.command(k, command) if hosts else command)],
                env=os.environ
                | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": config}
                | dict(env or {}),
                stdout=output,
                stderr=error,
            )
            for k, (config, output, error) in enumerate(
                zip(configs, outputs, errors, strict=True)
            )
        ]
        try:
            wrong = _wait(jobs, timeout)
        finally:
            for job in jobs:
                job.kill()
                job.wait()
    if wrong is not None:
        said = []
        for k in range(len(jobs)) if wrong < 0 else [wrong]:
            errors[k].seek(0)
            said.append(f"process {k}:\n{errors[k].read()[-3000:]}")
        what = "failed" if wrong >= 0 else f"took more than {timeout:g} s"
        sys.exit("\n".join([f"{' '.join(command)} {what}:", *said]))
    printed = []
    for output in outputs:
        output.seek(0)
        printed.append(json.loads(output.read().splitlines()[-1]))
    return printed


def _wait(jobs, timeout) -> int | None:
    """Returns the number of the first that failed; -1 if they took too long."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        codes = [job.poll() for job in jobs]
        for k, code in enumerate(codes):
            if code:
                return k
        if None not in codes:
            return None
        time.sleep(0.05)
    return -1


def result(
    name: str,
    *flags: str,
    timeout: float = 480.0,
    env: Mapping[str, str] | None = None,
) -> dict:
    """Runs a benchmark of ours with flags; returns what it printed last."""
    command = [sys.executable, "-m", f"experiments.bench.{name}", *flags]
    return run(command, timeout=timeout, env=env)[0]
