"""Keras' own tests, with our callback in every `fit`.

    python -m tests.conformance [stock] [alone] [two] [--only=WORDS]

runs them without the callback, with it in one process, and on two workers:
all three if none is named, which takes long. A run that was stopped goes on;
remove the results to begin anew. It prints what differs from stock and is not
on the list, `differences.json`, and what is on it and does not differ.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import archive  # noqa: E402

MODES = ("stock", "alone", "two")
QUIET_SECONDS = 400  # in which no test has ended: it hangs


def results(mode: str, worker: int = 0) -> dict[str, dict]:
    """Returns id -> how a test ended, as far as the runs have come."""
    path = _path(mode)
    if worker:
        path = path.with_suffix(f".{worker}.jsonl")
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["id"]: line for line in map(json.loads, lines)}


def fitting(only: str = "") -> list[str]:
    """Returns the ids of the tests that fit, and pass with stock Keras."""
    return [
        name
        for name, line in results("stock").items()
        if line["fits"] and line["outcome"] == "passed" and only in name
    ]


def run(mode: str, only: str = "") -> None:
    """Runs what is left of a mode's tests.

    Args:
      mode: one of MODES.
      only: a part of the ids of those to be run.
    """
    tests = archive.unpack(archive.cache())
    wanted = None if mode == "stock" else fitting(only)
    while True:
        before = len(results(mode))
        left = wanted and [i for i in wanted if i not in results(mode)]
        if left == [] or _one_run(mode, tests, left):
            return
        if len(results(mode)) == before:
            if left is None:
                raise RuntimeError(f"Nothing ran; see {_path(mode)}.log")
            _note(mode, left[0], "hangs, or ends the process")


def differences() -> dict[str, dict[str, str]]:
    """Returns id -> where -> message, of what differs from stock."""
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for where, lines in (
        ("alone", results("alone")),
        ("two", results("two")),
        ("worker 1", results("two", 1)),
    ):
        for name in fitting():
            line = lines.get(name)
            if line and line["outcome"] != "passed":
                found[name][where] = line["message"] or line["outcome"]
    return dict(found)


def listed() -> dict[str, dict[str, str]]:
    """Returns id -> {where: reason} of the committed list."""
    groups = json.loads((HERE / "differences.json").read_text())
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for group in groups:
        for where, names in group["tests"].items():
            for name in names:
                found[name][where] = group["reason"]
    return dict(found)


def compare() -> tuple[list[str], list[str]]:
    """Returns (what differs and is not listed, what is listed and does not)."""
    found, known = differences(), listed()
    new = [
        f"{where}: {name}: {message}"
        for name, wheres in found.items()
        for where, message in wheres.items()
        if where not in known.get(name, {})
    ]
    ran = {"alone": results("alone"), "two": results("two")}
    ran["worker 1"] = results("two", 1)
    gone = [
        f"{where}: {name}"
        for name, wheres in known.items()
        for where in wheres
        if name in ran[where] and where not in found.get(name, {})
    ]
    return new, gone


def _path(mode: str) -> pathlib.Path:
    return archive.cache() / f"{mode}.jsonl"


def _note(mode: str, name: str, message: str) -> None:
    line = {"id": name, "outcome": "failed", "fits": 1, "message": message}
    with _path(mode).open("a") as file:
        print(json.dumps(line), file=file)


def _one_run(mode: str, tests: pathlib.Path, left: list[str] | None) -> bool:
    """Runs tests until all are through, or one hangs; returns whether all."""
    command = [sys.executable]
    if mode == "two":
        command += ["-m", "fda_tf.launch", "--workers=2"]
    command += [str(HERE / "worker.py"), mode, str(tests), str(_path(mode))]
    roots = [str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, roots))
    }
    with tempfile.TemporaryDirectory() as folder:
        if left is not None:
            wanted = pathlib.Path(folder) / "wanted.json"
            wanted.write_text(json.dumps(left))
            command.append(str(wanted))
        with _path(mode).with_suffix(".log").open("a") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log
            )
            return _wait(process, mode) in (0, 1)


def _wait(process: subprocess.Popen, mode: str) -> int | None:
    """Returns the exit code; None if nothing happened for too long."""
    count, since = len(results(mode)), time.monotonic()
    while process.poll() is None:
        time.sleep(1)
        if (now := len(results(mode))) != count:
            count, since = now, time.monotonic()
        if time.monotonic() - since > QUIET_SECONDS:
            process.terminate()  # the launcher ends its workers
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
            return None
    return process.returncode


def main() -> int:
    """Runs and compares; returns how many differences are not listed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modes", nargs="*", choices=[*MODES, []])
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    for mode in arguments.modes or MODES:
        start = time.monotonic()
        run(mode, arguments.only)
        done = results(mode).values()
        counts = collections.Counter(line["outcome"] for line in done)
        seconds = time.monotonic() - start
        print(f"{mode}: {dict(counts)} ({seconds:.0f} s)", flush=True)
    new, gone = compare()
    for line in new:
        print(f"NOT LISTED  {line}")
    for line in gone:
        print(f"NO MORE     {line}")
    return min(len(new) + len(gone), 100)


if __name__ == "__main__":
    sys.exit(main())
