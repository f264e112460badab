"""What is averaged of a model, and what is not: each variable's group."""

import groups_cases as cases
import groups_job
import keras
import numpy as np
import processes
import pytest
import reference
import small
import tensorflow as tf

import fda_tf
from fda_tf.core import loop as training
from fda_tf.data import sources
from fda_tf.workers import simulated
from fda_tf.workers.local_model import Worker

RATE, BATCH, STEPS = small.RATE, cases.BATCH, cases.STEPS
NEVER = fda_tf.Every(steps=10**6)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Returns name -> what each of two processes did."""
    folder = tmp_path_factory.mktemp("groups")
    return processes.by_name(processes.reports("groups_job.py", folder, 2))


def case(cluster, name):
    for worker in cluster[name]:
        assert "error" not in worker, worker
    return cluster[name]


def simulate(name):
    build, options = cases.cases()[name]
    return fda_tf.simulate(
        lambda: build(1),
        small.shards(2, cases.SAMPLES),
        steps=STEPS,
        batch_size=BATCH,
        **small.in_parts(options),
    )


@pytest.mark.parametrize("name", cases.cases())
def test_two_processes_end_with_the_bits_of_the_simulation(cluster, name):
    expected = simulate(name)
    ends = [[s.step, s.cause] for s in expected.syncs]
    row = expected.rows[-1]
    for worker in case(cluster, name):
        assert worker["floats"] == groups_job.floats(expected.model)
        assert worker["syncs"] == ends
        sent = worker["history"]["mb_sent"][-1] * 1e6
        assert sent == pytest.approx(row["state_bytes"] + row["model_bytes"])


def loop_of(build, **options):
    """Returns a loop over two simulated workers, and where they are."""
    source = sources.ArraySource(small.shards(2, cases.SAMPLES), BATCH)
    home = simulated.Simulation(build, source, 2)
    return training.Loop(home, fda_tf.Algorithm(NEVER, **options)), home


def worker_of(model):
    spec = (
        tf.TensorSpec([None, small.INPUTS], tf.float32),
        tf.TensorSpec([None], tf.int32),
    )
    return Worker(model, spec)


# A second optimizer.


def test_a_second_rate_that_was_lowered_stays_so_after_going_on(tmp_path):
    def run(epochs, checkpoint=None):
        model = cases.compiled(lambda seed: cases.TwoOptimizers())(1)
        lower = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: (
                model.second.learning_rate.assign(0.01) if epoch == 0 else None
            )
        )
        model.fit(
            *small.data(32),
            batch_size=16,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[
                lower,
                fda_tf.Averaging(fda_tf.Every(steps=1), checkpoint=checkpoint),
            ],
        )
        return model

    def folder():
        return fda_tf.Checkpoint(tmp_path)

    run(2, folder())
    went_on, whole = run(4, folder()), run(4)
    assert float(went_on.second.learning_rate) == np.float32(0.01)
    np.testing.assert_array_equal(small.flat(went_on), small.flat(whole))


# Weights that no step trains.


def test_a_teacher_that_nobody_froze_does_not_travel(cluster):
    student = (small.INPUTS + 1) * small.CLASSES
    run = simulate("teacher")
    sent = 2 * 2 * 4 * student  # both ways, two workers
    assert run.rows[-1]["model_bytes"] == sent * (STEPS // 5)
    for worker in case(cluster, "teacher"):
        assert worker["floats"] == groups_job.floats(run.model)
    start = cases.cases()["teacher"][0](1)
    start(np.zeros([1, small.INPUTS], np.float32))
    np.testing.assert_array_equal(
        run.model.teacher.kernel, start.teacher.kernel
    )


def test_weights_that_no_step_trains_do_not_count_in_the_variance():
    build = cases.cases()["teacher"][0]
    loop, home = loop_of(lambda: build(1))
    assert home.worker.names == [
        v.path for v in home.worker.model.student.trainable_variables
    ]
    assert sum(b.shape[0] for b in loop.w0) == home.worker.weights.layout.size


def test_a_trainable_weight_in_float64_is_refused_only_if_it_is_trained():
    def worker(*dtypes):
        return worker_of(cases.compile_model(cases.Distilled(dtypes=dtypes)))

    (teacher,) = worker("float32", "float64").frozen
    assert [v.dtype for v in teacher.variables] == [tf.float64, tf.float64]
    with pytest.raises(ValueError, match="is float64; expected float32"):
        worker("float64", "float32")


def test_what_is_frozen_after_it_was_built_does_not_travel():
    model = cases.lora(1)
    frozen = [*model.layers[-1].variables, model.layers[0].bias]
    model.layers[-1].trainable = False
    model.layers[0].bias.trainable = False
    worker = worker_of(cases.compile_model(model))
    assert [name.split("/")[-1] for name in worker.names] == [
        "lora_kernel_a", "lora_kernel_b",
    ]  # fmt: skip
    kept = {id(v) for g in worker.frozen for v in g.variables}
    assert {id(v.value) for v in frozen} < kept


# Constraints.


@pytest.mark.parametrize("name", ["unit norm", "unit norm by a server"])
def test_constraints_are_applied_after_each_average(cluster, name):
    rate = 0.7 if "server" in name else 1.0

    def unit(w):
        norms = np.sqrt(np.sum(np.square(w[:-1]), 0, keepdims=True))
        return np.vstack([w[:-1] / (1e-7 + norms), w[-1:]])

    source = sources.ArraySource(small.shards(2, cases.SAMPLES), BATCH)
    start = cases.cases()[name][0](1).get_weights()
    w0 = np.vstack([start[0], start[1][None]]).astype(np.float64)
    models = [w0, w0]
    for t in range(STEPS):
        for k in range(2):
            x, y = (np.asarray(a) for a in source.batch(k, t))
            gradient = reference.gradient(models[k], x, y)
            models[k] = unit(models[k] - RATE * gradient)
        if (t + 1) % 5 == 0 or t + 1 == STEPS:
            w0 = unit(w0 - rate * (w0 - np.mean(models, 0)))
            models = [w0, w0]
    for worker in case(cluster, name):
        kernel, bias = worker["floats"]
        got = np.reshape([*kernel, *bias], w0.shape)
        np.testing.assert_allclose(got, w0, atol=1e-5)


def test_the_average_for_evaluation_satisfies_the_constraints():
    build = cases.cases()["unit norm"][0]
    loop, _ = loop_of(lambda: build(1))
    loop.run(3)
    (average,) = loop.averaged().weights
    kernel = average.numpy()[: small.INPUTS * small.CLASSES]
    norms = np.linalg.norm(kernel.reshape(small.INPUTS, -1), axis=0)
    np.testing.assert_allclose(norms, 1.0, rtol=1e-6)


# What is trainable or a float, and no weight.


@pytest.mark.parametrize("compression", [None, "int8"])
def test_what_its_gradient_overwrites_becomes_the_largest(compression):
    build = cases.cases()["float8"][0]
    loop, home = loop_of(lambda: build(1), compression=compression)
    assert len(home.worker.names) == 2  # kernel and bias
    loop.run(3)
    (before,) = (rows.numpy() for rows in home._statistics)
    assert (before[0] != before[1]).any()
    np.testing.assert_array_equal(loop.averaged().statistics[0], before.max(0))
    loop.synchronise()
    np.testing.assert_array_equal(home._statistics[0], [before.max(0)] * 2)


def test_marks_say_how_a_float_is_reduced(cluster):
    shards = small.shards(2, cases.SAMPLES)
    source = sources.ArraySource(shards, BATCH)
    center, first, largest = np.zeros((2, 3)), np.zeros(2), np.zeros(2)
    for t in range(STEPS):
        for k in range(2):
            x = np.asarray(source.batch(k, t)[0])
            center[k] = 0.9 * center[k] + 0.1 * x[:, :3].mean(0)
            largest[k] = x.max()
            if k == 0:
                first = first + x[:, :2].mean(0)
        if (t + 1) % 5 == 0 or t + 1 == STEPS:
            center[:], largest[:] = center.mean(0), largest.max()
    model = simulate("marked").model
    np.testing.assert_allclose(model.center, center[0], rtol=1e-5)
    np.testing.assert_allclose(model.first, first, rtol=1e-5)
    assert float(model.largest.value) == largest[0]


def test_a_sum_is_refused():
    model = cases.Marked()
    model.first = model.add_weight(
        shape=(2,), trainable=False, aggregation="sum", name="seen"
    )
    with pytest.raises(ValueError, match='seen.*aggregation="sum".*a metric'):
        worker_of(cases.compile_model(model))


def test_of_an_int8_layer_only_its_lora_is_averaged():
    worker = worker_of(cases.cases()["lora"][0](1))
    assert [name.split("/")[-1] for name in worker.names] == [
        "bias", "lora_kernel_a", "lora_kernel_b", "kernel", "bias",
    ]  # fmt: skip
    kinds = {g.variables[0].dtype for g in worker.frozen}
    assert kinds == {tf.int8, tf.float32}  # the kernel and its scale


def test_the_states_of_a_stateful_rnn_are_each_workers_own():
    model = keras.Sequential(
        [
            keras.Input((4, small.INPUTS), batch_size=BATCH),
            keras.layers.LSTM(3, stateful=True),
            keras.layers.Dense(small.CLASSES),
        ]
    )
    spec = (
        tf.TensorSpec([BATCH, 4, small.INPUTS], tf.float32),
        tf.TensorSpec([BATCH], tf.int32),
    )
    worker = Worker(cases.compile_model(model), spec)
    assert not worker.statistics.variables
    rest = {id(v) for g in worker.rest for v in g.variables}
    states = model.layers[0].states
    assert len(states) == 2 and {id(s.value) for s in states} < rest


# What something other than the step moves.


def test_statistics_that_a_validation_moves_are_no_callbacks_change(cluster):
    build = cases.compiled(lambda seed: cases.AlwaysTraining())
    expected = fda_tf.simulate(
        lambda: build(1),
        small.shards(2, cases.SAMPLES),
        NEVER,
        steps=STEPS,
        batch_size=BATCH,
        validation_data=small.data(40, seed=5),
        validation_batch_size=32,
        evaluate_every=STEPS // cases.EPOCHS,
    )
    for worker in case(cluster, "moved validation"):
        assert worker["floats"] == groups_job.floats(expected.model)
        assert worker["syncs"] == [[STEPS, "end"]]
        assert worker["history"]["syncs"] == [0] * cases.EPOCHS
        assert worker["history"]["mb_sent"] == [0.0] * cases.EPOCHS
        np.testing.assert_allclose(
            worker["history"]["val_loss"],
            [row["val_loss"] for row in expected.rows],
            rtol=1e-5,
        )


def test_alone_a_validation_moves_statistics_as_in_stock_keras():
    def fit(*callbacks):
        model = cases.compiled(lambda seed: cases.AlwaysTraining())(1)
        model.fit(
            *small.data(32),
            batch_size=16,
            epochs=2,
            shuffle=False,
            verbose=0,
            validation_data=small.data(40, seed=5),
            callbacks=list(callbacks),
        )
        return model.get_weights()

    for got, stock in zip(fit(fda_tf.FDA()), fit(), strict=True):
        np.testing.assert_array_equal(got, stock)


def test_a_teacher_that_a_callback_moves_is_averaged_and_counted(cluster):
    workers = case(cluster, "moved teacher")
    seen = np.array([w["seen"] for w in workers], np.float32)
    per_epoch = STEPS // cases.EPOCHS
    assert (seen[0, per_epoch - 1] != seen[1, per_epoch - 1]).any()
    last = seen[:, -1]
    size = small.INPUTS * small.CLASSES
    for worker in workers:
        np.testing.assert_array_equal(worker["teacher"], last.mean(0))
        assert worker["syncs"] == [
            [per_epoch, "callback"], [STEPS, "callback"], [STEPS, "end"]
        ]  # fmt: skip
        assert worker["history"]["syncs"] == [1, 2]
        sent = 2 * 2 * 4 * size / 1e6
        assert worker["history"]["mb_sent"] == [sent, 2 * sent]
    assert workers[0]["floats"] == workers[1]["floats"]


def test_a_loop_of_ones_own_may_move_what_is_frozen(cluster):
    workers = case(cluster, "own loop")
    first, second = (np.array(w["lent"], np.float32) for w in workers)
    np.testing.assert_array_equal(first, second)
    before = [np.array(w["before"], np.float32) for w in workers]
    np.testing.assert_allclose(before[1] - before[0], 1.0, rtol=1e-5)
    for worker in workers:
        np.testing.assert_array_equal(worker["teacher"], np.mean(before, 0))
        assert worker["counters"]["syncs"] == 1
