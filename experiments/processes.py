"""Starts and ends processes: the runs of a sweep, the parts of a benchmark.

Each is tethered: it ends when this process does, however that ends. `run`
waits for a command, or for the workers of a job, and returns the JSON that
each printed on its last line; `call` does so for a function of a module, in a
new process that imports it and calls it with arguments that JSON can hold.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fda_tf import launch

# With oneDNN, TensorFlow keeps what memory it once had in a pool.
NO_POOL = {"TF_ENABLE_ONEDNN_OPTS": "0"}
GRACE_SECONDS = 10.0  # from being asked to end to being killed


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


def start(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    cores: Sequence[int] | None = None,
    **options: Any,
) -> subprocess.Popen:
    """Starts a process that ends when this one does.

    Args:
        command: what to run.
        env: more environment variables.
        cores: those that it may use; None: as this process.
        **options: of subprocess.Popen.
    """
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or ours)  # a child has its parent's
    try:
        return subprocess.Popen(
            launch.tethered(command),
            env=os.environ | dict(env or {}),
            **options,
        )
    finally:
        os.sched_setaffinity(0, ours)


def end(process: subprocess.Popen, grace: float = GRACE_SECONDS) -> None:
    """Asks a process to end, and kills it if it has not in time."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(
    command: Sequence[str],
    workers: int = 1,
    timeout: float = 400.0,
    env: Mapping[str, str] | None = None,
    hosts: Any = None,
) -> list[Any]:
    """Runs a command, or as many of it as a job has workers.

    Args:
        command: what to run; it prints JSON on its last line.
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
    places = hosts and [f"{address}:2222" for address in hosts.addresses]
    configs = launch.tf_configs(workers, places) if workers > 1 else [""]
    files = [[tempfile.TemporaryFile("w+") for _ in "oe"] for _ in configs]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"} | dict(env or {})
    with ended_by_sigterm():
        jobs = [
            start(
                hosts.command(k, command) if hosts else command,
                quiet | {"TF_CONFIG": config},
                stdout=files[k][0],
                stderr=files[k][1],
            )
            for k, config in enumerate(configs)
        ]
        try:
            wrong = _wait(jobs, timeout)
        finally:
            for job in jobs:
                job.kill()
                job.wait()
    said = [[_text(file) for file in pair] for pair in files]
    if wrong is not None:
        what = "failed" if wrong >= 0 else f"took more than {timeout:g} s"
        lines = [f"{' '.join(command)} {what}:"]
        for k in range(len(jobs)) if wrong < 0 else [wrong]:
            lines.append(f"process {k}:\n{said[k][1][-3000:]}")
        sys.exit("\n".join(lines))
    return [json.loads(output.splitlines()[-1]) for output, _ in said]


def _text(file: Any) -> str:
    file.seek(0)
    return file.read()


def _wait(jobs: Sequence[subprocess.Popen], timeout: float) -> int | None:
    """Returns the number of the first that failed; -1 if they took too long."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        codes = [job.poll() for job in jobs]
        for k, code in enumerate(codes):
            if code:
                return k
        if None not in codes:
            return None
        time.sleep(0.05)
    return -1


def module_of(function: Callable) -> str:
    """The module that a function is in, also if that is what is run."""
    name = function.__module__
    return sys.modules[name].__spec__.name if name == "__main__" else name


def call_command(
    function: Callable, *arguments: Any, **named: Any
) -> list[str]:
    """The command of a process that calls a function; it prints the result."""
    given = json.dumps([arguments, named])
    own = [module_of(function), function.__name__, given]
    return [sys.executable, "-m", "experiments.processes", *own]


def call(
    function: Callable,
    *arguments: Any,
    workers: int = 1,
    timeout: float = 480.0,
    env: Mapping[str, str] | None = None,
    hosts: Any = None,
    **named: Any,
) -> list[Any]:
    """Calls a function in new processes; returns what it returned in each.

    Args:
        function: of a module, at its top; returns what JSON can hold.
        *arguments: that JSON can hold.
        workers: as for `run`, and so the three that follow.
        timeout: seconds.
        env: more environment variables.
        hosts: of a lab, or None.
        **named: more arguments.
    """
    command = call_command(function, *arguments, **named)
    return run(command, workers, timeout, env, hosts)


def result(name: str, *flags: str, timeout: float = 480.0) -> dict:
    """Runs a benchmark of ours with flags; returns what it printed last."""
    command = [sys.executable, "-m", f"experiments.bench.{name}", *flags]
    return run(command, timeout=timeout)[0]


def main(module: str, name: str, given: str) -> None:
    """Is a process of `call`."""
    function = getattr(importlib.import_module(module), name)
    arguments, named = json.loads(given)
    found = function(*arguments, **named)
    if found is not None:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
