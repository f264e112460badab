"""What cannot work is refused in words, before any training."""

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from runs import simulate

import fda_tf
from fda_tf.data import sources
from fda_tf.processes.process_group import ProcessGroup
from fda_tf.workers import simulated

BAD = {
    "expected float32": lambda: keras.Sequential(
        [
            keras.Input((small.INPUTS,)),
            keras.layers.Dense(small.CLASSES, dtype="float64"),
        ]
    ),
    "moving_mean', which .* updates, is float64; expected float32": lambda: (
        keras.Sequential(
            [
                keras.Input((small.INPUTS,)),
                keras.layers.BatchNormalization(
                    center=False, scale=False, dtype="float64"
                ),
                keras.layers.Dense(small.CLASSES),
            ]
        )
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_models_that_cannot_work_are_refused(message):
    with pytest.raises(ValueError, match=message):
        simulate(
            fda_tf.Every(steps=1), lambda: small.compile_model(BAD[message]())
        )


def test_uncompiled_models_are_refused():
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="is not compiled"):
        simulate(fda_tf.Every(steps=1), lambda: plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0: expected a whole number"),
        ({"sync": "linear"}, "sync='linear': expected fda_tf.Variance"),
        (
            {"server_optimizer": "adam"},
            "server_optimizer='adam': expected None or a keras",
        ),
        ({"statistics": "none"}, "Known: average, local"),
        ({"evaluate_every": 0}, "evaluate_every=0"),
        ({"batch_size": 0}, "batch_size=0: expected"),
        ({"sampling": "random"}, "Known: passes, independent"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(**{"sync": fda_tf.Every(steps=1), **options})


def test_shards_that_cannot_work_are_refused():
    x, y = small.data()
    with pytest.raises(ValueError, match="workers=3, but 4 shards"):
        fda_tf.simulate(small.linear_model, small.shards(4), steps=1, workers=3)
    for shards, message in (
        ([], "No shards were given"),
        ([(x, y), (x[:0], y[:0])], "shard of worker 1 is empty"),
        ([(x, y[:5])], "of equal lengths"),
        ([(x, y), tf.data.Dataset.range(3)], "either all of them"),
    ):
        with pytest.raises(ValueError, match=message):
            fda_tf.simulate(small.linear_model, shards, steps=1)


def shared_parts():
    """Returns name -> a build that shares something between its calls."""
    whole, layer = small.linear_model(), keras.layers.Dense(small.CLASSES)
    optimizer = keras.optimizers.SGD(0.1)

    def sharing_a_layer():
        return small.compile_model(
            keras.Sequential([keras.Input((small.INPUTS,)), layer])
        )

    return {
        "model": lambda: whole,
        "layer": sharing_a_layer,
        "optimizer": lambda: small.linear_model(optimizer=optimizer),
    }


@pytest.mark.parametrize("what", ["model", "layer", "optimizer"])
def test_models_that_share_what_training_changes_are_refused(what):
    source = sources.ArraySource(small.shards(2), 8)
    with pytest.raises(ValueError, match=r"build\(\) returned a model that sh"):
        simulated.Simulation(shared_parts()[what], source, 2, lanes=2)


def test_models_of_different_shapes_are_refused():
    source = sources.ArraySource(small.shards(2), 8)
    models = iter([small.linear_model(), small.rich_model()])
    with pytest.raises(ValueError, match="models of different shapes"):
        simulated.Simulation(lambda: next(models), source, 2, lanes=2)


def test_frozen_layers_of_different_shapes_are_refused():
    def build(units):
        frozen = keras.layers.Dense(units, trainable=False)
        last = keras.layers.GlobalMaxPooling1D()
        model = [frozen, keras.layers.Reshape((units, 1)), last]
        model += [keras.layers.Dense(small.CLASSES)]
        return small.compile_model(
            keras.Sequential([keras.Input((small.INPUTS,)), *model])
        )

    source = sources.ArraySource(small.shards(2), 8)
    models = iter([build(2), build(3)])
    with pytest.raises(ValueError, match="different shapes: .*frozen float32"):
        simulated.Simulation(lambda: next(models), source, 2, lanes=2)


@pytest.mark.parametrize("process_group", [None, ProcessGroup()])
def test_a_model_made_in_the_scope_of_a_strategy_is_refused(process_group):
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = small.linear_model()
    message = r"Call fda_tf.connect\(\) first, make and compile the model with"
    with pytest.raises(ValueError, match=message):
        if process_group is None:
            simulate(fda_tf.Every(steps=1), lambda: model)
        else:
            fda_tf.train(
                model, small.data(), steps=1, process_group=process_group
            )


def test_what_is_no_function_is_refused():
    with pytest.raises(ValueError, match="expected a function with no arg"):
        fda_tf.simulate(small.linear_model(), small.shards(2), steps=1)


@pytest.mark.parametrize("scaled", [False, True])  # as in mixed_float16
@pytest.mark.parametrize("frequency", [None, 5])
def test_moving_averages_of_the_optimizer_are_refused(scaled, frequency):
    def build():
        optimizer = keras.optimizers.SGD(
            use_ema=True, ema_overwrite_frequency=frequency
        )
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        return small.linear_model(optimizer=optimizer)

    with pytest.raises(ValueError, match="expected an optimizer without"):
        simulate(fda_tf.Every(steps=1), build)


def test_numpy_numbers_are_numbers():
    run = simulate(
        fda_tf.VarianceThreshold(np.float32(0.5), "naive"),
        steps=np.int64(4),
        batch_size=np.int32(8),
        evaluate_every=np.int64(2),
    )
    assert [row["step"] for row in run.rows] == [2, 4]


def test_validation_data_of_no_known_form_is_refused():
    with pytest.raises(ValueError, match="validation_data of type ndarray"):
        simulate(fda_tf.Every(steps=1), validation_data=small.data()[0])


def test_epochs_of_unknown_length_are_refused_before_training():
    endless = [
        tf.data.Dataset.from_tensor_slices(s).repeat().batch(8)
        for s in small.shards(2)
    ]
    with pytest.raises(ValueError, match="^Every.epochs=1. needs"):
        fda_tf.simulate(
            small.linear_model, endless, fda_tf.Every(epochs=1), steps=3
        )


def test_a_monitor_that_sends_other_than_it_says_is_refused():
    class Liar(fda_tf.monitors.NaiveMonitor):
        floats = 2

    with pytest.raises(ValueError, match="its `floats` is 2"):
        simulate(fda_tf.VarianceThreshold(1.0, Liar()))
