"""Starts real worker processes with a hard time limit."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from fda_tf import launch

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]


def environment(**extra):
    """Returns this process's environment, fit for a worker on the CPU."""
    path = os.pathsep.join([str(HERE), str(ROOT)])
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | {"PYTHONPATH": path} | quiet | extra


def run_workers(script, arguments, extras, seconds):
    """Runs a script once for each extra environment; returns [(code, output)].

    Every process that is not through in time is killed, with the processes
    that it has started; its code is then None.
    """
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            env=environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for extra in extras
    ]
    deadline = time.monotonic() + seconds
    results = []
    for process in started:
        try:
            left = max(0.1, deadline - time.monotonic())
            output, _ = process.communicate(timeout=left)
            results.append((process.returncode, output))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            results.append((None, process.communicate()[0]))
    return results


def run_cluster(script, arguments, workers, seconds):
    """Runs a script on a new cluster of this machine; see `run_workers`."""
    extras = [{"TF_CONFIG": config} for config in launch.tf_configs(workers)]
    return run_workers(script, arguments, extras, seconds)


def reports(script, folder, workers, *arguments, seconds=480):
    """Returns what each worker of a new cluster did, as its JSON file has it.

    Args:
      script: takes the folder and the arguments; worker k writes k.json there.
    """
    given = [str(folder), *arguments]
    for code, output in run_cluster(script, given, workers, seconds):
        assert code == 0, output[-3000:]
    files = [folder / f"{k}.json" for k in range(workers)]
    return [json.loads(file.read_text()) for file in files]


def by_name(reports):
    """Returns name -> what each worker did, of reports that have the names."""
    return {name: [r[name] for r in reports] for name in reports[0]}


def run_resume_job(folder, names, workers=2, seconds=480):
    """Runs what is named; returns what each worker did, and what it said."""
    results = run_cluster(
        "resume_job.py", [str(folder), *names], workers, seconds
    )
    for code, output in results:
        assert code == 0, output[-3000:]
    reports = [
        json.loads((folder / f"{workers}-{k}.json").read_text())
        for k in range(workers)
    ]
    return reports, [output for _, output in results]
