"""`model.fit` with the callback in one process: K = 1 is stock Keras."""

import math
import re

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

import fda_tf
from fda_tf.fit import session

KEPT = ("train_function", "test_function", "make_train_function")
OURS = ["mb_sent", "syncs", "theta", "variance"]
X, Y = small.data(220)
MANY = tf.data.Dataset.from_tensor_slices((X, Y)).batch(20)


class Batches(keras.utils.PyDataset):
    """11 batches."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        part = slice(20 * index, 20 * index + 20)
        return X[part], Y[part]


def endless():
    """Yields batches whose weights are left out: Keras draws Optionals."""
    while True:
        for x, y in MANY.as_numpy_iterator():
            yield x, y, None


def build(steps_per_execution=1, jit_compile=False):
    """Returns a model with all that a step may change."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.Input((small.INPUTS,)),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(small.CLASSES),
    ]
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
        jit_compile=jit_compile,
    )
    return model


def fit(model, *data, fda=None, callbacks=(), **options):
    """Fits quietly; with the callback, if one is given."""
    every = [*callbacks, *([fda] if fda else [])]
    return model.fit(*data, verbose=0, callbacks=every, **options)


def both(run, **building):
    """Returns what `run(model, fda)` did, without and with the callback."""
    done = []
    for fda in (None, fda_tf.FDA()):
        model = build(**building)  # it sets the seed
        done.append((model, run(model, fda)))
    return done


def assert_alike(stock, ours):
    """Asserts that two models went through the same, bit for bit."""
    for a, b in zip(stock.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(stock.optimizer.iterations) == int(ours.optimizer.iterations)


def assert_as_before(model):
    """Asserts that nothing of ours is left in a model."""
    assert not {"_get_metrics_result_or_logs", *KEPT[2:]} & vars(model).keys()
    for name in KEPT[:2]:
        function = getattr(model, name)
        assert function is None or function.__module__.startswith("keras.")


INPUTS = {
    "arrays": lambda: ((X, Y), {"batch_size": 20}),
    "a last batch of 28": lambda: ((X, Y), {"batch_size": 32}),
    "finite": lambda: ((MANY,), {}),
    "of unknown length": lambda: ((MANY.filter(lambda *_: True),), {}),
    "PyDataset": lambda: ((Batches(),), {}),
    "generator": lambda: ((endless(),), {"steps_per_epoch": 11}),
}


@pytest.mark.parametrize(
    ("name", "at_once", "jit_compile"),
    [
        ("arrays", 4, True),
        ("a last batch of 28", 4, False),
        ("finite", 1, False),
        ("finite", 32, False),
        ("of unknown length", 4, False),
        ("of unknown length", 32, False),
        ("PyDataset", 4, False),
        ("generator", 1, False),
    ],
)
def test_one_worker_trains_as_stock_keras(name, at_once, jit_compile):
    def run(model, fda):
        data, options = INPUTS[name]()
        return fit(model, *data, fda=fda, epochs=2, **options).history

    (stock, expected), (ours, got) = both(
        run, steps_per_execution=at_once, jit_compile=jit_compile
    )
    assert_alike(stock, ours)
    assert {name: got[name] for name in expected} == expected
    assert sorted(got.keys() - expected.keys()) == OURS
    assert_as_before(ours)


def test_weights_and_validation_are_as_in_stock_keras():
    weights = np.random.default_rng(0).uniform(size=len(X))

    def run(model, fda):
        first = fit(
            model, X, Y, fda=fda, batch_size=20, class_weight={0: 2.0, 1: 0.5}
        )
        options = {"sample_weight": weights, "validation_split": 0.2}
        return first, fit(model, X, Y, fda=fda, **options).history

    (stock, (_, expected)), (ours, (_, got)) = both(run)
    assert_alike(stock, ours)
    assert {name: got[name] for name in expected} == expected
    assert "val_accuracy" in got


def test_fitting_goes_on_as_in_stock_keras():
    def run(model, fda):
        fit(model, MANY, fda=fda, epochs=2)
        return fit(model, MANY, fda=fda, epochs=4, initial_epoch=3).epoch

    (stock, expected), (ours, got) = both(run)
    assert_alike(stock, ours)
    assert got == expected == [3]


def test_a_model_that_is_compiled_anew_trains_anew():
    def run(model, fda):
        fit(model, X, Y, fda=fda)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(model.optimizer, loss, metrics=[])
        fit(model, X, np.eye(3, dtype=np.float32)[Y], fda=fda)
        return fda and len(fda.variance)

    (stock, _), (ours, _) = both(run)
    assert_alike(stock, ours)


class Stop(keras.callbacks.Callback):
    """Stops after the fifth batch."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 4


def early():
    return keras.callbacks.EarlyStopping(
        "val_loss", mode="max", patience=1, restore_best_weights=True
    )


@pytest.mark.parametrize("stop", [Stop, early])
def test_training_ends_where_stock_keras_ends(stop):
    def run(model, fda):
        return fit(
            model,
            MANY,
            fda=fda,
            callbacks=[stop()],
            epochs=4,
            validation_data=MANY.take(2),
        ).history

    (stock, expected), (ours, got) = both(run)
    assert_alike(stock, ours)
    assert {name: got[name] for name in expected} == expected
    assert len(expected["loss"]) < 4


class Uses(keras.callbacks.Callback):
    """Uses the model for itself in the middle of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            self.seen = self.model.evaluate(X, Y, verbose=0)
        if batch == 5:
            self.model.train_on_batch(X[:20], Y[:20])


def test_callbacks_may_use_the_model_as_in_stock_keras():
    def run(model, fda):
        uses = Uses()
        got = fit(model, MANY, fda=fda, callbacks=[uses], epochs=2)
        return uses.seen, got.history

    (stock, (seen, expected)), (ours, (too, got)) = both(run)
    assert_alike(stock, ours)
    assert seen == too
    assert {name: got[name] for name in expected} == expected


def test_the_logs_say_what_was_sent():
    seen = []
    log = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(dict(logs))
    )
    fda = fda_tf.FDA(theta=0.25)
    got = fit(build(), MANY, fda=fda, callbacks=[log]).history
    assert sorted(seen[0]) == ["accuracy", "loss", *OURS]
    # Alone there is no variance, and nothing to send.
    assert [got[name] for name in OURS] == [[0.0], [0], [0.25], [0.0]]
    assert all(isinstance(v, float) for v in seen[0].values() if v != 0)
    assert (fda.variance, fda.syncs) == ([], [])


def test_a_server_optimizer_works_alone_as_in_the_simulation():
    sync = fda_tf.Every(steps=4)

    def server():
        return keras.optimizers.SGD(0.5, momentum=0.9)

    fda = fda_tf.Averaging(fda_tf.Algorithm(sync, server_optimizer=server()))
    model = small.linear_model()
    history = fit(
        model, fda_tf.shard((X, Y), 20), fda=fda, epochs=2, validation_data=MANY
    )
    run = fda_tf.simulate(
        small.linear_model,
        [(X, Y)],
        fda_tf.Algorithm(sync, server_optimizer=server()),
        steps=22,
        batch_size=20,
    )
    np.testing.assert_allclose(
        small.flat(model), small.flat(run.model), atol=1e-6
    )
    assert [s.step for s in fda.syncs] == [4, 8, 12, 16, 20, 22]
    assert fda.syncs[-1].cause == "end"
    assert history.history["syncs"] == [2, 5]


def test_averaged_weights_need_a_step():
    fda = fda_tf.FDA()
    with pytest.raises(RuntimeError, match="needs a step of training first"):
        fda.averaged_weights()
    model = build()
    fit(model, MANY, fda=fda)
    for a, b in zip(fda.averaged_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_has_ended_says_what_would_help(tmp_path, caplog):
    for stop, words in (
        (
            False,
            "has ended already, at step 2: .* Give more epochs, or another",
        ),
        (True, "was stopped early, .*, at step 2: .* More epochs change nothi"),
    ):

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = stop  # noqa: B023 - called at once

        for epochs in (1, 3 if stop else 1):
            saved = fda_tf.Checkpoint(tmp_path / str(stop))
            fda = fda_tf.FDA(checkpoint=saved)
            model, data = small.linear_model(), small.data(64)
            fit(model, *data, fda=fda, callbacks=[Stop()], epochs=epochs)
            assert int(model.optimizer.iterations) == 2
        assert re.search(words, caplog.text)


# What cannot work is refused in words.


def nested(fda):
    outer = keras.callbacks.LambdaCallback()
    outer.on_train_begin = fda.on_train_begin
    fda.set_model(build())
    return [outer]


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        (lambda fda: [fda, fda_tf.FDA()], "has FDA and FDA: expected one"),
        (
            lambda fda: [keras.callbacks.BackupAndRestore("x"), fda],
            r"Give FDA\(checkpoint=fda_tf.Checkpoint\(directory\)\) in",
        ),
        (nested, "Give it in fit.* itself, not inside another callback"),
    ],
)
def test_callbacks_that_cannot_work_are_refused(callbacks, words):
    model = build()
    with pytest.raises(ValueError, match=words):
        fit(model, MANY, callbacks=callbacks(fda_tf.FDA()))
    assert_as_before(model)


def in_scope():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        return build()


def averaging():
    """Keras would end the fit with worker 0's own moving average."""
    optimizer = keras.optimizers.SGD(use_ema=True, ema_overwrite_frequency=5)
    return small.linear_model(optimizer=optimizer)


def misnamed():
    class Model(keras.Sequential):
        def train_step(self, data):
            return {**super().train_step(data), "variance": tf.zeros([])}

    layers = [keras.Input((small.INPUTS,)), keras.layers.Dense(small.CLASSES)]
    return small.compile_model(Model(layers))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (in_scope, "was made inside strategy.scope"),
        (averaging, r"Received SGD\(use_ema=True\), whose moving average is"),
        (misnamed, "train_step returns variance, and so do the logs of FDA"),
    ],
)
def test_models_that_cannot_work_are_refused(made, words):
    model = made()
    with pytest.raises(ValueError, match=words):
        fit(model, MANY, fda=fda_tf.FDA())
    assert_as_before(model)


def test_a_model_that_is_not_compiled_is_refused_by_keras():
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"compile\(\)"):
        fit(model, MANY, fda=fda_tf.FDA())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"theta": -1.0}, "theta"),
        ({"monitor": "none"}, "Known: "),
        ({"statistics": "none"}, "Known: average, local"),
        (
            {"server_optimizer": "adam"},
            "server_optimizer='adam': expected None or a keras",
        ),
        ({"checkpoint": "folder"}, "checkpoint='folder': expected"),
        ({"max_interval": 0.5}, "max_interval=0.5: expected a whole number"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        fda_tf.FDA(**options)


def test_an_epoch_with_no_batch_is_refused():
    for data in (MANY.take(0), MANY.filter(lambda *_: False)):
        model = build()
        with pytest.raises(ValueError, match="worker 0 have no batch for epo"):
            fit(model, data, fda=fda_tf.FDA())
        assert_as_before(model)


def test_fedavg_needs_to_know_the_length_of_an_epoch():
    fedavg = fda_tf.Averaging(fda_tf.Every(epochs=1))
    with pytest.raises(ValueError, match="how many steps an epoch has"):
        fit(build(), MANY.filter(lambda *_: True), fda=fedavg)


# Whatever ends a fit, Keras has back what is Keras'.


def failing(hook, error):
    def fail(*_, **__):
        raise error

    callback = keras.callbacks.Callback()
    setattr(callback, hook, fail)
    return callback


def broken(batches=3):
    """Returns data of which the batch after so many is an error."""

    def check(i, batch):
        x = batch[0] / tf.cast(i != batches, tf.float32)
        return tf.debugging.check_numerics(x, "broken"), batch[1]

    return MANY.enumerate().map(check)


HOOKS = [
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_epoch_end",
    "on_train_end",
]


@pytest.fixture(scope="module")
def used():
    """A model and its callback that fit after fit is to fail with."""
    model, fda = build(), fda_tf.FDA()
    fit(model, MANY, fda=fda)
    return model, fda


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_in_a_callback_leaves_nothing(used, hook, error):
    model, fda = used
    with pytest.raises(type(error)):
        fit(
            model,
            MANY,
            fda=fda,
            callbacks=[failing(hook, error)],
            validation_data=MANY,
        )
    assert_as_before(model)


@pytest.mark.parametrize(
    ("train", "validation"),
    [(broken(), None), (MANY, broken(1)), (MANY, [3])],
)
def test_an_exception_in_the_data_leaves_nothing(used, train, validation):
    model, fda = used
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        fit(model, train, fda=fda, validation_data=validation)
    # What fails between our calls leaves ours in place, until the next fit.
    assert sorted(fit(model, MANY).history) == ["accuracy", "loss"]
    assert_as_before(model)
    assert math.isfinite(model.evaluate(MANY, verbose=0)[0])


def test_an_exception_in_a_step_leaves_nothing(used):
    model, fda = used
    with pytest.raises(tf.errors.InvalidArgumentError):
        fit(model, X, Y + 7, fda=fda)  # labels that there are not
    assert_as_before(model)
    before = int(model.optimizer.iterations)
    fit(model, MANY, fda=fda)
    assert int(model.optimizer.iterations) == before + 11


def test_a_plain_fit_after_one_with_the_callback_is_stock():
    def run(model, fda):
        fit(model, MANY, fda=fda)
        model.train_on_batch(X, Y)
        return fit(model, MANY, epochs=2).history

    (stock, expected), (ours, got) = both(run)
    assert_alike(stock, ours)
    assert got == expected


def test_a_fit_holds_on_to_nothing():
    fda = fda_tf.FDA()
    fit(build(), MANY, fda=fda)
    assert not any(isinstance(v, session.Fit) for v in vars(fda).values())
