"""Launched workers that are started again, and those that may save first."""

import json
import os
import signal
import threading
import time

import launched
import pytest

from fda_tf import launch
from fda_tf.launch import _group

# Worker 0 waits until the other is ready, then signals the launcher, which is
# the process of this test.
READY = (
    "def ready():\n"
    "  (folder / str(k)).touch()\n"
    "  while not all((folder / str(i)).exists() for i in range(2)):\n"
    "    time.sleep(0.01)\n"
)
IGNORES = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
ENDS = (
    READY + "ready()\n"
    "if k == 0: os.kill(os.getppid(), signal.SIGTERM)\n"
    "time.sleep(30)\n"
)


def handler(body):
    """A job's line that runs the body at SIGTERM."""
    return f"signal.signal(signal.SIGTERM, lambda *_: ({body}))\n"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """The pause before a restart is short, and so is the wait for others."""
    monkeypatch.setattr(launch, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(_group, "LAST_WORDS_SECONDS", 1.0)


@pytest.fixture(autouse=True)
def hard_limit():
    """No test waits for workers that sleep."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10


# --- Restarts


def test_all_start_again_after_a_failure(capfd, caplog, tmp_path, monkeypatch):
    given, real = [], launch.tf_configs
    monkeypatch.setattr(
        launch, "tf_configs", lambda k: given.append(real(k)) or given[-1]
    )
    words = launched.command(
        tmp_path,
        "print('start', start, config['cluster']['worker'], flush=True)\n"
        "if start: sys.exit(0)\n"
        "if k == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(30)\n",
    )
    assert launch.launch(words, workers=3, max_restarts=2) == 0
    assert caplog.messages == [
        "restart 1 of 2: worker 2 was ended by signal 9 (SIGKILL); it begins "
        "in 0.01 s"
    ]
    out, _ = capfd.readouterr()
    assert len(given) == 2
    for start, configs in enumerate(given):
        addresses = json.loads(configs[0])["cluster"]["worker"]
        for prefix in ("\n", "[worker 1] ", "[worker 2] "):
            assert f"{prefix}start {start} {addresses}" in "\n" + out


def test_the_last_failure_counts_when_no_restart_is_left(caplog, tmp_path):
    words = launched.command(tmp_path, "sys.exit(10 + start)\n")
    assert launch.launch(words, workers=1, max_restarts=2) == 12
    assert caplog.messages == [
        "restart 1 of 2: worker 0 ended with exit code 10; it begins in 0.01 s",
        "restart 2 of 2: worker 0 ended with exit code 11; it begins in 0.02 s",
        "worker 0 ended with exit code 12; this was restart 2, the last",
    ]


def test_restarts_are_paused(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "FIRST_PAUSE_SECONDS", 0.3)
    began = time.monotonic()
    assert launch.launch(["/no/such"], workers=1, max_restarts=2) == 127
    assert time.monotonic() - began >= 0.3 + 0.6


def test_a_start_that_lasted_begins_a_new_row(monkeypatch, caplog):
    monkeypatch.setattr(launch, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(launch, "SOON_SECONDS", 0.0)
    assert launch.launch(["/no/such"], workers=1, max_restarts=3) == 127
    said = [message for message in caplog.messages if "begins in" in message]
    assert len(said) == 3
    assert all(message.endswith("begins in 0.01 s") for message in said)


def test_one_that_is_done_early_is_no_failure(caplog, tmp_path):
    words = launched.command(tmp_path, "time.sleep(0 if k else 0.5)\n")
    assert launch.launch(words, workers=2, max_restarts=1) == 0
    assert not caplog.messages


def test_sigterm_in_a_pause_ends_the_launcher(caplog, monkeypatch):
    monkeypatch.setattr(launch, "FIRST_PAUSE_SECONDS", 60)

    def tell():
        # Once it is said, SIGTERM is the launcher's own.
        if launched.eventually(lambda: "restart 1 of 9" in caplog.text):
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=tell)
    thread.start()
    with pytest.raises(SystemExit) as ended:
        launch.launch(["false"], workers=1, max_restarts=9)
    thread.join()
    assert ended.value.code == 128 + signal.SIGTERM


# --- Preemption


def test_the_workers_may_save_and_end_well(caplog, tmp_path):
    saves = handler("time.sleep(0.5), (folder / f'saved{k}').touch(), exit(0)")
    words = launched.command(tmp_path, saves + ENDS)
    assert launch.launch(words, workers=2, max_restarts=3) == 0
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    (message,) = caplog.messages
    assert message.startswith("The launcher got SIGTERM and passed it on")


def test_one_that_does_not_end_is_killed(caplog, tmp_path):
    body = f"if k: {IGNORES}else: {handler('exit(0)')}"
    words = launched.command(tmp_path, body + ENDS)
    with pytest.raises(SystemExit) as ended:
        launch.launch(words, workers=2, max_restarts=3, grace=0.5)
    assert ended.value.code == 128 + signal.SIGKILL
    assert "have 0.5 s to save" in caplog.messages[0]
    expected = "The launcher got SIGTERM; worker 1 was ended by signal 9"
    assert caplog.messages[1].startswith(expected)


@pytest.mark.parametrize("second", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("first", ["SIGTERM", "SIGINT"])
def test_whoever_asks_twice_need_not_wait(first, second, tmp_path, monkeypatch):
    monkeypatch.setattr(_group, "GRACE_SECONDS", 60)
    tell = "os.kill(os.getppid(), signal.{})\n"
    words = launched.command(
        tmp_path,
        IGNORES + READY + "ready()\nif k: time.sleep(30)\n"
        f"{tell.format(first)}time.sleep(0.3)\n{tell.format(second)}"
        "time.sleep(30)\n",
    )
    by_ctrl_c = "SIGINT" in (first, second)
    with pytest.raises(KeyboardInterrupt if by_ctrl_c else SystemExit):
        launch.launch(words, workers=2, grace=60)


def test_nobody_waits_long_for_one_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(_group, "GRACE_SECONDS", 0.3)
    body = f"if k: {handler('os._exit(1)')}else: {IGNORES}"
    words = launched.command(tmp_path, body + ENDS)
    with pytest.raises(SystemExit):
        launch.launch(words, workers=2, grace=60)


def test_one_that_says_it_was_preempted_has_not_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(_group, "GRACE_SECONDS", 0.1)
    slow = handler("time.sleep(1), (folder / 'saved').touch(), exit(143)")
    body = f"if k: {handler('os._exit(143)')}else: {slow}"
    words = launched.command(tmp_path, body + ENDS)
    with pytest.raises(SystemExit) as ended:
        launch.launch(words, workers=2, grace=60)
    assert ended.value.code == 143 and (tmp_path / "saved").exists()


@pytest.mark.parametrize("others", ["time.sleep(0.3)", "exit(143)"])
def test_a_preempted_worker_is_no_failure(others, caplog, tmp_path):
    words = launched.command(tmp_path, f"exit(143) if k == 1 else {others}\n")
    assert launch.launch(words, workers=3, max_restarts=3) == 143
    assert not caplog.messages


def test_one_that_cannot_save_is_told_from_one_that_has(caplog, tmp_path):
    words = launched.command(tmp_path, handler("os._exit(202)") + ENDS)
    with pytest.raises(SystemExit) as ended:
        launch.launch(words, workers=2, max_restarts=3, grace=60)
    assert ended.value.code == 202
    assert "ended with exit code 202" in caplog.messages[-1]


def test_one_that_hangs_after_a_preemption_is_killed(
    caplog, tmp_path, monkeypatch
):
    monkeypatch.setattr(_group, "GRACE_SECONDS", 0.3)
    words = launched.command(
        tmp_path, IGNORES + "exit(143) if k else time.sleep(30)\n"
    )
    code = launch.launch(words, workers=2, max_restarts=3, grace=0.3)
    assert code == 128 + signal.SIGKILL
    assert not any("restart" in message for message in caplog.messages[:-1])
