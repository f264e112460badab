"""Every place that a subclass may override, and every callback of Keras."""

import importlib.util

import keras
import numpy as np
import overridable
import pytest
import small

import fda_tf
from fda_tf.fit import keras_hooks

X, Y = small.data(60)
OURS = {"mb_sent", "syncs", "theta", "variance"}


def fit(model, *callbacks, **options):
    return model.fit(
        X, Y, batch_size=20, verbose=0, callbacks=list(callbacks), **options
    )


def test_the_table_knows_every_place():
    assert overridable.public_names() <= overridable.PLACES.keys()


@pytest.fixture(scope="module")
def both():
    """The model that overrides everything, by stock fit and by ours."""
    done = []
    for callbacks in ([], [fda_tf.FDA()]):
        model = overridable.everything()
        history = fit(model, *callbacks, epochs=2, validation_data=(X, Y))
        done.append((model, history.history))
    return done


def test_all_that_is_overridden_is_as_in_stock_keras(both):
    (stock, expected), (ours, got) = both
    assert {k: v for k, v in got.items() if k not in OURS} == expected
    for a, b in zip(stock.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    bias = ours.last.bias.numpy()  # which its trainable_variables leave out
    assert not bias.any() and "half" in got and "val_evaluated" in got


@pytest.mark.parametrize("name", overridable.WORKS.split())
def test_nothing_that_is_overridden_is_passed_over(both, name):
    (stock, _), (ours, _) = both
    assert name in ours.called.names or name not in stock.called.names


REFUSED = {
    "make_train_function": lambda: overridable.of(overridable.OwnTrainFunction),
    "train_function": overridable.given_by_hand,
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_train_function_is_refused(name):
    model = REFUSED[name]()
    with pytest.raises(ValueError, match="a train function of its own"):
        fit(model, fda_tf.FDA())


def test_one_that_is_keras_own_is_not():
    model = overridable.of(overridable.SameTrainFunction)
    stock = overridable.of(keras.Model)
    fit(model, fda_tf.FDA())
    fit(stock)
    assert model.made
    np.testing.assert_array_equal(small.flat(model), small.flat(stock))


def test_the_table_knows_every_callback():
    found = {
        name
        for name in dir(keras.callbacks)
        if name not in ("Callback", "CallbackList")
    }
    found = {n for n in found if isinstance(getattr(keras.callbacks, n), type)}
    assert found <= overridable.CALLBACKS.keys()
    chief = {c.__name__ for c in keras_hooks.CHIEF_ONLY}
    listed = overridable.CALLBACKS.items()
    assert chief == {n for n, how in listed if how == "on the chief"} & found


@pytest.mark.filterwarnings("ignore:Could not reach RemoteMonitor")
def test_callbacks_do_as_in_stock_keras(tmp_path):
    done = []
    for ours in (False, True):
        folder, told = tmp_path / str(ours), []
        model = overridable.of(keras.Model)
        folder.mkdir()
        callbacks = [
            keras.callbacks.CSVLogger(str(folder / "log.csv")),
            keras.callbacks.EarlyStopping("loss", patience=1, min_delta=0.05),
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs, told=told: told.append(
                    (batch, logs["loss"])
                )
            ),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
            keras.callbacks.ModelCheckpoint(
                str(folder / "{epoch}.keras"), save_freq=2
            ),
            keras.callbacks.ReduceLROnPlateau("loss", patience=1),
            keras.callbacks.TensorBoard(str(folder / "board")),
            keras.callbacks.TerminateOnNaN(),
        ]
        callbacks += [fda_tf.FDA()] * ours
        if importlib.util.find_spec("requests"):  # which warns, and goes on
            monitor = keras.callbacks.RemoteMonitor("http://127.0.0.1:9")
            callbacks.append(monitor)
        history = fit(model, *callbacks, epochs=4).history
        files = sorted(p.name for p in folder.iterdir())
        history = {k: v for k, v in history.items() if k not in OURS}
        done.append((small.flat(model).tolist(), history, told, files))
    assert done[0] == done[1]
    assert "log.csv" in done[0][3] and len(done[0][2]) >= 6


@pytest.mark.parametrize("name", ["BackupAndRestore", "SwapEMAWeights"])
def test_callbacks_that_know_nothing_of_workers_are_refused(name, tmp_path):
    model = overridable.of(keras.Model)
    if name == "SwapEMAWeights":
        model.compile(keras.optimizers.SGD(use_ema=True), model.loss)
        callback = keras.callbacks.SwapEMAWeights()
    else:
        callback = keras.callbacks.BackupAndRestore(str(tmp_path))
    with pytest.raises(ValueError, match="its place|without, since the model"):
        fit(model, fda_tf.FDA(), callback)
