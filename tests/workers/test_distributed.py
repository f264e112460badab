"""Clusters of real processes against the simulation."""

import concurrent.futures
import json
import os
import re
import socket
import sys
import time

import cases
import keras
import numpy as np
import processes
import pytest
import small

import fda_tf
from fda_tf import launch
from fda_tf.core import loop
from fda_tf.data import sources
from fda_tf.processes import environment, process_group, rendezvous
from fda_tf.processes.process_group import ProcessGroup
from fda_tf.workers.distributed import Cluster
from fda_tf.workers.local_model import Worker

CASES = list(cases.cases())
UNLIKE = {
    "theta": "ValueError: Worker 1 differs from worker 0 in sync.theta: 2.0",
    "sketch seed": "ValueError: Worker 1 differs .* in sync.monitor.seed: 1",
    "model": "ValueError: Worker 1 differs from worker 0 in ",
    "optimizer": "ValueError: Worker 1 differs from worker 0 in optimizer",
    "rate": "ValueError: Worker 1 differs from worker 0 in optimizer",
    "loss": 'ValueError: Worker 1 differs from worker 0 in loss: "mae"',
    "layer": r"ValueError: Worker 1 differs from worker 0 in layer \d \(Dense",
    "frozen": r"ValueError: Worker 1 differs from worker 0 in ",
    "dataset": "ValueError: Worker 1 differs from worker 0 in shard",
    "bad drift": "FloatingPointError: Step 1: .* worker 1 is",
    "all bad": "FloatingPointError: Step 2: .* worker 0, 1 is",
}


@pytest.fixture(scope="module", params=[2, 4])
def cluster(request, tmp_path_factory):
    """What every worker of a cluster of 2 or 4 processes did, by case."""
    folder = tmp_path_factory.mktemp("cluster")
    return processes.reports("cluster_job.py", folder, request.param)


@pytest.mark.parametrize("name", CASES)
def test_cluster_does_as_the_simulation(cluster, name):
    if name not in cluster[0]:
        pytest.skip("two processes do all cases, four do a few")
    build, options = cases.cases()[name]
    run = fda_tf.simulate(
        lambda: build(1),
        cases.shards(len(cluster), name),
        **small.in_parts(options),
    )
    expected = small.history_of(run)
    for worker in cluster:
        got = worker[name]
        assert "error" not in got, got
        assert got["syncs"] == expected["syncs"]
        np.testing.assert_allclose(
            got["variance"], expected["variance"], rtol=1e-3, atol=1e-5
        )
        np.testing.assert_allclose(
            got["weights"], expected["weights"], atol=1e-5
        )
        for a, b in zip(got["statistics"], expected["statistics"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        for key, value in expected["row"].items():
            near = pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True)
            assert got["row"][key] == near, key


def test_the_cases_have_synchronisations_and_quiet_checks(cluster):
    names = set(fda_tf.monitors.MONITORS) & set(cluster[0])
    assert {"linear", "sketch"} <= names
    for worker in cluster:
        for name in names:
            assert 1 <= len(worker[name]["syncs"]) < cases.STEPS


def test_all_workers_hold_the_same_final_model(cluster):
    for name in set(CASES) & set(cluster[0]):
        first = cluster[0][name]["weights"]
        for worker in cluster[1:]:
            assert worker[name]["weights"] == first


@pytest.mark.parametrize("name", UNLIKE)
def test_every_worker_refuses_in_words(cluster, name):
    if name not in cluster[0]:
        pytest.skip("two processes refuse all, four a few")
    for worker in cluster:
        assert re.search(UNLIKE[name], worker[name]["error"]), worker[name]


def test_workers_alike_but_for_names_and_addresses_train(cluster):
    if "alike" not in cluster[0]:
        pytest.skip("two processes do it")
    for worker in cluster:
        assert worker["alike"].get("row", worker["alike"])["step"] == 6


def test_a_strategy_of_ones_own_is_refused_by_every_worker():
    start = time.monotonic()
    results = processes.run_cluster("strategy_job.py", [], 2, seconds=90)
    for code, output in results:
        assert code == 1, output[-2000:]
        words = "Make and compile the model without strategy.scope()"
        assert words in output, output[-2000:]
    assert time.monotonic() - start < 60


def test_a_worker_that_cannot_start_tells_the_others(cluster):
    for k, worker in enumerate(cluster):
        message = "The shard of worker 1 is empty"
        told = "Worker 1 cannot start: ValueError: " if k != 1 else ""
        assert f"ValueError: {told}{message}" in worker["empty shard"]["error"]


def test_a_callback_that_fails_on_one_worker_stops_all(cluster):
    for k, worker in enumerate(cluster):
        own = "KeyError: 'mine'"
        told = "RuntimeError: Worker 1 failed in its on_evaluation"
        assert worker["callback"]["error"].startswith(own if k == 1 else told)


def test_one_worker_may_end_the_training_of_all(cluster):
    for worker in cluster:
        assert worker["stop"]["row"]["step"] == 4


def test_a_peer_that_never_comes_ends_the_start_up():
    configs = launch.tf_configs(2)
    ((code, output),) = processes.run_workers(
        "connect_job.py", ["5", "0"], [{"TF_CONFIG": configs[0]}], seconds=60
    )
    address = json.loads(configs[0])["cluster"]["worker"][1]
    assert code == 1
    assert "TimeoutError: Worker 0 waited 5 s" in output
    assert f"not there: worker 1 ({address})" in output


def test_a_chief_that_never_comes_ends_the_start_up():
    addresses = [f"127.0.0.1:{port}" for port in launch.free_ports(2)]
    with pytest.raises(TimeoutError, match=r"not there: worker 0 \(127"):
        rendezvous.meet(addresses, index=1, timeout=1.0)


def test_those_who_came_hear_who_is_missing_and_strangers_do_not_count():
    addresses = [f"127.0.0.1:{port}" for port in launch.free_ports(3)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        came = [pool.submit(rendezvous.meet, addresses, k, 2.0) for k in (0, 1)]
        host, port = addresses[0].split(":")
        time.sleep(0.5)
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        for future in came:
            with pytest.raises(TimeoutError, match="not there: worker 2"):
                future.result(timeout=20)


def test_a_port_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = "is in use by another process.* every worker's TF_CONFIG, or "
        with pytest.raises(
            ValueError, match=words + r"under SLURM by connect\("
        ):
            rendezvous.listen(address)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG is not JSON"),
        ("[]", "lacks a cluster or a task"),
        ('{"cluster": {"worker": ["a:1"]}}', "lacks a cluster or a task"),
        (
            '{"cluster": {"worker": ["a:1"]}, '
            '"task": {"type": "worker", "index": 3}}',
            "this is task worker:3, but its cluster lists",
        ),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "expected 'worker', and at most one 'chief'",
        ),
        (
            '{"cluster": {"worker": ["a"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "has the address 'a'; expected host:port",
        ),
    ],
)
def test_a_wrong_tf_config_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        environment.read_tf_config(text)


@pytest.fixture
def unconnected(monkeypatch):
    """As if `connect()` had not been called in this process."""
    monkeypatch.setattr(process_group, "_connected", [])


def test_tf_config_without_connect_is_refused(monkeypatch, unconnected):
    monkeypatch.setenv("TF_CONFIG", launch.tf_configs(2)[0])
    with pytest.raises(RuntimeError, match=r"fda_tf.connect\(\) was not"):
        fda_tf.train(small.linear_model(), small.data(), steps=1)


def test_connect_comes_first(monkeypatch, unconnected):
    small.linear_model()  # uses TensorFlow
    monkeypatch.setenv("TF_CONFIG", launch.tf_configs(2)[0])
    message = r"must come first in the script: .* a tf.distribute strategy\)"
    with pytest.raises(RuntimeError, match=message):
        fda_tf.connect()


def test_slurm_gives_each_task_its_place(monkeypatch):
    step = {
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
        "SLURM_JOB_ID": "7",
    }
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    cluster, job, task = process_group._find_job(port=0)
    assert cluster == {"worker": ["n1:12448", "n1:12449", "n2:12448"]}
    assert (job, task) == ("worker", 2)


def test_slurm_joins_the_tasks_of_a_step():
    (port,) = launch.free_ports(1)  # the second task takes the next one
    step = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "http_proxy": "http://127.0.0.1:9",  # nobody listens there
    }
    tasks = [step | {"SLURM_PROCID": str(k)} for k in range(2)]
    results = processes.run_workers(
        "connect_job.py", ["60", str(port)], tasks, seconds=90
    )
    for code, output in results:
        assert code == 0 and "sum 21 of 2" in output, output[-2000:]


def test_a_synchronisation_is_few_collectives_whatever_the_model_has():
    class Counting(ProcessGroup):
        def __init__(self):
            super().__init__(0, ("a:1", "b:1"))
            self.sent = []

        def mean(self, tensors):
            self.sent.append([t.shape.num_elements() for t in tensors])
            return list(tensors)

        def broadcast(self, tensors):
            return list(tensors)

    layers = [keras.layers.Dense(small.INPUTS) for _ in range(40)]
    model = keras.Sequential([keras.Input((small.INPUTS,)), *layers])
    small.compile_model(model)
    source = sources.ArraySource([small.data()], 8)
    counting = Counting()
    home = Cluster(Worker(model, source.spec()), source, counting)
    trainer = loop.Loop(home, fda_tf.Every(steps=1), None)
    trainer.run(2)
    numbers = 40 * (small.INPUTS + 1) * small.INPUTS
    assert counting.sent == [[numbers + 1]]  # and the call for a meeting


def test_alone_trains_as_one_worker():
    assert "TF_CONFIG" not in os.environ
    model = small.linear_model()
    run = fda_tf.train(
        model, small.data(), fda_tf.VarianceThreshold(0, "naive"), steps=20
    )
    assert run.rows[-1]["checks"] == run.rows[-1]["wire_bytes"] == 0
    assert not np.array_equal(small.flat(model), small.start().ravel())


def test_launch_ends_all_with_the_first_failure(capfd, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import json, os, sys, time\n"
        "k = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "print('hello', flush=True)\n"
        "sys.exit(7) if k == 1 else time.sleep(600)\n"
    )
    assert launch.launch([sys.executable, str(script)], workers=3) == 7
    assert "[worker 1] hello" in capfd.readouterr().out
    with pytest.raises(ValueError, match="workers=0: expected"):
        launch.launch(["true"], workers=0)
