"""Benchmarks that run in processes of their own, and what they print."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from fda_tf.launch import _tether

SECONDS = 480.0  # that any of them may take


def result(arguments: Sequence[str], seconds: float = SECONDS) -> dict:
    """Runs a benchmark of ours; returns the JSON of its last line.

    Args:
      arguments: its name in experiments.bench, and its flags.
      seconds: after which it is ended.

    Raises:
      RuntimeError: if it fails, or takes too long; with what it said.
    """
    name, *given = arguments
    command = [sys.executable, "-m", f"experiments.bench.{name}", *given]
    return together([command], [None], seconds)


def together(
    commands: Sequence[Sequence[str]],
    configs: Sequence[str | None],
    seconds: float = SECONDS,
) -> dict:
    """Runs the workers of a job; returns the JSON of the first one's last line.

    Args:
      commands: of each worker.
      configs: its TF_CONFIG, or None.
      seconds: after which all are ended.

    Raises:
      RuntimeError: if one fails, or they take too long.
    """
    end = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        files, workers = [], []
        for command, config in zip(commands, configs, strict=True):
            files += [
                [
                    stack.enter_context(tempfile.TemporaryFile("w+"))
                    for _ in "oe"
                ]
            ]
            workers.append(
                stack.enter_context(_started(command, config, *files[-1]))
            )
        while any(w.poll() is None for w in workers):
            if any(w.poll() for w in workers) or time.monotonic() > end:
                break
            time.sleep(0.05)
        bad = [k for k, w in enumerate(workers) if w.poll() != 0]
        said = [[_text(file) for file in pair] for pair in files]
    if bad:
        late = "" if time.monotonic() < end else f" in {seconds:g} seconds"
        raise RuntimeError(
            f"{' '.join(commands[bad[0]])} did not end well{late}; it said:\n"
            + said[bad[0]][1][-3000:]
        )
    return json.loads(said[0][0].strip().splitlines()[-1])


@contextlib.contextmanager
def _started(command, config, out, errors) -> Iterator[subprocess.Popen]:
    # However we end, the system then ends it.
    tether = [sys.executable, "-I", "-S", _tether.__file__, str(os.getpid())]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    own = {"TF_CONFIG": config} if config else {}
    worker = subprocess.Popen(
        [*tether, *command],
        env=os.environ | quiet | own,
        stdout=out,
        stderr=errors,
    )
    try:
        yield worker
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.wait()


def _text(file) -> str:
    file.seek(0)
    return file.read()
