"""Whatever model stock `fit` takes trains alone, on two, and simulated."""

import re

import keras
import kinds
import numpy as np
import processes
import pytest
import small
import tensorflow as tf

import fda_tf

X, Y = small.data(220)
MANY = tf.data.Dataset.from_tensor_slices((X, Y)).batch(20)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """name -> what each of two workers did."""
    folder = tmp_path_factory.mktemp("kinds")
    return processes.by_name(processes.reports("kinds_job.py", folder, 2))


@pytest.mark.parametrize("name", kinds.CASES)
def test_two_workers_do_as_the_simulation(pair, name):
    build, change, _, steps = kinds.CASES[name]
    run = fda_tf.simulate(
        build,
        [change(shard) for shard in small.shards(2)],
        kinds.sync(),
        steps=steps,
        batch_size=kinds.BATCH,
    )
    expected = small.history_of(run)
    first, second = pair[name]
    assert "error" not in first, first
    assert first == second
    assert first["iterations"] == (steps if first["weights"] else 0)
    assert first["syncs"] == expected["syncs"]
    for got, wanted in zip(
        [first["weights"], *first["statistics"]],
        [expected["weights"], *expected["statistics"]],
        strict=True,
    ):
        np.testing.assert_array_equal(np.float32(got), np.float32(wanted))


def test_what_callbacks_move_of_an_eager_model_stays(pair):
    """In validations, too; 3 epochs of 4 steps, and of 2 batches there."""
    assert pair["counted"] == [[12.0, 6.0]] * 2


DIVIDED = r"InvalidArgumentError: [\s\S]*mine : Tensor had Inf"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("an eager step fails", "KeyError: 'mine'"),
        ("an eager step fails, overlapped", "KeyError: 'mine'"),
        ("a step fails, its exchange is over", DIVIDED),
        ("a step fails, it says synchronise", DIVIDED),
        ("a step fails amid an exchange", DIVIDED),
        ("eager on worker 1 alone", "Worker 1 differs from .* in run_eagerly"),
    ],
)
def test_errors_end_all_in_words(pair, name, words):
    for worker in pair[name]:
        assert re.search(words, worker["error"]), worker


QUICK = ("no call", "no weights", "eager, NumPy", "5 steps, 2 at once")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in kinds.CASES
    ],
)
def test_one_worker_trains_as_stock_keras(name):
    build, change, options, _ = kinds.CASES[name]

    def run(callbacks):
        model = build()
        history = model.fit(
            *change((X, Y)),
            batch_size=20,
            callbacks=callbacks,
            verbose=0,
            **{"epochs": 2} | options,
        )
        return model.get_weights(), history.history

    (weights, expected), (ours, got) = run([]), run([fda_tf.FDA()])
    for a, b in zip(weights, ours, strict=True):
        np.testing.assert_array_equal(a, b)
    assert {name: got[name] for name in expected} == expected


def test_own_loops_run_eager_steps():
    build = kinds.CASES["eager, NumPy"][0]
    stock, ours, whole = build(), build(), build()
    batch = X[:8], Y[:8]
    expected = stock.fit(*batch, epochs=3, shuffle=False, verbose=0).history
    trainer = fda_tf.Trainer(ours, batch)
    for _ in range(3):
        logs = trainer.step(batch)
    assert logs["mean"] == expected["mean"][-1]
    for a, b in zip(stock.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    fda_tf.train(whole, batch, steps=3, batch_size=8)
    assert int(whole.optimizer.iterations) == 3


class Batches(keras.utils.PyDataset):
    """11 batches."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        part = slice(20 * index, 20 * index + 20)
        return X[part], Y[part]


def endless():
    """Yields batches, of which Keras does not know how many there are."""
    while True:
        yield from MANY.as_numpy_iterator()


class Iterations(keras.callbacks.Callback):
    """Notes the optimizer's iterations after each execution."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(int(self.model.optimizer.iterations))


def iterations(data, at_once, steps, *callbacks, epochs=4):
    """Returns the iterations in a fit, and its losses."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, steps_per_execution=at_once)
    seen = Iterations()
    history = model.fit(
        **data,
        epochs=epochs,
        steps_per_epoch=steps,
        callbacks=[seen, *callbacks],
        verbose=0,
    )
    return seen.seen, history.history["loss"]


def test_whole_executions_are_run():
    data = {"x": X[:200], "y": Y[:200], "batch_size": 20}
    seen, _ = iterations(data, 2, 5, fda_tf.FDA(), epochs=2)
    assert seen == [2, 4, 6, 8, 10]


INPUTS = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 20},
    "finite": lambda: {"x": MANY},
    "repeated": lambda: {"x": MANY.repeat()},
    "PyDataset": lambda: {"x": Batches()},
    "generator": lambda: {"x": endless()},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_once", "steps"), [(2, 5), (1, 5), (4, 11), (5, 12), (4, 3), (4, 30)]
)
@pytest.mark.parametrize("name", INPUTS)
def test_executions_are_those_of_stock_keras(name, at_once, steps):
    expected = iterations(INPUTS[name](), at_once, steps)
    assert iterations(INPUTS[name](), at_once, steps, fda_tf.FDA()) == expected
