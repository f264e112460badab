"""Processes that are launched: they end together, and it is said why."""

import os
import signal
import subprocess
import sys
import time

import processes
import pytest
from launched import command, eventually, runs

from fda_tf import launch
from fda_tf.launch import _group, _output

SLEEPS = (
    "import pathlib\n"
    "pathlib.Path(sys.argv[1], str(k)).write_text(str(os.getpid()))\n"
    "time.sleep(600)\n"
)
needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="Linux ends the children of the dead"
)


@pytest.fixture
def launcher(tmp_path):
    """A launcher in a process of its own, and its two workers' pids."""
    words = command(tmp_path, SLEEPS)
    job = tmp_path / "launch.py"
    job.write_text(
        "import sys\nfrom fda_tf import launch\n"
        f"sys.exit(launch.launch({words!r}, workers=2, max_restarts=3))\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(job)],
        env=os.environ | {"PYTHONPATH": str(processes.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    files = [tmp_path / "0", tmp_path / "1"]
    pids = []
    try:
        assert eventually(lambda: all(map(read, files)), 60)
        pids = [int(read(file)) for file in files]
        yield process, pids
    finally:
        process.kill()
        process.communicate()
        for pid in filter(runs, pids):
            os.kill(pid, signal.SIGKILL)


def read(path):
    """What a worker wrote; nothing if it did not yet."""
    return path.read_text() if path.exists() else ""


@pytest.fixture(autouse=True)
def few_last_words(monkeypatch):
    """Workers that sleep are not waited for."""
    monkeypatch.setattr(_group, "LAST_WORDS_SECONDS", 1.0)


# --- The first failure, in words


def test_all_end_with_the_first_failure(capfd, caplog, tmp_path):
    words = command(
        tmp_path,
        "print('hello', flush=True)\n"
        "sys.exit(7) if k == 1 else time.sleep(600)\n",
    )
    assert launch.launch(words, workers=3) == 7
    out, _ = capfd.readouterr()
    assert "[worker 1] hello" in out and "\nhello" in "\n" + out
    message = "worker 1 ended with exit code 7; the others were ended"
    assert caplog.messages == [message]


def test_the_first_failure_is_the_first_in_time(caplog, tmp_path):
    # Worker 0 fails while it is ended, because worker 2 has failed.
    words = command(
        tmp_path,
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(5))\n"
        "time.sleep(1 if k == 2 else 600)\n"
        "sys.exit(9)\n",
    )
    assert launch.launch(words, workers=3) == 9
    assert "worker 2 ended with exit code 9" in caplog.text


def test_a_signal_is_named(caplog, tmp_path):
    words = command(
        tmp_path,
        "os.kill(os.getpid(), signal.SIGKILL) if k == 1 else time.sleep(600)\n",
    )
    assert launch.launch(words, workers=2) == 128 + signal.SIGKILL
    message = "worker 1 was ended by signal 9 (SIGKILL); the others were ended"
    assert caplog.messages == [message]


def test_those_that_fail_of_the_same_may_say_so(capfd, tmp_path):
    words = command(
        tmp_path,
        "time.sleep(0.3 * (1 - k))\nprint('Error', k)\nsys.exit(1)\n",
    )
    assert launch.launch(words, workers=2) == 1
    assert capfd.readouterr().out.split("\n") == [
        "[worker 1] Error 1",
        "Error 0",
        "",
    ]


class Ended:
    """A process that is through."""

    def __init__(self, code):
        self.returncode = code

    def poll(self):
        return self.returncode


@pytest.mark.parametrize(
    "codes, expected",
    [
        ([0, 0], None),
        ([None, 3], 1),
        ([4, 3], 0),
        ([1, 0, -9], 2),
        ([143, 0], None),
        ([143, None], None),
        ([143, 3], 1),
    ],
)
def test_who_failed_first(codes, expected):
    group = _group.Group([], _output.Output())
    group._processes = [Ended(code) for code in codes]
    failure = group.wait(0) or group.failure()
    assert (failure and failure.worker) == expected


def test_a_program_that_is_none(capfd, caplog):
    assert launch.launch(["/no/such/program"], workers=1) == 127
    assert "/no/such/program: No such file" in capfd.readouterr().err
    assert caplog.messages == ["worker 0 ended with exit code 127"]


def test_it_refuses_in_words():
    with pytest.raises(ValueError, match="workers=0: expected"):
        launch.launch(["true"], workers=0)
    with pytest.raises(ValueError, match="command='true': expected a program"):
        launch.launch("true", workers=1)
    with pytest.raises(ValueError, match="expected a program"):
        launch.launch([], workers=1)
    for wrong in (-1, 0.5, True, None):
        with pytest.raises(ValueError, match=f"max_restarts={wrong}: expected"):
            launch.launch(["true"], workers=1, max_restarts=wrong)
    with pytest.raises(ValueError, match="grace=-1: expected seconds"):
        launch.launch(["true"], workers=1, grace=-1)


def test_all_well_says_nothing(caplog, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert launch.launch(command(tmp_path, ""), workers=2) == 0
    assert not caplog.messages
    assert signal.getsignal(signal.SIGTERM) is before


# --- No orphans


def test_sigterm_ends_the_workers(launcher):
    process, pids = launcher
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "got SIGTERM and passed it on: the workers have 30 s" in err
    assert "was ended by signal 15 (SIGTERM)" in err and "restart 1" not in err
    assert not any(map(runs, pids))


CHILDREN = (
    "import subprocess\n"
    "sleep = [sys.executable, '-c', 'import signal, time;' "
    "'signal.signal(signal.SIGTERM, signal.SIG_IGN);'"
    "'print(1, flush=True); time.sleep(600)']\n"
    "child = subprocess.Popen(sleep, stdout=subprocess.PIPE)\n"
    "child.stdout.read(2)\n"
    "(folder / f'child{k}').write_text(str(child.pid))\n"
)


@pytest.mark.parametrize(
    "ends, code", [("0", 0), ("3 * k", 3), ("time.sleep(600)", 143)]
)
def test_the_workers_children_end_with_them(ends, code, tmp_path):
    # Worker 0, in the last case, has both told by the launcher: this process.
    ready = "while len(list(folder.glob('child*'))) < 2: time.sleep(0.01)\n"
    tell = "k or os.kill(os.getppid(), signal.SIGTERM)\n" * (code == 143)
    words = command(tmp_path, CHILDREN + ready + tell + f"sys.exit({ends})\n")
    try:
        assert launch.launch(words, workers=2, max_restarts=0) == code
    except SystemExit as ended:
        assert ended.code == code
    pids = [int((tmp_path / f"child{k}").read_text()) for k in (0, 1)]
    assert eventually(lambda: not any(map(runs, pids)))


@needs_linux
def test_a_killed_launcher_leaves_no_orphans(launcher):
    process, pids = launcher
    process.kill()
    assert eventually(lambda: not any(map(runs, pids)))


def test_ctrl_c_is_the_launcher_s(launcher):
    process, pids = launcher
    os.kill(pids[0], signal.SIGINT)  # as the terminal sends it to all
    time.sleep(0.5)
    assert runs(pids[0]) and process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode not in (0, None) and "restart 1" not in err
    assert not any(map(runs, pids))
