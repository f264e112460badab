"""TF_CONFIG, SLURM's variables and addresses: what is read, what is refused."""

import json
import socket
import threading

import pytest

from fda_tf import environment, rendezvous


def tf_config(workers=("a:1", "b:1"), index=0, job="worker", **others):
    """The text of a TF_CONFIG."""
    cluster = {"worker": workers} | others
    return json.dumps(
        {"cluster": cluster, "task": {"type": job, "index": index}}
    )


@pytest.mark.parametrize(
    "text, expected",
    [
        (tf_config(index=1), ({"worker": ["a:1", "b:1"]}, "worker", 1)),
        (tf_config(index="1"), ({"worker": ["a:1", "b:1"]}, "worker", 1)),
        (
            tf_config(["a:65535"], job="chief", chief=["[::1]:1"]),
            ({"worker": ["a:65535"], "chief": ["[::1]:1"]}, "chief", 0),
        ),
        (
            '{"cluster": {"chief": ["a:1"]}, '
            '"task": {"type": "chief", "index": 0}}',
            ({"worker": [], "chief": ["a:1"]}, "chief", 0),
        ),
    ],
)
def test_tf_config_is_read(text, expected):
    assert environment.read_tf_config(text) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "TF_CONFIG is not JSON"),
        ("[]", "lacks a cluster or a task"),
        ('{"cluster": {"worker": ["a:1"]}}', "lacks a cluster or a task"),
        (tf_config("a:1"), "has 'a:1' for the job 'worker'; expected a list"),
        (tf_config(None), "has None for the job 'worker'; expected a list"),
        (tf_config([]), "expected 'worker', and at most one 'chief'"),
        (tf_config(ps=["c:1"]), "expected 'worker', and at most one 'chief'"),
        (tf_config(chief=["c:1", "d:1"]), "'chief': 2}.*at most one 'chief'"),
        (tf_config(["a:1", 7]), "the address 7; expected a text"),
        (tf_config([["a:1"], "b:1"]), "expected a text, host:port"),
        (tf_config(["a"]), "the address 'a'; expected host:port"),
        (tf_config([":1"]), "the address ':1'; expected host:port"),
        (tf_config(["a:1.5"]), "expected host:port"),
        (tf_config(["a:\u00b2"]), "expected host:port"),
        (tf_config(["::1:22"]), r"brackets, such as \[::1\]:2222"),
        (tf_config(["a:0"]), "'a:0'; expected a port of 1 to 65535"),
        (tf_config(["a:65536"]), "expected a port of 1 to 65535"),
        (tf_config(["a:1", "a:1"]), "'a:1' more than once"),
        (tf_config(chief=["b:1"]), "'b:1' more than once"),
        (tf_config(index=2), "this is task worker:2, but its cluster lists"),
        (tf_config(index=-1), "this is task worker:-1, but"),
        (tf_config(index=1.9), "the task index 1.9; expected a whole number"),
        (tf_config(index=True), "the task index True; expected a whole"),
        (tf_config(index="one"), "the task index 'one'; expected a whole"),
        (tf_config(index=None), "the task index None; expected a whole"),
        (tf_config(job="chief"), "this is task chief:0, but its cluster"),
        (tf_config(job=["worker"]), "but its cluster lists"),
    ],
)
def test_a_wrong_tf_config_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        environment.read_tf_config(text)


def test_slurm_tasks(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    assert environment.slurm_tasks() == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "12")
    assert environment.slurm_tasks() == 12
    for text in ("many", "1.5", "-2", "2(x3)"):
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", text)
        with pytest.raises(ValueError, match="SLURM_STEP_NUM_TASKS is '"):
            environment.slurm_tasks()


def test_what_describes_a_job(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not environment.describes_job()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert environment.describes_job()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("TF_CONFIG", "")  # as unset
    assert not environment.describes_job()
    monkeypatch.setenv("TF_CONFIG", tf_config())
    assert environment.describes_job()


# --- Addresses, where workers meet


def has_ipv6():
    """Whether this machine has ::1."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def free_port(host="127.0.0.1", family=socket.AF_INET):
    """A port that nobody listens on now."""
    with socket.create_server((host, 0), family=family) as server:
        return server.getsockname()[1]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_workers_meet_over_ipv6():
    family = socket.AF_INET6
    addresses = [f"[::1]:{free_port('::1', family)}" for _ in range(2)]
    worker = threading.Thread(target=rendezvous.meet, args=(addresses, 1, 10))
    worker.start()
    rendezvous.meet(addresses, 0, 10)
    worker.join(10)
    assert not worker.is_alive()
    with rendezvous.listen(addresses[1]) as listener:
        assert listener.family == family
        with pytest.raises(ValueError, match="in use by another process"):
            rendezvous.listen(addresses[1])


@pytest.mark.parametrize(
    "host",
    [
        "no-such-host.invalid",  # has no address yet
        "192.0.2.1",  # not one of ours (RFC 5737)
    ],
)
def test_an_own_name_that_is_none_here_listens_everywhere(host):
    port = free_port()
    with rendezvous.listen(f"{host}:{port}"):
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        with pytest.raises(ValueError, match="in use by another process"):
            rendezvous.listen(f"{host}:{port}")


def test_a_chief_whose_name_is_unknown_is_waited_for():
    addresses = ["no-such-host.invalid:1", "127.0.0.1:1"]
    with pytest.raises(TimeoutError, match="not there: worker 0"):
        rendezvous.meet(addresses, 1, 0.5)
