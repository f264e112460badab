"""What happens to a job when something goes wrong, with real processes.

Each ends within 60 seconds, in words that name the worker.
"""

import os
import re
import signal
import socket
import time

import launched
import pytest
from fault_job import EVERY
from fault_runs import Run

import fda_tf
from experiments.bench import netlab

pytestmark = pytest.mark.slow

LAST = 8 * 30  # step
FAULT = 47  # the step after which it comes
SAVED = FAULT // EVERY * EVERY  # the last checkpoint before it
LOST = r"RuntimeError: Worker {} lost worker {} \({}:\d+\): it was killed"
HERE = "127.0.0.1"

needs_hosts = pytest.mark.skipif(not netlab.can_be(), reason=netlab.NEEDS)


def undisturbed(folder, how):
    """Returns (the weights at the end, the synchronisations) of a run."""
    with Run(folder, how=how).workers() as run:
        run.end(since=time.time())
        assert run.codes() == [0, 0], run.said()
        assert run.read("end", 0) == run.read("end", 1)
        return run.read("end", 0), run.read("syncs", 0)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """What `fit` comes to when nothing goes wrong."""
    return undisturbed(tmp_path_factory.mktemp("fit"), "fit")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What `train` comes to when nothing goes wrong."""
    return undisturbed(tmp_path_factory.mktemp("train"), "train")


def assert_as(run, expected):
    """Sees that nothing was lost: the end is the undisturbed run's."""
    assert set(run.codes()) == {0}, run.said()
    for k in (0, 1):
        assert run.read("end", k) == expected[0]
        assert run.read("syncs", k) == expected[1]


def assert_says(output, words):
    """Sees that a worker ended with these words."""
    assert re.search(words, output), output[-3000:]


def test_the_fault_is_in_mid_round(fitted, trained):
    for _, syncs in (fitted, trained):
        assert any(step < FAULT for step in syncs) and FAULT not in syncs
        assert len(syncs) < LAST / 2


# --- Killed


def test_a_killed_worker_ends_fit_on_the_other(tmp_path):
    with Run(tmp_path, fault="kill").workers() as run:
        first, _ = run.end()
        assert run.codes() == [1, -signal.SIGKILL]
        assert_says(first, LOST.format(0, 1, HERE))


def test_a_killed_chief_ends_train_on_the_other(tmp_path):
    with Run(tmp_path, how="train", fault="kill", worker=0).workers() as run:
        _, second = run.end()
        assert run.codes() == [-signal.SIGKILL, 1]
        assert_says(second, LOST.format(1, 0, HERE))


@pytest.mark.parametrize("how, worker", [("fit", 1), ("train", 0)])
def test_the_launcher_starts_again_after_a_kill(
    tmp_path, how, worker, fitted, trained
):
    with Run(tmp_path, how=how, fault="kill", worker=worker) as run:
        run.launcher("--max_restarts=1")
        (output,) = run.end()
        assert_as(run, fitted if how == "fit" else trained)
        words = rf"restart 1 of 1: worker {worker} was ended by signal 9 \(SIGK"
        assert_says(output, words)
        steps = run.steps(worker)
        before = steps[: steps.index(max(steps[:-1])) + 1]
        again = [b for a, b in zip(steps, steps[1:], strict=False) if b < a]
        if how == "fit":  # train tells of some steps at a time
            assert again == [SAVED + 1] and FAULT in before


# --- Never there, or not alike


def test_a_worker_that_never_starts(tmp_path):
    with Run(tmp_path, start_timeout=5).workers((0,)) as run:
        (output,) = run.end()
        assert run.codes() == [1]
        assert_says(output, r"TimeoutError: .*not there: worker 1 \(127")


def test_a_worker_killed_while_the_others_join_it(tmp_path):
    with Run(tmp_path, fault="joining", start_timeout=15).workers() as run:
        first, _ = run.end()
        assert run.codes() == [1, -signal.SIGKILL]
        assert_says(first, r"Timeout \(0:00:15\)!")  # Python's lock is held


@pytest.mark.parametrize(
    "fault, words",
    [
        ("model", "optimizer: .*SGD.* against .*Adam"),
        ("theta", r"sync.theta: 0\.5 against 0\.05"),
        ("version", r"fda_tf: 9\.9 against 0"),
    ],
)
def test_a_worker_unlike_the_others(tmp_path, fault, words):
    with Run(tmp_path, fault=fault).workers() as run:
        outputs = run.end()
        assert run.codes() == [1, 1]
        for output in outputs:
            assert_says(output, f"Worker 1 differs from worker 0 in {words}")


@pytest.mark.parametrize("worker", [0, 1])
def test_a_port_taken(tmp_path, worker):
    with socket.create_server((HERE, 0)) as other, socket.socket() as free:
        free.bind((HERE, 0))
        ports = [s.getsockname()[1] for s in (other, free)]
        addresses = [f"{HERE}:{port}" for port in ports]
        if worker:
            addresses.reverse()
        free.close()
        run = Run(tmp_path, start_timeout=8)
        with run.workers(addresses=addresses):
            outputs = run.end()
            assert run.codes() == [1, 1]
    taken = f"ValueError: Port {ports[0]} of this worker's own address"
    assert_says(outputs[worker], f"{taken} {HERE}:{ports[0]} is in use")
    assert_says(outputs[1 - worker], f"TimeoutError: .* worker {worker} ")


# --- The disk


def test_a_full_disk(tmp_path, fitted, caplog):
    with Run(tmp_path, fault="disk").workers() as run:
        _, second = run.end()
        assert_as(run, fitted)
        for step in (SAVED + EVERY, LAST):
            words = f"Worker 1 cannot write its part of .* step {step} to "
            assert_says(second, words + ".*The last good")
    saved = fda_tf.Checkpoint(tmp_path / "saved", EVERY)
    for k in (0, 1):
        assert list(saved.found(k, 2)) == [(SAVED, 2), (SAVED - EVERY, 2)]
    assert not caplog.messages  # nothing torn is left
    with Run(tmp_path).workers() as again:
        again.end(since=time.time())
        assert_as(again, fitted)
        for k in (0, 1):
            assert again.steps(k) == [
                *range(1, LAST + 1),
                *range(SAVED + 1, LAST + 1),
            ]


# --- Stopped


def is_stopped(pid):
    """Whether a process stands still."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def wait_until_stopped(run, worker):
    """Waits for the fault; returns the worker's pid."""
    run.wait_for(lambda: run.read("fault", worker))
    pid = run.read("pid", worker)
    run.wait_for(lambda: is_stopped(pid))
    return pid


def test_a_worker_stopped_for_10_seconds(tmp_path, fitted):
    with Run(tmp_path, fault="stop").workers() as run:
        pid = wait_until_stopped(run, 1)
        time.sleep(10)
        assert max(run.steps(0)) <= FAULT + 1 and None in run.codes()
        os.kill(pid, signal.SIGCONT)
        run.end()
        assert_as(run, fitted)
        assert run.steps(0) == list(range(1, LAST + 1))


@pytest.mark.parametrize("worker", [0, 1])
def test_a_worker_stopped_for_good(tmp_path, worker):
    with Run(tmp_path, fault="stop", worker=worker).workers() as run:
        pid = wait_until_stopped(run, worker)
        other = run.all[1 - worker]
        other.join(60)
        assert other.code == 1, run.said()
        print(f"the other ended after {other.ended - run.began:.1f} s")
        assert_says(other.output, LOST.format(1 - worker, worker, HERE))
        os.kill(pid, signal.SIGCONT)
        since = time.time()
        outputs = run.end(since=since)
        assert run.codes() == [1, 1]
        assert_says(outputs[worker], f"RuntimeError: Worker {worker} lost ")


# --- Cut off


@pytest.fixture
def two_hosts():
    """Two hosts and a switch."""
    with netlab.Hosts(2) as lab:
        yield lab


def on(two_hosts, run):
    """Starts a worker on each host, and waits until they train."""
    addresses = [f"{address}:2222" for address in two_hosts.addresses]
    run.workers(addresses=addresses, wrapped=two_hosts.command)
    run.wait_for_step(FAULT)


@needs_hosts
def test_a_cable_cut_for_5_seconds(tmp_path, two_hosts, fitted):
    with Run(tmp_path, pause=0.01) as run:
        on(two_hosts, run)
        two_hosts.cut(1)
        time.sleep(5)
        assert max(run.steps(0)) < LAST and run.codes() == [None, None]
        two_hosts.mend(1)
        run.end(since=time.time())
        assert_as(run, fitted)
        assert run.steps(0) == list(range(1, LAST + 1))


@needs_hosts
def test_a_cable_cut_for_good(tmp_path, two_hosts):
    with Run(tmp_path, pause=0.01) as run:
        on(two_hosts, run)
        two_hosts.cut(0)
        outputs = run.end(since=time.time())
        assert run.codes() == [1, 1]
        for k, output in enumerate(outputs):
            address = re.escape(two_hosts.addresses[1 - k])
            assert_says(output, LOST.format(k, 1 - k, address))


# --- The launcher


def test_no_worker_outlives_a_killed_launcher(tmp_path):
    with Run(tmp_path, pause=0.1).launcher() as run:
        run.wait_for_step(3)
        pids = [run.read("pid", k) for k in (0, 1)]
        assert all(map(launched.runs, pids))
        run.all[0].process.kill()
        assert launched.eventually(lambda: not any(map(launched.runs, pids)))


@pytest.mark.parametrize("how", ["fit", "train"])
def test_sigterm_saves_and_the_next_launch_goes_on(
    tmp_path, how, fitted, trained
):
    with Run(tmp_path, how=how, pause=0.05).launcher() as run:
        run.wait_for_step(FAULT)
        run.all[0].process.terminate()
        (output,) = run.end(since=time.time())
        assert run.codes() == [143], output
        assert_says(output, "got SIGTERM and passed it on: the workers have 30")
        stopped = max(run.steps(0))
        assert stopped < LAST
    with Run(tmp_path, how=how).launcher() as again:
        again.end(since=time.time())
        assert_as(again, fitted if how == "fit" else trained)
        if how == "fit":  # not a step is lost, and none is done again
            saved = stopped + 1  # its batch never ended: the process did
            expected = [n for n in range(1, LAST + 1) if n != saved]
            assert again.steps(1) == expected


@pytest.mark.parametrize(
    "fault, how, tracebacks, lines",
    [
        ("callback", "fit", 1, "Worker 1 failed; all workers stop: FaultErr"),
        ("callback", "train", 1, "Worker 1 failed; all workers stop: FaultErr"),
        ("exit", "fit", 0, "Worker 1 failed; all workers stop: SystemExit: 3"),
        ("kill", "fit", 0, "Worker 0 lost worker 1"),
        ("model", "fit", 1, "Worker 1 differs from worker 0 in"),
    ],
)
def test_the_launcher_shows_where_it_was_once(
    tmp_path, fault, how, tracebacks, lines
):
    with Run(tmp_path, fault=fault, how=how) as run:
        run.launcher(TF_CPP_MIN_LOG_LEVEL="0")
        (output,) = run.end()
        assert output.count("Traceback (most recent") == tracebacks, output
        # A chief may hear of a worker that was killed after 30 s only.
        counts = {"model": (2,), "kill": (0, 1)}.get(fault, (1,))
        says = rf"^(?:\[worker 1\] )?\w+Error: {lines}"
        assert len(re.findall(says, output, re.M)) in counts, output
        assert not re.search(r"^F0|Terminating|Fatal|\*\*\* ", output, re.M)
        if how == "fit" and fault != "kill":  # all have agreed to end
            assert "StartAbort" not in output


# --- Errors, and other ways out


@pytest.mark.parametrize(
    "fault, how, own, told",
    [
        ("callback", "fit", "FaultError: the call", "FaultError: the call"),
        ("callback", "train", "FaultError: the call", "FaultError: the call"),
        ("data", "fit", "FaultError: the data's", "Unknown.*the data's"),
        ("validation", "fit", "FaultError: the val", "FaultError: the val"),
        ("exit", "fit", "", "SystemExit: 3"),
        ("exit", "train", "", "SystemExit: 3"),
        ("interrupt", "fit", "KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_an_error_on_one_worker(tmp_path, fault, how, own, told):
    with Run(tmp_path, how=how, fault=fault).workers() as run:
        first, second = run.end()
        code = {"exit": 3, "interrupt": -signal.SIGINT}.get(fault, 1)
        assert run.codes() == [1, code]
        assert_says(second, own)
        assert_says(first, f"Worker 1 failed; all workers stop: {told}")
