"""Any Keras model and optimizer, as they are."""

import keras
import numpy as np
import pytest
import reference
import small
import tensorflow as tf
from runs import BATCH, WORKERS, lone_weights, run_home, simulate

import fda_tf
from fda_tf.core import loop as training
from fda_tf.data import sources
from fda_tf.workers import simulated
from fda_tf.workers.local_model import Worker


@pytest.mark.parametrize("statistics", ["average", "local"])
def test_batch_norm_statistics_are_averaged_or_local(statistics):
    source = sources.ArraySource(small.shards(3), BATCH)
    home = simulated.Simulation(small.rich_model, source, 3)
    trainer = training.Loop(
        home, fda_tf.Algorithm(fda_tf.Every(steps=4), statistics=statistics)
    )
    trainer.run(8)
    rows = home._statistics[0].numpy()
    assert rows.shape == (3, 16)
    spread = np.ptp(rows, axis=0).max()
    assert spread == 0 if statistics == "average" else spread > 1e-3
    np.testing.assert_allclose(
        trainer.averaged().statistics[0], rows.mean(0), rtol=1e-5
    )


def test_workers_draw_different_dropout_masks():
    keras.utils.set_random_seed(0)
    x, y = small.data()
    source = sources.ArraySource([(x[:8], y[:8])] * 3, batch_size=8)

    def build():
        layers = [keras.Input((small.INPUTS,)), keras.layers.Dropout(0.5)]
        model = keras.Sequential([*layers, keras.layers.Dense(small.CLASSES)])
        return small.compile_model(model)

    home = simulated.Simulation(build, source, 3)
    home.step(tf.constant(0, tf.int64))
    rows = home._weights[0].numpy()
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[1], rows[2])


class TwoInputs(keras.Model):
    """A subclassed model with two inputs and a train_step of its own."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(small.CLASSES)
        self.scale = keras.layers.Dense(small.CLASSES)

    def call(self, inputs, training=False):
        return self.dense(inputs["a"]) + self.scale(inputs["b"])

    def train_step(self, batch):
        x, y = batch[0], batch[1]
        with tf.GradientTape() as tape:
            loss = 2.0 * self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def test_subclassed_models_with_several_inputs_and_their_own_step():
    x, y = small.data(64)
    shards = [
        ({"a": x[i : i + 16, :5], "b": x[i : i + 16, 5:]}, y[i : i + 16])
        for i in range(0, 64, 16)
    ]

    def build():
        keras.utils.set_random_seed(1)
        return small.compile_model(TwoInputs())

    run = fda_tf.simulate(
        build, shards, fda_tf.Every(steps=1), steps=6, batch_size=8
    )
    model = build()
    source = sources.ArraySource(shards, 8)
    model._symbolic_build(data_batch=(*source.batch(0, 0), None))
    w = [v.numpy() for v in model.trainable_variables]
    for t in range(6):
        total = [np.zeros_like(v) for v in w]
        for k in range(4):
            bx, by = source.batch(k, t)
            with tf.GradientTape() as tape:
                loss = 2.0 * model.compute_loss(bx, by, model(bx))
            for s, g in zip(
                total,
                tape.gradient(loss, model.trainable_variables),
                strict=True,
            ):
                s += g.numpy() / 4
        w = [v - small.RATE * s for v, s in zip(w, total, strict=True)]
        model.set_weights(w)
    np.testing.assert_allclose(
        small.flat(run.model), small.flat(model), atol=1e-5
    )


@pytest.mark.parametrize(
    "optimizer", ["Adam", "Adafactor", "Lamb", "RMSprop", "Muon", "Ftrl"]
)
def test_any_optimizer_keeps_its_own_slots_for_each_worker(optimizer):
    if not hasattr(keras.optimizers, optimizer):
        pytest.skip(f"this Keras has no {optimizer}")
    if optimizer == "Muon" and keras.version().startswith("3.12."):
        pytest.skip("Keras 3.12's own Muon fails on TensorFlow, in fit too")

    def build():
        chosen = getattr(keras.optimizers, optimizer)(clipnorm=1.0)
        return small.linear_model(optimizer=chosen)

    home = run_home(build, WORKERS, steps=6)
    for worker in (0, 3):
        np.testing.assert_array_equal(
            home._weights[0].numpy()[worker],
            lone_weights(build, worker, steps=6),
        )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(policy):
    def build():
        optimizer = keras.optimizers.SGD(small.RATE)
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model = keras.Sequential(
            [
                keras.Input((small.INPUTS,)),
                keras.layers.BatchNormalization(dtype=policy),
                keras.layers.Dense(small.CLASSES, dtype=policy),
            ]
        )
        return small.compile_model(model, optimizer)

    run = simulate(fda_tf.VarianceThreshold(0.1, "linear"), build)
    assert run.rows[-1]["syncs"] > 0


class TwoOptimizers(TwoInputs):
    """A train_step that also has an optimizer that Keras does not know."""

    def __init__(self):
        super().__init__()
        self.second = keras.optimizers.Adam(0.1)

    def train_step(self, batch):
        x, y = batch[0], batch[1]
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        for optimizer, layer in (
            (self.optimizer, self.dense),
            (self.second, self.scale),
        ):
            own = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, own), own)
        return {"loss": loss}


class TargetNetwork(TwoInputs):
    """A train_step that moves a variable which no call changes."""

    def __init__(self):
        super().__init__()
        self.target = self.add_weight(
            shape=(1,), initializer="zeros", trainable=False
        )

    def train_step(self, batch):
        self.target.assign_add(tf.reduce_mean(batch[0]["a"], keepdims=True)[0])
        return super().train_step(batch)


def two_input_shards(workers=3):
    x, y = small.data(16 * workers)
    return [
        ({"a": x[i : i + 16, :5], "b": x[i : i + 16, 5:]}, y[i : i + 16])
        for i in range(0, len(x), 16)
    ]


def test_state_that_keras_does_not_list_is_each_workers_own():
    def build():
        keras.utils.set_random_seed(1)
        return small.compile_model(TwoOptimizers())

    source = sources.ArraySource(two_input_shards(), 8)
    home = simulated.Simulation(build, source, 3, lanes=2)
    trainer = training.Loop(
        home, fda_tf.VarianceThreshold(np.inf, "naive"), None
    )
    trainer.run(5)
    for k in range(3):
        model = build()
        lone = Worker(model, source.spec())
        for t in range(5):
            lone.step(source.batch(k, t))
        np.testing.assert_array_equal(
            home._weights[0].numpy()[k], small.flat(model)
        )
        assert int(model.second.iterations) == 5


def test_whatever_float_state_a_step_updates_is_averaged():
    def build():
        keras.utils.set_random_seed(1)
        return small.compile_model(TargetNetwork())

    shards = two_input_shards()
    run = fda_tf.simulate(
        build, shards, fda_tf.Every(steps=2), steps=4, batch_size=16
    )
    mean = np.mean([x["a"].mean() for x, _ in shards])
    assert float(run.model.target[0]) == pytest.approx(4 * mean, abs=1e-5)


def test_a_frozen_backbone_may_be_shared_and_is_not_multiplied():
    backbone = keras.layers.Dense(6, kernel_initializer="orthogonal")
    backbone.trainable = False
    inner = keras.Sequential([keras.Input((small.INPUTS,)), backbone])

    def build():
        layers = [inner, keras.layers.Dense(small.CLASSES)]
        model = keras.Sequential([keras.Input((small.INPUTS,)), *layers])
        return small.compile_model(model)

    before = backbone.get_weights()
    source = sources.ArraySource(small.shards(3), 8)
    home = simulated.Simulation(build, source, 3, lanes=2)
    home.step(tf.constant(0, tf.int64))
    np.testing.assert_array_equal(backbone.get_weights()[0], before[0])
    trained = (6 + 1) * small.CLASSES
    counters = 8 + 4  # SGD's iteration and learning rate
    assert home.state_bytes() == 3 * (4 * trained + counters)


def test_lanes_agree_on_what_is_frozen():
    def build():  # unseeded: every call draws other weights
        frozen = keras.layers.Dense(6)
        frozen.trainable = False
        layers = [frozen, keras.layers.Dense(small.CLASSES)]
        model = keras.Sequential([keras.Input((small.INPUTS,)), *layers])
        return small.compile_model(model)

    source = sources.ArraySource(small.shards(2), 8)
    home = simulated.Simulation(build, source, 2, lanes=2)
    first, second = (lane.model.layers[0].get_weights() for lane in home.lanes)
    np.testing.assert_array_equal(first[0], second[0])


def test_vector_metrics_are_reported():
    def build():
        model = small.linear_model()
        model.compile(
            "sgd",
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.F1Score(name="f1")],
        )
        return model

    shards = [(x, np.eye(3, dtype="f4")[y]) for x, y in small.shards(2)]
    run = fda_tf.simulate(build, shards, steps=2, validation_data=shards[0])
    assert len(run.rows[-1]["val_f1"]) == 3


def test_datasets_of_inputs_alone_train_models_of_their_own_step():
    class Autoencoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(small.INPUTS)

        def call(self, inputs):
            return self.dense(inputs)

        def train_step(self, x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x) - x) ** 2)
            own = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, own), own)
            return {"loss": loss}

    def build():
        model = Autoencoder()
        model.compile("sgd")
        return model

    datasets = [
        tf.data.Dataset.from_tensor_slices(x).batch(8)
        for x, _ in small.shards(2)
    ]
    run = fda_tf.simulate(build, datasets, fda_tf.Every(steps=1), steps=3)
    assert run.rows[-1]["syncs"] == 3


def test_datasets_deal_the_workers_their_own_batches():
    shards = small.shards(3)
    datasets = [
        tf.data.Dataset.from_tensor_slices(s).batch(BATCH, drop_remainder=True)
        for s in shards
    ]
    run = fda_tf.simulate(
        small.linear_model, datasets, fda_tf.Every(steps=1), steps=12
    )
    w = small.start().astype(np.float64)
    for t in range(12):
        total = 0
        for x, y in shards:
            i = (t % (len(x) // BATCH)) * BATCH
            total = total + reference.gradient(
                w, x[i : i + BATCH].astype(np.float64), y[i : i + BATCH]
            )
        w -= small.RATE * total / 3
    np.testing.assert_allclose(small.flat(run.model), w.ravel(), atol=1e-5)
