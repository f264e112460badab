"""A long run with 20 kills at random times, beside one that nobody disturbs.

It takes about a quarter of an hour.
"""

import json
import os
import random
import signal
import sys
import time

import launched
import numpy as np
import processes
import pytest
from fault_runs import Process
from soak_job import EVERY

KILLS = 20

pytestmark = pytest.mark.slow


def read(path):
    """Returns what is in a file; None before there is something."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def steps_of(folder, start, k):
    """Returns the steps that worker k did after a start, in order."""
    path = folder / f"steps-{start}-{k}"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [int(line) for line in lines]


def launch(folder, max_restarts):
    folder.mkdir()
    job = str(processes.HERE / "soak_job.py")
    command = [sys.executable, "-m", "fda_tf.launch", "--workers=2"]
    command += [f"--max_restarts={max_restarts}", job, str(folder)]
    return Process(command, {})


def accuracy(folder):
    first, second = (np.load(folder / f"end-{k}.npy") for k in (0, 1))
    assert np.array_equal(first, second)
    return read(folder / "accuracy-0"), first


def test_20_kills_at_random_times(tmp_path, data_dir):
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    undisturbed = launch(calm, 0)
    undisturbed.join(900)
    assert undisturbed.code == 0, undisturbed.output

    chance, job = random.Random(0), launch(wild, KILLS)
    began, waits = time.time(), []
    try:
        for start in range(KILLS):
            trains = launched.eventually(
                lambda s=start: all(steps_of(wild, s, k) for k in (0, 1)), 300
            )
            assert trains, f"start {start}: {job.output}"
            waits.append(chance.uniform(0, 8))
            time.sleep(waits[-1])
            worker = chance.randrange(2)
            os.kill(read(wild / f"pid-{start}-{worker}"), signal.SIGKILL)
        job.join(600)
    finally:
        job.process.terminate()
        job.join(60)
    assert job.code == 0, job.output[-3000:]
    print(f"{KILLS} kills in {time.time() - began:.0f} s")

    lost = 0
    for start in range(KILLS):
        for k in (0, 1):
            done, again = (steps_of(wild, start + i, k) for i in (0, 1))
            # What was not saved is done again, and nothing is left out.
            assert (again[0] - 1) % EVERY == 0
            # A checkpoint that was being written does not count; of the step
            # that it follows the callbacks hear only when it is written.
            saved = int(done[-1] % EVERY == EVERY - 1)
            assert done[-1] - 2 * EVERY < again[0] <= done[-1] + 1 + saved
            lost += done[-1] - again[0] + 1
    print(f"{lost / 2 / KILLS:.1f} steps a kill were done again")
    (expected, weights), (got, ours) = accuracy(calm), accuracy(wild)
    print(f"accuracy {got}, undisturbed {expected}")
    assert got == expected > 0.97
    assert np.array_equal(ours, weights)
