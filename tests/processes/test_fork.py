"""Scripts that start processes of their own while they train, on 2 workers."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import fork_job
import launched
import processes
import pytest

import fda_tf
from fda_tf.processes.process_group import ProcessGroup

STEPS = {"fit": 12, "dataset": 12, "train": 20, "simulate": 20}
ALL = [
    name
    for name, _ in fork_job.cases(ProcessGroup(), pathlib.Path("nowhere"))
    if name != "until SIGTERM"
]
QUICK = [
    "fit, at once, checkpoint",
    "fit, leave, checkpoint",
    "train, pool, checkpoint",
    "dataset",
    "dataset, checkpoint",
]
OFTEN = [name for name in ALL if "pool" in name or "dataset" in name]


def assert_all_steps(folder, names, times=1):
    """Sees that each worker has trained to the end in each case."""
    for k in (0, 1):
        done = json.loads((folder / f"{k}.json").read_text())
        assert done == {
            name: [STEPS[name.split(",")[0]]] * times for name in names
        }


def session(leader):
    """Returns the processes that a worker has started, and itself."""
    found = []
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(place.name))
    return found


def read(path):
    """Returns what a worker wrote; None before it is there, and whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_children_train_and_sigterm_saves_and_ends_them_all(tmp_path):
    words = [str(tmp_path), "1", *QUICK, "until SIGTERM"]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "fda_tf.launch", "--workers=2", "--grace=60"]
        + ["--max_restarts=1", str(processes.HERE / "fork_job.py"), *words],
        env=processes.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        steps = [tmp_path / f"steps-{k}" for k in (0, 1)]
        trains = launched.eventually(
            lambda: launcher.poll() is not None or min(
                read(path) or 0 for path in steps) > 3,
            300,
        )  # fmt: skip
        pids = [read(tmp_path / f"pids-{k}") for k in (0, 1)]
        assert launcher.poll() is None, launcher.communicate()[0][-3000:]
        assert trains and all(pids)
        leaders = [worker for worker, *_ in pids]
        # Besides the worker a pool of two and one that is deaf, at least.
        assert all(len(session(leader)) >= 4 for leader in leaders)
        os.kill(leaders[1], signal.SIGTERM)
        output, _ = launcher.communicate(timeout=120)
    finally:
        launcher.kill()
    assert launcher.returncode == 143, output[-3000:]
    assert "all workers have saved step" in output
    assert "restart 1" not in output and "exit code" not in output
    assert fda_tf.Checkpoint(tmp_path / "saved").steps()
    assert launched.eventually(lambda: not any(map(session, leaders)), 5)
    assert_all_steps(tmp_path, QUICK)


@pytest.mark.slow
def test_whatever_the_children_all_steps_are_done(tmp_path):
    for code, output in processes.run_cluster(
        "fork_job.py", [str(tmp_path), "1", *ALL], 2, 400
    ):
        assert code == 0, output[-3000:]
    assert_all_steps(tmp_path, ALL)


@pytest.mark.slow
def test_pools_20_times(tmp_path):
    for code, output in processes.run_cluster(
        "fork_job.py", [str(tmp_path), "20", *OFTEN], 2, 2000
    ):
        assert code == 0, output[-3000:]
    assert_all_steps(tmp_path, OFTEN, times=20)
