"""How a process joins its job, with nobody else there."""

import faulthandler
import json
import os
import signal
import socket
import sys

import pytest
import tensorflow as tf
from absl import logging

import fda_tf
from fda_tf import tf_internals
from fda_tf.processes import error_messages, exits, process_group, rendezvous

LOCAL = ["127.0.0.1:1", "localhost:2", "[::1]:3"]
FAR = ["127.0.0.1:1", "host1:1", "127.0.0.1:2"]


def free_port(address):
    """Returns a listening socket, as for a port of ours that was free."""
    return socket.create_server(("127.0.0.1", 0))


@pytest.fixture
def join(monkeypatch):
    """Calls `connect()` as a worker of a job whose processes all come."""

    def connect(addresses, index):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        monkeypatch.setattr(process_group, "_connected", [])
        return fda_tf.connect(start_timeout=60)

    shown = []
    connect.shown = shown
    monkeypatch.setenv("no_grpc_proxy", "")  # which is put back
    monkeypatch.setattr(tf_internals, "is_initialized", lambda: False)
    monkeypatch.setattr(
        tf_internals, "configure_heartbeat", lambda cluster: None
    )
    monkeypatch.setattr(rendezvous, "listen", free_port)
    monkeypatch.setattr(rendezvous, "meet", lambda *_: None)
    monkeypatch.setattr(process_group, "_strategy", lambda *_: None)
    monkeypatch.setattr(process_group.atexit, "register", lambda *_: None)
    monkeypatch.setattr(sys, "excepthook", lambda *_: shown.append(True))
    return connect


@pytest.fixture
def warnings(monkeypatch):
    """The warnings that were logged."""
    said = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *values: said.append(text % values)
    )
    return said


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that there are GPUs; gives those that were made visible."""

    def pretend(count):
        there, chosen = [f"GPU:{k}" for k in range(count)], []
        monkeypatch.setattr(
            tf.config, "get_visible_devices", lambda kind: there
        )
        monkeypatch.setattr(
            tf.config,
            "set_visible_devices",
            lambda devices, kind: chosen.append((devices, kind)),
        )
        return chosen

    return pretend


@pytest.mark.parametrize(
    ("addresses", "index", "times"),
    [(FAR, 0, 1), (FAR, 1, 0), (FAR, 2, 0), (LOCAL, 0, 0), (LOCAL, 2, 0)],
)
def test_the_chief_of_machines_warns_once_of_strangers(
    join, warnings, addresses, index, times
):
    joined = join(addresses, index)
    assert (joined.index, joined.count) == (index, 3)
    assert fda_tf.connect() is joined  # called again, it does nothing
    assert len(warnings) == times
    for said in warnings:
        assert "neither authenticates nor encrypts" in said


@pytest.mark.parametrize(
    ("count", "index", "expected"),
    [
        (0, 0, []),
        (1, 2, []),  # nothing to choose
        (2, 0, [("GPU:0", "GPU")]),
        (4, 1, [("GPU:0", "GPU")]),  # the first of its host
        (4, 2, [("GPU:1", "GPU")]),
    ],
)
def test_a_process_takes_its_own_gpu(
    join, gpus, warnings, count, index, expected
):
    chosen = gpus(count)
    join(FAR, index)
    assert chosen == expected
    assert not any("share" in said for said in warnings)


def test_more_workers_than_gpus_are_told_that_they_share(join, gpus, warnings):
    chosen = gpus(2)
    join(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], 2)
    assert chosen == [("GPU:0", "GPU")]
    (said,) = warnings
    assert "3 workers of this machine share 2 GPUs" in said


def test_alone_all_gpus_stay(join, gpus):
    chosen = gpus(4)
    assert join(["127.0.0.1:1"], 0).count == 1
    assert not chosen


@pytest.fixture
def alarms(monkeypatch):
    """What was done to the timer that ends the process."""
    done = []
    monkeypatch.setattr(
        faulthandler,
        "dump_traceback_later",
        lambda seconds, exit: done.append((seconds, exit)),
    )
    monkeypatch.setattr(
        faulthandler,
        "cancel_dump_traceback_later",
        lambda: done.append("cancelled"),
    )
    return done


def test_a_start_that_fails_leaves_no_timer(join, monkeypatch, alarms):
    def fail(*_):
        raise ValueError("several GPUs")

    monkeypatch.setattr(process_group, "_strategy", fail)
    with pytest.raises(ValueError, match="several GPUs"):
        join(LOCAL, 0)
    assert alarms == [(60, True), "cancelled"]


def test_a_start_that_goes_well_leaves_no_timer(join, alarms):
    join(LOCAL, 0)
    assert alarms == [(60, True), "cancelled"]


def test_a_forgotten_callback_is_told_of_at_the_end(join, warnings):
    two = join(LOCAL[:2], 1)
    del warnings[:]
    exits.tell_at_exit(two)
    (said,) = warnings
    assert said.startswith("Worker 1 of 2 has trained with none of the others")
    two.used = True
    exits.tell_at_exit(two)
    assert warnings == [said]


@pytest.mark.parametrize(
    "shown_by, whole", [(None, True), (1, True), (0, False), (-1, False)]
)
def test_one_worker_shows_where_an_error_was(join, capfd, shown_by, whole):
    join(LOCAL, 1)
    error = ValueError("of all")
    if shown_by is not None:
        error_messages.known(error, shown_by)
    sys.excepthook(ValueError, error, None)
    assert bool(join.shown) == whole
    assert (capfd.readouterr().err == "ValueError: of all\n") != whole


def test_sigterm_does_what_it_did_before_tensorflow(join, monkeypatch):
    def swallow(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        monkeypatch.setattr(signal, "getsignal", lambda _: print)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(process_group, "_strategy", swallow)
    join(LOCAL, 1)
    monkeypatch.undo()
    assert signal.signal(signal.SIGTERM, before) is print


def test_the_workers_are_reached_without_a_proxy(join, monkeypatch):
    monkeypatch.setenv("no_grpc_proxy", "x")
    join(LOCAL, 1)
    assert os.environ["no_grpc_proxy"] == "x,127.0.0.1,localhost,::1"
