"""Waits have an end, and leave nothing behind."""

import re
import threading
import time

import processes
import pytest

from fda_tf.processes.timeouts import Patience


@pytest.fixture
def lost():
    return threading.Event()


def test_it_loses_patience_once_and_says_so_in_time(lost):
    calls = []
    patience = Patience(0.2, lambda: (calls.append(1), lost.set()))
    begun = time.monotonic()
    with patience.waiting():
        assert lost.wait(10)
        assert 0.2 <= time.monotonic() - begun < 5
        time.sleep(0.5)
    assert calls == [1]


def test_nobody_waits_outside(lost):
    patience = Patience(0.2, lost.set)
    for _ in range(5):
        with patience.waiting():
            time.sleep(0.05)
    assert not lost.wait(0.5)


def test_what_goes_on_is_waited_for(lost):
    """Ten times as long as the limit, with something done all the while."""
    done = iter(range(10**9))
    patience = Patience(0.2, lost.set)
    with patience.waiting(lambda: next(done)):
        assert not lost.wait(2)
    with patience.waiting(lambda: 7):
        assert lost.wait(10)


def test_a_wait_inside_another(lost):
    patience = Patience(0.3, lost.set)
    with patience.waiting(lambda: 1):
        with patience.waiting():
            time.sleep(0.05)
        assert lost.wait(10)  # the outer one goes on


@pytest.mark.parametrize(
    ("how", "seconds"),
    [pytest.param("step", 15, marks=pytest.mark.slow), ("gather", 3)],
)
def test_a_worker_that_is_late(tmp_path, how, seconds):
    mark = tmp_path / "late"
    results = processes.run_cluster(
        "patience_job.py", [how, str(mark)], 2, seconds=120
    )
    (code, first), (other, second) = results
    assert mark.exists() and code == other == 1, (first, second)
    assert f"RuntimeError: Worker 0 has waited {seconds} s for the" in first
    assert "Compilation and a local step count, too: where" in first
    told = "Worker 0 failed; all workers stop: RuntimeError: Worker 0 has wait"
    assert told in second
    for output in (first, second):  # TensorFlow's limit takes two an exchange
        assert int(re.search(r"threads (-?\d+)", output)[1]) < 20
