"""What two real workers make of the data that they are given."""

import re

import numpy as np
import processes
import pytest
import shard_cases
import small

import fda_tf
from fda_tf.data import arrays


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Returns what each of two workers did."""
    return processes.reports(
        "shard_job.py", tmp_path_factory.mktemp("shard"), 2, seconds=240
    )


def simulated(build, data, steps):
    """Returns what simulation does with parts dealt by hand, and its model."""
    data = arrays.read(data, "It")
    pieces = shard_cases.pieces(arrays.length(data, "It"))
    parts = [arrays.take(data, piece) for piece in pieces]
    return fda_tf.simulate(
        build,
        parts,
        fda_tf.VarianceThreshold(0.05, "linear"),
        steps=steps,
        batch_size=shard_cases.BATCH,
    )


def assert_as_the_simulation(workers, name, history):
    syncs = [s.step for s in history.syncs if s.cause != "end"]
    assert syncs
    for worker in workers:
        got = worker[name]
        assert "error" not in got, got["error"]
        assert got["syncs"] == syncs
        assert got["variance"] == history.variance.tolist()
        assert got["weights"] == small.flat(history.model).tolist()
        assert got["history"] == workers[0][name]["history"]


def test_data_of_every_kind_do_as_in_the_simulation(workers):
    given = shard_cases.every_kind()  # 21 samples on each, in two epochs
    history = simulated(shard_cases.build, given, 2 * 6)
    assert_as_the_simulation(workers, "every kind", history)


def test_the_last_fraction_is_validated_on_and_not_trained_on(workers):
    x, y = small.data(shard_cases.SAMPLES)
    history = simulated(small.linear_model, (x[:31], y[:31]), 2 * 4)
    assert_as_the_simulation(workers, "split", history)
    loss, accuracy = history.model.evaluate(x[31:], y[31:], verbose=0)
    got = workers[0]["split"]["history"]
    np.testing.assert_allclose(got["val_loss"][-1], loss, rtol=1e-5)
    np.testing.assert_allclose(got["val_accuracy"][-1], accuracy, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("another order", "Worker 1 differs from worker 0 in the digest of x"),
        ("other labels", "in the digest of y: .*same order.*mine=True"),
        ("another seed", "in seed: 3 against 0"),
        ("fewer", "in the number of samples: 23 against 24"),
        ("mine", "in the type of x: float32.11. against float32.12."),
        ("a shorter dataset", "in the number of samples: 23 against 24"),
        ("another dataset", "in the elements of the dataset"),
        ("labels apart", r"ndarray as batch_size. Give .* shard\(\(x, y\)"),
    ],
)
def test_unlike_data_are_refused_on_both_workers(workers, name, words):
    for worker in workers:
        assert re.search(words, worker["refused"][name])


def test_data_loaded_apart_may_be_of_unlike_lengths(workers):
    assert [worker["refused"]["more"] for worker in workers] == [6, 6]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("whole", "All 2 workers were given the same data"),
        ("whole dataset", "All 2 workers were given the same data"),
        ("forgotten", "no callback of fda_tf's: it trains on each worker"),
        ("vectorizer", r"TextVectorization.* workers \[1\]|on workers \[1\]"),
    ],
)
def test_the_chief_alone_warns(workers, name, words):
    chief, other = (worker["said"][name] for worker in workers)
    assert len(chief) == 1 and not other
    assert re.search(words, chief[0])


@pytest.mark.parametrize("name", ["halves", "shard", "same dataset"])
def test_nobody_warns_of_what_is_right(workers, name):
    assert [worker["said"][name] for worker in workers] == [[], []]
