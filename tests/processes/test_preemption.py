"""SIGTERM is heard at once, and only while somebody watches."""

import errno
import os
import signal
import threading
import time

import keras
import pytest
import small
import tensorflow as tf
from launched import eventually

import fda_tf
from fda_tf import tf_internals
from fda_tf.processes.preemption import Preempted, Preemption
from fda_tf.processes.process_group import ProcessGroup


@pytest.fixture(autouse=True)
def untouched():
    """Handlers and wake-up pipes are as they were."""
    mine, theirs = os.pipe()
    os.set_blocking(theirs, False)
    handler = signal.signal(signal.SIGTERM, print)
    before = signal.set_wakeup_fd(theirs)
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    yield
    assert signal.set_wakeup_fd(before) == theirs
    assert signal.signal(signal.SIGTERM, handler) is print
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() == threads
    os.close(mine)
    os.close(theirs)


def test_it_tells_while_the_main_thread_is_busy():
    told = threading.Event()
    preemption = Preemption(told.set)
    with preemption.watch():
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.wait(10)  # in which no handler of Python's is called
        assert preemption.came
        signal.raise_signal(signal.SIGTERM)  # again: no more than before


def test_other_signals_are_not_its():
    preemption, other = Preemption(), []
    before = signal.signal(signal.SIGUSR1, lambda *_: other.append(1))
    with preemption.watch():
        signal.raise_signal(signal.SIGUSR1)
        assert eventually(lambda: other)
    signal.signal(signal.SIGUSR1, before)
    assert not preemption.came


def test_an_error_leaves_nothing_behind():
    with pytest.raises(KeyError), Preemption().watch():
        raise KeyError


def test_other_threads_change_nothing():
    seen = []

    def run():
        with Preemption().watch():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [print]


def in_child(act):
    """Forks a child that acts; returns what ended it, as subprocess has it."""
    pid = os.fork()
    if not pid:
        try:
            act()
        finally:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_does_not_listen():
    def end():
        signal.raise_signal(signal.SIGTERM)  # the fixture's handler: no end

    preemption = Preemption()
    with preemption.watch():
        assert in_child(end) == 7
        assert not preemption.came
        signal.raise_signal(signal.SIGTERM)
        assert eventually(lambda: preemption.came)


def test_what_ends_a_forked_child_is_what_was_before(monkeypatch):
    def end():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(10)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    preemption, inner = Preemption(), Preemption()
    with preemption.watch(), inner.watch():
        assert in_child(end) == -signal.SIGTERM
        assert not preemption.came and not inner.came
    signal.signal(signal.SIGTERM, before)


def test_a_child_killed_as_soon_as_it_is_there_is_not_heard():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    preemption = Preemption()
    with preemption.watch():
        for _ in range(50):
            pid = os.fork()
            if not pid:
                time.sleep(10)
                os._exit(7)
            os.kill(pid, signal.SIGTERM)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert code == -signal.SIGTERM
        assert not preemption.came
    signal.signal(signal.SIGTERM, before)


def test_a_child_that_leaves_the_context_leaves_the_parent_s(tmp_path):
    preemption = Preemption()
    try:
        with preemption.watch():
            pid = os.fork()
            if not pid:
                raise KeyError
            assert os.waitpid(pid, 0)[1] == 0
            signal.raise_signal(signal.SIGTERM)
            assert eventually(lambda: preemption.came)
    except KeyError:
        os._exit(0)


def test_a_child_of_a_worker_cannot_exchange(monkeypatch):
    process_group = ProcessGroup(0, ("a:1", "b:1"))
    told = []
    monkeypatch.setattr(tf_internals, "tell_all", told.append)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="Process -1 was forked from worker"):
        process_group.waiting()
    process_group.give_up(KeyError())
    assert not told


def test_a_call_of_many_steps_ends_soon(tmp_path):
    """Such a call has 32 steps, which here take 3 seconds."""
    seen = []

    def slowly(x):
        seen.append(time.monotonic())
        time.sleep(0.1)
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return x

    def slow(x, y):
        same = tf.numpy_function(slowly, [x], x.dtype)
        return tf.ensure_shape(same, x.shape), y

    data = tf.data.Dataset.from_tensor_slices(small.data(64)).batch(8)
    with pytest.raises(SystemExit):
        fda_tf.train(
            small.linear_model(), data.repeat().map(slow), steps=64,
            checkpoint=fda_tf.Checkpoint(tmp_path),
        )  # fmt: skip
    (step,) = fda_tf.Checkpoint(tmp_path).steps()
    assert step < 16


def train(checkpoint, callback):
    fda_tf.train(
        small.linear_model(), small.data(), steps=30, batch_size=8,
        on_progress=callback, checkpoint=checkpoint,
    )  # fmt: skip


def fit(checkpoint, callback):
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: callback({"step": batch + 1})
    )
    fda = fda_tf.FDA(checkpoint=checkpoint)
    small.linear_model().fit(
        *small.data(), batch_size=8, verbose=0, callbacks=[look, fda]
    )


@pytest.mark.parametrize("run", [train, fit])
def test_where_a_full_disk_leaves_it_is_said(
    run, tmp_path, monkeypatch, caplog
):
    checkpoint = fda_tf.Checkpoint(tmp_path, every=4)
    write = fda_tf.Checkpoint.write

    def full(self, step, *part):
        if step > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, step, *part)

    def stop(row):
        if row["step"] >= 6:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(fda_tf.Checkpoint, "write", full)
    with pytest.raises(SystemExit) as ended:
        run(checkpoint, stop)
    assert ended.value.code == 202
    assert checkpoint.steps() == [4]
    assert caplog.messages[-1].startswith("SIGTERM: all workers end, but step ")
    assert caplog.messages[-1].endswith("they go on from step 4.")


def test_without_any_checkpoint_one_begins_anew(caplog):
    with pytest.raises(SystemExit, match="202"):
        Preemption.end(6, None, chief=True)
    assert caplog.messages[-1].endswith("Started again, they begin anew.")


def test_others_are_not_told_of_an_end_that_all_have_agreed_on(monkeypatch):
    told, process_group = [], ProcessGroup()
    monkeypatch.setattr(process_group, "give_up", told.append)
    for end in (Preempted(143), SystemExit(3)):
        with pytest.raises(SystemExit), process_group.lost_worker_in_words():
            raise end
    assert told == [end]
