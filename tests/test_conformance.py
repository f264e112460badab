"""Keras' own tests pass with our callback in every `fit`, as on the list."""

import json
import os
import pathlib
import subprocess
import sys

import processes
import pytest

HERE = pathlib.Path(__file__).parent / "conformance"
FEW = (
    "trainers/trainer_test.py::TestTrainer::test_fit_flow_graph_fn",
    "trainers/trainer_test.py::TestTrainer::test_fit_flow_eager",
    "trainers/trainer_test.py::TestTrainer::"
    "test_steps_per_execution_steps_per_epoch_not_match_too_low_non_jit",
    "trainers/trainer_test.py::TestTrainer::test_nested_inputs",
    "trainers/trainer_test.py::TestTrainer::test_fit_with_custom_train_step",
)


@pytest.fixture(scope="module")
def tests(tmp_path_factory):
    """The folder of Keras' tests; without the archive, a skip that says so."""
    sys.path.insert(0, str(HERE))
    import archive

    try:
        archive.fetch()
    except OSError as error:
        pytest.skip(f"needs Keras' source archive: {error}")
    return archive.unpack(tmp_path_factory.mktemp("keras"))


def test_a_few_pass(tests, tmp_path):
    wanted, results = tmp_path / "wanted.json", tmp_path / "results.jsonl"
    names = [f"keras/src/{name}" for name in FEW]
    wanted.write_text(json.dumps(names))
    done = subprocess.run(
        [sys.executable, HERE / "worker.py", "alone", tests, results, wanted],
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert {line["id"] for line in lines} == set(names), done.stdout[-3000:]
    assert not [line for line in lines if line["outcome"] != "passed"]
    assert all(line["fits"] for line in lines)


@pytest.mark.slow
def test_what_differs_is_on_the_list(tests, tmp_path):
    environment = processes.environment()
    if "FDA_TF_CONFORMANCE_DIR" not in os.environ:
        environment["FDA_TF_CONFORMANCE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance"],
        cwd=HERE.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
