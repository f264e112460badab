"""TF_CONFIG, SLURM's variables and addresses: what is read, what is refused."""

import concurrent.futures
import json
import socket
import threading
import time

import pytest

from fda_tf.processes import environment, rendezvous


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
        (  # jobs without tasks
            tf_config(ps=[], chief=[], evaluator=[]),
            ({"worker": ["a:1", "b:1"]}, "worker", 0),
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
        (tf_config([" a:1"]), "' a:1'; expected host:port without blanks"),
        (tf_config(["a :1"]), "'a :1'; expected host:port without blanks"),
        (tf_config(["a\u00a0b:1"]), "expected host:port without blanks"),
        (tf_config(["a:1 "]), "'a:1 '; expected host:port"),
        (tf_config(["a: 1"]), "'a: 1'; expected host:port"),
        (tf_config(chief=[], ps=["c:1"]), "'ps': 1}; expected 'worker', and"),
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


# --- Several GPUs on a machine, one for each of its workers

JOB = ["a:1", "b:1", "a:2", "a:3", "[::1]:1", "b:2"]
STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "3"}


@pytest.mark.parametrize(
    "gpus, environ, expected",
    [
        (8, {}, [0, 0, 1, 2, 0, 1]),
        (2, {}, [0, 0, 1, 0, 0, 1]),  # shared
        (1, {}, [0, 0, 0, 0, 0, 0]),
        (8, STEP, [3, 3, 3, 3, 3, 3]),
        (2, STEP, [1, 1, 1, 1, 1, 1]),
        (8, STEP | {"SLURM_LOCALID": ""}, [0, 0, 1, 2, 0, 1]),
        (8, {"SLURM_LOCALID": "3"}, [0, 0, 1, 2, 0, 1]),  # in no step
        # Four workers that one task of SLURM launched have its variables.
        (8, STEP | {"TF_CONFIG": "{}"}, [0, 0, 1, 2, 0, 1]),
    ],
)
def test_each_worker_of_a_machine_has_its_gpu(gpus, environ, expected):
    got = [environment.own_gpu(JOB, k, gpus, environ) for k in range(6)]
    assert got == expected


def test_a_local_id_that_is_no_number_is_refused():
    environ = STEP | {"SLURM_LOCALID": "first"}
    with pytest.raises(ValueError, match="SLURM_LOCALID is 'first'; expected"):
        environment.own_gpu(JOB, 0, 2, environ)


# --- Proxies


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, "a,::1"),
        ({"no_proxy": "x,a"}, "x,a,::1"),
        ({"no_grpc_proxy": "y", "no_proxy": "x"}, "y,a,::1"),
    ],
)
def test_workers_need_no_proxy(environ, expected):
    environment.bypass_proxy(["a:1", "a:2", "[::1]:1"], environ)
    assert environ["no_grpc_proxy"] == expected


# --- Addresses, where workers meet


@pytest.mark.parametrize(
    "host, expected",
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("127.example.org", False),
        ("192.0.2.1", False),
        ("0.0.0.0", False),
        ("host0", False),
    ],
)
def test_local_hosts(host, expected):
    assert environment.is_local(host) == expected


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


def test_an_own_address_is_the_only_one_that_is_listened_at():
    for address in ("127.0.0.1", "127.0.0.2"):
        port = free_port(address)
        with rendezvous.listen(f"{address}:{port}") as listener:
            assert listener.getsockname() == (address, port)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.3", port), 5)


def test_an_own_name_that_others_know_elsewhere_listens_everywhere(monkeypatch):
    port = free_port()
    debian = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [debian])
    with rendezvous.listen(f"host0:{port}") as listener:
        assert listener.getsockname()[0] in ("0.0.0.0", "::")
    with rendezvous.listen(f"localhost:{port}") as listener:
        assert listener.getsockname() == ("127.0.1.1", port)


def says_nothing(stranger):
    """Keeps the connection, silently."""


def says_a_little(stranger):
    """Sends a byte now and then, and never a line."""
    try:
        while True:
            stranger.sendall(b" ")
            time.sleep(0.1)
    except OSError:
        pass  # it was hung up


def nests(stranger):
    """Sends lists in lists, more than Python can read."""
    stranger.sendall(b"[" * 50_000 + b"\n")


@pytest.mark.parametrize("strange", [says_nothing, says_a_little, nests])
def test_a_stranger_does_not_keep_the_workers_apart(monkeypatch, strange):
    monkeypatch.setattr(rendezvous, "GREETING_SECONDS", 0.5)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(rendezvous.meet, addresses, 0, 30)
        with ring(addresses[0]) as stranger:
            pool.submit(strange, stranger)
            time.sleep(0.2)  # it comes first
            rendezvous.meet(addresses, 1, 30)
        chief.result(30)
    assert time.monotonic() - start < 10


def ring(address):
    """A connection to one who is about to listen."""
    for _ in range(100):
        try:
            return socket.create_connection(environment.split_address(address))
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise TimeoutError(address)


def test_many_missing_workers_are_all_named():
    count = 2000
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    addresses += [f"host{k}:1" for k in range(2, count)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(rendezvous.meet, addresses, 0, 1.5)
        with pytest.raises(
            TimeoutError, match=r"not there: worker 2 \(host2:1"
        ):
            rendezvous.meet(addresses, 1, 30)
        with pytest.raises(TimeoutError, match=f"worker {count - 1} "):
            chief.result(30)


def test_a_chief_whose_name_is_unknown_is_waited_for():
    addresses = ["no-such-host.invalid:1", "127.0.0.1:1"]
    with pytest.raises(TimeoutError, match="not there: worker 0"):
        rendezvous.meet(addresses, 1, 0.5)
