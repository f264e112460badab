"""Simulation against the NumPy reference, lone runs and closed forms."""

import keras
import numpy as np
import pytest
import reference
import small
import tensorflow as tf
from runs import BATCH, STEPS, WORKERS, lone_weights, run_home, simulate

import fda_tf
from fda_tf.core import loop as training
from fda_tf.data import sources
from fda_tf.workers import simulated

THETAS = {"naive": 0.5, "linear": 0.3, "exact": 0.2, "max": 0.6, "sketch": 0.3}


def batches(workers=WORKERS, **settings):
    """Returns batch(k, t) in NumPy, the same samples as the simulation's."""
    source = sources.ArraySource(small.shards(workers), BATCH, **settings)

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


@pytest.mark.parametrize("name", fda_tf.monitors.MONITORS)
def test_decides_and_ends_as_the_reference(name):
    theta, monitor = THETAS[name], fda_tf.monitors.MONITORS[name]()
    monitor.cascade = False  # whose estimates are the norm at first
    run = simulate(fda_tf.VarianceThreshold(theta, monitor))
    decisions, estimates, models = reference_run(name, monitor, theta)
    syncs = [s.step for s in run.syncs if s.cause == "threshold"]
    assert 2 <= len(syncs) < STEPS
    assert syncs == (np.flatnonzero(decisions) + 1).tolist()
    np.testing.assert_allclose(run.variance, estimates, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        small.flat(run.model), np.mean(models, axis=0).ravel(), atol=1e-5
    )


def test_every_step_with_sgd_is_synchronous_sgd():
    run = simulate(fda_tf.Every(steps=1))
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
    fixed = simulate(fda_tf.Every(steps=1))
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


def test_the_step_is_traced_once():
    source = sources.ArraySource(small.shards(3), BATCH)
    home = simulated.Simulation(small.linear_model, source, 3)
    trainer = training.Loop(home, fda_tf.VarianceThreshold(0.1, "linear"), None)
    for steps in (1, 7, 3):
        trainer.run(steps)
    assert trainer._run_all.experimental_get_tracing_count() == 1
    assert int(trainer.step) == 11


def test_lanes_and_calls_change_nothing():
    runs = []
    for lanes, calls in ((1, [12]), (2, [5, 7]), (3, [1] * 12)):
        source = sources.ArraySource(small.shards(5), BATCH)
        home = simulated.Simulation(small.rich_model, source, 5, lanes)
        trainer = training.Loop(
            home, fda_tf.VarianceThreshold(0.02, "linear"), None
        )
        for steps in calls:
            trainer.run(steps)
        runs.append([b.numpy() for b in home._weights + home._statistics])
    for run in runs[1:]:
        for a, b in zip(runs[0], run, strict=True):
            np.testing.assert_array_equal(a, b)


def test_where_nobody_tells_whose_the_cores_are_all_are_taken(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity")  # as on macOS
    source = sources.ArraySource(small.shards(5), BATCH)
    for known, lanes in ((3, 3), (64, 5), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda known=known: known)
        home = simulated.Simulation(small.linear_model, source, 5)
        assert len(home.lanes) == lanes


def test_alone_there_is_nothing_to_check_or_count():
    run = simulate(fda_tf.VarianceThreshold(0.0, "naive"), workers=1)
    row = run.rows[-1]
    assert row["checks"] == row["syncs"] == row["wire_bytes"] == 0
    assert row["model_bytes"] == row["paper_model_bytes"] == 0


def test_bytes_are_those_of_the_paper():
    monitor = fda_tf.monitors.SketchMonitor(cascade=False)
    run = simulate(fda_tf.VarianceThreshold(THETAS["sketch"], monitor))
    row, d = run.rows[-1], small.start().size
    assert row["state_bytes"] == STEPS * WORKERS * 4 * 1251
    assert row["paper_state_bytes"] == row["state_bytes"]
    assert row["model_bytes"] == row["syncs"] * 2 * WORKERS * 4 * d
    assert row["paper_model_bytes"] == row["model_bytes"]
    # Each exchange has one float more: whether a worker calls for a meeting.
    floats = STEPS * (1251 + 1) + row["syncs"] * (d + 1)
    ring = 2 * (WORKERS - 1) * 4 * floats
    assert row["wire_bytes"] == ring


def test_the_last_synchronisation_is_not_counted():
    run = simulate(fda_tf.VarianceThreshold(np.inf, "naive"))
    assert run.rows[-1]["syncs"] == 0
    assert [s.cause for s in run.syncs] == ["end"]
    assert run.syncs[0].step == run.syncs[0].interval == STEPS


def test_cap_bounds_the_interval():
    sync = fda_tf.VarianceThreshold(
        np.inf, "naive", max_interval=fda_tf.Every(steps=7)
    )
    run = simulate(sync)
    steps = [s.step for s in run.syncs if s.cause == "interval"]
    assert steps == list(range(7, STEPS + 1, 7))


def test_epochs_end_where_the_paper_ends_them():
    # n / (B K) = 240 / (8 x 4) = 7.5 steps
    run = simulate(fda_tf.Every(epochs=1), validation_data=small.data())
    expected = [8, 15, 23, 30, 38, 45, 53, 60]
    assert [s.step for s in run.syncs] == expected
    assert [row["step"] for row in run.rows] == expected


def test_a_bad_drift_stops_all_and_names_worker_and_step():
    shards = small.shards(3)
    x, y = shards[1]
    shards[1] = (np.full_like(x, np.inf), y)
    for sync in (
        fda_tf.VarianceThreshold(1.0, "linear"),
        fda_tf.VarianceThreshold(1.0, "max"),
        fda_tf.Every(steps=1),
    ):
        with pytest.raises(FloatingPointError, match="Step 1: .* worker 1 is"):
            fda_tf.simulate(small.linear_model, shards, sync, steps=5)


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
        fda_tf.Every(steps=1),
        evaluate_every=10,
        on_evaluation=lambda row: row["step"] >= 20,
    )
    assert run.rows[-1]["step"] == len(run.variance) == 20


def test_alone_a_bad_model_is_found_at_the_evaluation():
    x, y = small.data()
    bad = [(np.full_like(x, np.nan), y)]
    with pytest.raises(FloatingPointError, match="Step 3: .* last 3 steps"):
        fda_tf.simulate(
            small.linear_model,
            bad,
            fda_tf.VarianceThreshold(1.0, "naive"),
            steps=9,
            evaluate_every=3,
        )


def test_a_server_that_explodes_is_named():
    with pytest.raises(FloatingPointError, match="Step 1: the server optim"):
        simulate(
            fda_tf.Every(steps=1),
            server_optimizer=keras.optimizers.SGD(1e38),
            batch_size=1,
        )


def test_a_monitor_whose_state_is_bad_is_named():
    class Sick(fda_tf.monitors.NaiveMonitor):
        def state(self, drift, theta):
            return super().state(drift, theta) * float("nan")

    with pytest.raises(FloatingPointError, match="Step 1: the mean state of S"):
        simulate(fda_tf.VarianceThreshold(0.5, Sick()))


def test_an_average_that_is_bad_at_an_evaluation_is_named():
    source = sources.ArraySource(small.shards(2), BATCH)
    home = simulated.Simulation(small.linear_model, source, 2)
    loop = training.Loop(home, fda_tf.Every(steps=1), None)
    with pytest.raises(FloatingPointError, match="Step 0: the average of the"):
        loop.raise_bad_drift()  # as when it has overflowed
