"""SIGTERM is heard at once, and only while somebody watches."""

import os
import signal
import threading
import time

import pytest
import small
import tensorflow as tf
from launched import eventually

import fda_tf
from fda_tf.saving.preemption import Preemption


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
