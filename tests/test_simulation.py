"""Simulation against the NumPy reference, lone runs and closed forms."""

import keras
import numpy as np
import pytest
import reference
import small
import tensorflow as tf

import fda_tf
from fda_tf import data, simulation, training

WORKERS, STEPS, BATCH = 4, 60, 8
THETAS = {"naive": 0.5, "linear": 0.3, "exact": 0.2, "max": 0.6, "sketch": 0.3}


def simulate(sync, build=small.linear_model, workers=WORKERS, **options):
    """Runs the small problem; returns its history."""
    settings = {"steps": STEPS, "batch_size": BATCH} | options
    return fda_tf.simulate(build, small.shards(workers), sync=sync, **settings)


def batches(workers=WORKERS, **settings):
    """Returns batch(k, t) in NumPy, the same samples as the simulation's."""
    source = data.ArraySource(small.shards(workers), BATCH, **settings)

    def batch(k, t):
        x, y = source.batch(k, t)
        return x.numpy().astype(np.float64), y.numpy()

    return batch


def reference_run(name, monitor, theta, workers=WORKERS, steps=STEPS):
    """Returns the reference's run with the monitor's own projection."""
    shapes = [(small.INPUTS, small.CLASSES), (small.CLASSES,)]
    sizes = [sum(int(np.prod(s)) for s in shapes)]
    monitor.build(sizes)
    xi, sketch = None, None
    if name == "linear":
        xi = monitor._xi[0].numpy().astype(np.float64)
    if name == "sketch":
        one_hot = tf.eye(sizes[0])
        columns = [monitor.state((e,), 1.0)[1:].numpy() for e in one_hot]
        matrix = np.stack(columns, axis=1).astype(np.float64)

        def sketch(u):
            return (matrix @ u).reshape(monitor.depth, monitor.width)

    return reference.fda(
        small.start(),
        batches(workers),
        workers,
        steps,
        small.RATE,
        theta,
        name,
        xi,
        sketch,
    )


@pytest.mark.parametrize("name", fda_tf.MONITORS)
def test_decides_and_ends_as_the_reference(name):
    theta = THETAS[name]
    run = simulate(fda_tf.VarianceThreshold(theta, name))
    decisions, estimates, models = reference_run(
        name, fda_tf.MONITORS[name](), theta
    )
    syncs = [s["step"] for s in run.syncs if s["cause"] == "threshold"]
    assert 2 <= len(syncs) < STEPS
    assert syncs == (np.flatnonzero(decisions) + 1).tolist()
    np.testing.assert_allclose(run.variance, estimates, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        small.flat(run.model), np.mean(models, axis=0).ravel(), atol=1e-5
    )


def test_every_step_with_sgd_is_synchronous_sgd():
    run = simulate(fda_tf.EveryStep())
    batch, w = batches(), small.start().astype(np.float64)
    for t in range(STEPS):
        w -= small.RATE * np.mean(
            [reference.gradient(w, *batch(k, t)) for k in range(WORKERS)],
            axis=0,
        )
    np.testing.assert_allclose(small.flat(run.model), w.ravel(), atol=1e-5)
    assert run.rows[-1]["checks"] == run.rows[-1]["state_bytes"] == 0
    assert run.rows[-1]["syncs"] == STEPS


def test_theta_zero_with_naive_is_every_step():
    dynamic = simulate(fda_tf.VarianceThreshold(0, "naive"))
    fixed = simulate(fda_tf.EveryStep())
    assert dynamic.rows[-1]["syncs"] == STEPS
    np.testing.assert_array_equal(
        small.flat(dynamic.model), small.flat(fixed.model)
    )


@pytest.mark.parametrize("build", [small.linear_model, small.rich_model])
def test_theta_infinite_is_lone_runs_bit_for_bit(build):
    home = run_home(build, WORKERS)
    rows = [b.numpy() for b in home._weights]
    for worker in (0, 3):
        np.testing.assert_array_equal(
            rows[0][worker], lone_weights(build, worker)
        )


def run_home(build, workers, steps=20):
    """Returns the home after steps with no synchronisation at all."""
    source = data.ArraySource(small.shards(workers), BATCH)
    home = simulation.Simulation(build, source, workers)
    trainer = training.Trainer(
        home, fda_tf.VarianceThreshold(np.inf, "naive"), fda_tf.Average()
    )
    trainer.run(steps)
    assert int(trainer.syncs) == 0
    return home


def lone_weights(build, worker, steps=20):
    """Returns the weights of a plain Keras run of one worker."""
    model = build()
    source = data.ArraySource(small.shards(WORKERS), BATCH)
    x, y = source.batch(worker, 0)
    model._symbolic_build(data_batch=(x, y, None))
    for variable in model.non_trainable_variables:
        if "seed" in variable.path:
            shift = [(worker * 0x9E3779B1) % 2**31, 0]
            state = (variable.numpy().astype(np.int64) + shift) % 2**31
            variable.assign(state.astype(np.uint32))
    step = tf.function(model.train_step)
    for t in range(steps):
        step(source.batch(worker, t))
    return small.flat(model)


def test_the_step_is_traced_once():
    source = data.ArraySource(small.shards(3), BATCH)
    home = simulation.Simulation(small.linear_model, source, 3)
    trainer = training.Trainer(
        home, fda_tf.VarianceThreshold(0.1, "linear"), fda_tf.Average()
    )
    for steps in (1, 7, 3):
        trainer.run(steps)
    assert trainer.run.experimental_get_tracing_count() == 1
    assert int(trainer.step) == 11


def test_lanes_and_calls_change_nothing():
    runs = []
    for lanes, calls in ((1, [12]), (2, [5, 7]), (3, [1] * 12)):
        source = data.ArraySource(small.shards(5), BATCH)
        home = simulation.Simulation(small.rich_model, source, 5, lanes)
        trainer = training.Trainer(
            home, fda_tf.VarianceThreshold(0.02, "linear"), fda_tf.Average()
        )
        for steps in calls:
            trainer.run(steps)
        runs.append([b.numpy() for b in home._weights + home._statistics])
    for run in runs[1:]:
        for a, b in zip(runs[0], run, strict=True):
            np.testing.assert_array_equal(a, b)


def test_alone_there_is_nothing_to_check_or_count():
    run = simulate(fda_tf.VarianceThreshold(0.0, "naive"), workers=1)
    row = run.rows[-1]
    assert row["checks"] == row["syncs"] == row["wire_bytes"] == 0
    assert row["model_bytes"] == row["paper_model_bytes"] == 0


def test_bytes_are_those_of_the_paper():
    run = simulate(fda_tf.VarianceThreshold(THETAS["sketch"], "sketch"))
    row, d = run.rows[-1], small.start().size
    assert row["state_bytes"] == STEPS * WORKERS * 4 * 1251
    assert row["paper_state_bytes"] == row["state_bytes"]
    assert row["model_bytes"] == row["syncs"] * 2 * WORKERS * 4 * d
    assert row["paper_model_bytes"] == row["model_bytes"]
    ring = 2 * (WORKERS - 1) * 4 * (STEPS * 1251 + row["syncs"] * d)
    assert row["wire_bytes"] == ring


def test_the_last_synchronisation_is_not_counted():
    run = simulate(fda_tf.VarianceThreshold(np.inf, "naive"))
    assert run.rows[-1]["syncs"] == 0
    assert [s["cause"] for s in run.syncs] == ["end"]
    assert run.syncs[0]["step"] == run.syncs[0]["interval"] == STEPS


def test_cap_bounds_the_interval():
    sync = fda_tf.VarianceThreshold(np.inf, "naive", cap=fda_tf.Every(steps=7))
    run = simulate(sync)
    steps = [s["step"] for s in run.syncs if s["cause"] == "interval"]
    assert steps == list(range(7, STEPS + 1, 7))


def test_epochs_end_where_the_paper_ends_them():
    # n / (B K) = 240 / (8 x 4) = 7.5 steps
    run = simulate(fda_tf.Every(epochs=1), validation_data=small.data())
    expected = [8, 15, 23, 30, 38, 45, 53, 60]
    assert [s["step"] for s in run.syncs] == expected
    assert [row["step"] for row in run.rows] == expected


@pytest.mark.parametrize("statistics", training.STATISTICS)
def test_batch_norm_statistics_are_averaged_or_local(statistics):
    source = data.ArraySource(small.shards(3), BATCH)
    home = simulation.Simulation(small.rich_model, source, 3)
    trainer = training.Trainer(
        home, fda_tf.Every(steps=4), fda_tf.Average(), statistics=statistics
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
    source = data.ArraySource([(x[:8], y[:8])] * 3, batch_size=8)

    def build():
        layers = [keras.Input((small.INPUTS,)), keras.layers.Dropout(0.5)]
        model = keras.Sequential([*layers, keras.layers.Dense(small.CLASSES)])
        return small.compile_model(model)

    home = simulation.Simulation(build, source, 3)
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
        build, shards, steps=6, batch_size=8, sync=fda_tf.EveryStep()
    )
    model = build()
    source = data.ArraySource(shards, 8)
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


def test_datasets_deal_the_workers_their_own_batches():
    shards = small.shards(3)
    datasets = [
        tf.data.Dataset.from_tensor_slices(s).batch(BATCH, drop_remainder=True)
        for s in shards
    ]
    run = fda_tf.simulate(
        small.linear_model, datasets, steps=12, sync=fda_tf.EveryStep()
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


def test_a_bad_drift_stops_all_and_names_worker_and_step():
    shards = small.shards(3)
    x, y = shards[1]
    shards[1] = (np.full_like(x, np.inf), y)
    for sync in (
        fda_tf.VarianceThreshold(1.0, "linear"),
        fda_tf.VarianceThreshold(1.0, "max"),
        fda_tf.EveryStep(),
    ):
        with pytest.raises(FloatingPointError, match="Step 1: .* worker 1 is"):
            fda_tf.simulate(small.linear_model, shards, steps=5, sync=sync)


def test_evaluation_is_of_the_average_and_leaves_training_alone():
    seen = []
    data_set = small.data()
    run = simulate(
        fda_tf.VarianceThreshold(0.3, "linear"),
        validation_data=data_set,
        evaluate_every=13,
        on_evaluation=seen.append,
    )
    plain = simulate(fda_tf.VarianceThreshold(0.3, "linear"))
    assert [row["step"] for row in run.rows] == [13, 26, 39, 52, 60]
    assert seen == run.rows
    np.testing.assert_array_equal(
        small.flat(run.model), small.flat(plain.model)
    )
    loss, accuracy = run.model.evaluate(*data_set, verbose=0)
    assert run.rows[-1]["val_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert run.rows[-1]["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert run.rows[-1]["eval_bytes"] > 0


def test_without_validation_nothing_is_sent_for_it():
    run = simulate(fda_tf.VarianceThreshold(0.3, "linear"))
    assert run.rows[-1]["eval_bytes"] == 0
    assert not [name for name in run.rows[-1] if name.startswith("val_")]


def test_stops_when_told():
    run = simulate(
        fda_tf.EveryStep(),
        evaluate_every=10,
        on_evaluation=lambda row: row["step"] >= 20,
    )
    assert run.rows[-1]["step"] == len(run.variance) == 20


def test_mixed_precision_trains():
    def build():
        model = keras.Sequential(
            [
                keras.Input((small.INPUTS,)),
                keras.layers.Dense(small.CLASSES, dtype="mixed_bfloat16"),
            ]
        )
        return small.compile_model(model)

    run = simulate(fda_tf.VarianceThreshold(0.1, "linear"), build)
    assert run.rows[-1]["syncs"] > 0


BAD = {
    "has no trainable weights": lambda: keras.Sequential(
        [keras.Input((small.INPUTS,)), keras.layers.Softmax()]
    ),
    "expected float32": lambda: keras.Sequential(
        [
            keras.Input((small.INPUTS,)),
            keras.layers.Dense(small.CLASSES, dtype="float64"),
        ]
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_models_that_cannot_work_are_refused(message):
    with pytest.raises(ValueError, match=message):
        simulate(
            fda_tf.EveryStep(), lambda: small.compile_model(BAD[message]())
        )


def test_uncompiled_and_eager_models_are_refused():
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="is not compiled"):
        simulate(fda_tf.EveryStep(), lambda: plain)
    plain.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="run_eagerly=True"):
        simulate(fda_tf.EveryStep(), lambda: plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0: expected a whole number"),
        ({"sync": "linear"}, "sync='linear': expected fda_tf.Variance"),
        ({"server": "adam"}, "server='adam': expected fda_tf.Average"),
        ({"statistics": "none"}, "Known: average, local"),
        ({"evaluate_every": 0}, "evaluate_every=0"),
        ({"batch_size": 0}, "batch_size=0: expected"),
        ({"sampling": "random"}, "Known: passes, independent"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(**{"sync": fda_tf.EveryStep(), **options})


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


def test_plan_evaluates_at_the_end_when_epochs_are_unknown():
    assert fda_tf.Plan(steps=9).next_evaluation(0, None) == 9


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

    def build(self, shapes):
        self.target = self.add_weight(
            shape=(1,), initializer="zeros", trainable=False
        )
        super().build(shapes)

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

    source = data.ArraySource(two_input_shards(), 8)
    home = simulation.Simulation(build, source, 3, lanes=2)
    trainer = training.Trainer(
        home, fda_tf.VarianceThreshold(np.inf, "naive"), fda_tf.Average()
    )
    trainer.run(5)
    for k in range(3):
        model = build()
        lone = simulation.Worker(model, source.example(), source.spec())
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
        build, shards, steps=4, batch_size=16, sync=fda_tf.Every(steps=2)
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
    source = data.ArraySource(small.shards(3), 8)
    home = simulation.Simulation(build, source, 3, lanes=2)
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

    source = data.ArraySource(small.shards(2), 8)
    home = simulation.Simulation(build, source, 2, lanes=2)
    first, second = (lane.model.layers[0].get_weights() for lane in home.lanes)
    np.testing.assert_array_equal(first[0], second[0])


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
    source = data.ArraySource(small.shards(2), 8)
    with pytest.raises(ValueError, match=r"build\(\) returned a model that sh"):
        simulation.Simulation(shared_parts()[what], source, 2, lanes=2)


def test_models_of_different_shapes_are_refused():
    source = data.ArraySource(small.shards(2), 8)
    models = iter([small.linear_model(), small.rich_model()])
    with pytest.raises(ValueError, match="models of different shapes"):
        simulation.Simulation(lambda: next(models), source, 2, lanes=2)


def test_what_is_no_function_is_refused():
    with pytest.raises(ValueError, match="expected a function with no arg"):
        fda_tf.simulate(small.linear_model(), small.shards(2), steps=1)


def test_moving_averages_of_the_optimizer_are_refused():
    def build():
        return small.linear_model(optimizer=keras.optimizers.SGD(use_ema=True))

    with pytest.raises(ValueError, match="would have no effect"):
        simulate(fda_tf.EveryStep(), build)


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
        simulate(fda_tf.EveryStep(), validation_data=small.data()[0])


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


def test_alone_a_bad_model_is_found_at_the_evaluation():
    x, y = small.data()
    bad = [(np.full_like(x, np.nan), y)]
    with pytest.raises(FloatingPointError, match="Step 3: .* last 3 steps"):
        fda_tf.simulate(
            small.linear_model,
            bad,
            steps=9,
            evaluate_every=3,
            sync=fda_tf.VarianceThreshold(1.0, "naive"),
        )


def test_a_server_that_explodes_is_named():
    with pytest.raises(FloatingPointError, match="Step 1: the server optim"):
        simulate(
            fda_tf.EveryStep(),
            server=fda_tf.ServerOptimizer(keras.optimizers.SGD(1e38)),
            batch_size=1,
        )


def test_epochs_of_unknown_length_are_refused_before_training():
    endless = [
        tf.data.Dataset.from_tensor_slices(s).repeat().batch(8)
        for s in small.shards(2)
    ]
    with pytest.raises(ValueError, match="^Every.steps=None, epochs=1. needs"):
        fda_tf.simulate(
            small.linear_model, endless, steps=3, sync=fda_tf.Every(epochs=1)
        )


def test_a_monitor_that_sends_other_than_it_says_is_refused():
    class Liar(fda_tf.NaiveMonitor):
        floats = 2

    with pytest.raises(ValueError, match="its `floats` is 2"):
        simulate(fda_tf.VarianceThreshold(1.0, Liar()))


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
    run = fda_tf.simulate(build, datasets, steps=3, sync=fda_tf.EveryStep())
    assert run.rows[-1]["syncs"] == 3
