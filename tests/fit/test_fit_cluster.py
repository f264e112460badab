"""`model.fit` on clusters of real processes, against known answers."""

import functools
import re

import fit_cases
import fit_features
import numpy as np
import processes
import pytest
import reference
import small
import tensorflow as tf

import fda_tf
from fda_tf.data import sources

RATE, BATCH, BATCHES = small.RATE, fit_features.BATCH, fit_features.BATCHES


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Returns name -> what each worker did, for a number of processes."""

    @functools.cache
    def run(workers):
        folder = tmp_path_factory.mktemp("fit")
        return processes.by_name(
            processes.reports("fit_job.py", folder, workers)
        )

    return run


def on_four(names, few):
    """Returns (workers, name): two processes do all, four do a few."""
    four = [
        pytest.param(4, name, marks=pytest.mark.slow)
        for name in names
        if name in few
    ]
    return [(2, name) for name in names] + four


def case(cluster, name, workers=2):
    """Returns what each worker did in a case."""
    done = cluster(workers)[name]
    for worker in done:
        assert "error" not in worker, worker
    return done


# Against the simulation.


@pytest.mark.parametrize(
    ("count", "name"), on_four(fit_cases.cases(), fit_cases.FEW)
)
def test_fit_does_as_the_simulation(cluster, count, name):
    workers = case(cluster, name, count)
    build, options, change = fit_cases.cases()[name]
    shards = small.shards(len(workers), fit_cases.SAMPLES)
    at_once = fit_cases.BATCH * len(workers)
    run = fda_tf.simulate(
        lambda: build(1),
        [change(shard) for shard in shards],
        steps=fit_cases.EPOCHS * -(-fit_cases.SAMPLES // at_once),
        batch_size=fit_cases.BATCH,
        **small.in_parts(options),
    )
    expected = small.history_of(run)
    for got in workers:
        assert got["syncs"] == expected["syncs"]
        np.testing.assert_allclose(
            got["weights"], expected["weights"], atol=1e-5
        )
        for a, b in zip(got["statistics"], expected["statistics"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        if got["variance"]:
            np.testing.assert_allclose(
                got["variance"], expected["variance"], rtol=1e-3, atol=1e-5
            )
            ends = np.split(np.array(got["variance"]), fit_cases.EPOCHS)
            last = [epoch[~np.isnan(epoch)][-1] for epoch in ends]
            assert got["history"]["variance"] == last
        sent = expected["row"]["state_bytes"] + expected["row"]["model_bytes"]
        assert got["history"]["mb_sent"][-1] == pytest.approx(sent / 1e6)


def test_class_weights_do_as_sample_weights_in_the_simulation(cluster):
    workers = case(cluster, "class weights")
    run = fda_tf.simulate(
        small.linear_model,
        [
            (x, y, np.where(y == 0, 2.0, 0.5).astype(np.float32))
            for x, y in small.shards(2)
        ],
        fda_tf.VarianceThreshold(0.2, "linear"),
        steps=2 * 15,
        batch_size=BATCH,
    )
    expected = small.history_of(run)
    for got in workers:
        assert got["syncs"] == expected["syncs"]
        np.testing.assert_allclose(
            got["weights"], expected["weights"], atol=1e-5
        )


# Against the NumPy twin.


def projection(name):
    """Returns the linear monitor's direction, or the sketch's map."""
    size = (small.INPUTS + 1) * small.CLASSES
    monitor = fda_tf.monitors.MONITORS[name]()
    monitor.build([size])
    if name == "linear":
        return {"xi": monitor._xi[0].numpy().astype(np.float64)}
    if name != "sketch":
        return {}
    columns = [monitor.state((e,), 1.0)[1:].numpy() for e in tf.eye(size)]
    matrix = np.stack(columns, axis=1).astype(np.float64)
    shape = monitor.depth, monitor.width
    return {"sketch": lambda u: (matrix @ u).reshape(shape)}


@pytest.mark.parametrize(
    ("count", "name"), on_four(fda_tf.monitors.MONITORS, fit_cases.FEW)
)
def test_fit_decides_as_the_numpy_twin(cluster, count, name):
    workers = case(cluster, name, count)
    theta = fit_cases.cases()[name][1]["sync"].theta
    shards = small.shards(len(workers), fit_cases.SAMPLES)
    source = sources.ArraySource(shards, fit_cases.BATCH)

    def batch(k, t):
        x, y = source.batch(k, t)
        return x.numpy().astype(np.float64), y.numpy()

    steps = len(workers[0]["variance"])
    decisions, estimates, models = reference.fda(
        small.start(), batch, len(workers), steps, RATE, theta, name,
        **projection(name),
    )  # fmt: skip
    assert 2 <= decisions.sum() < steps
    for got in workers:
        assert got["syncs"] == (np.flatnonzero(decisions) + 1).tolist()
        if name == "sketch":  # of quiet steps, the cascade gives upper bounds
            bounds = np.where(decisions, estimates, theta)
            assert np.all(got["variance"] >= estimates - 1e-5)
            assert np.all(got["variance"] <= bounds * (1 + 1e-3))
        else:
            np.testing.assert_allclose(
                got["variance"], estimates, rtol=1e-3, atol=1e-5
            )
        np.testing.assert_allclose(
            got["weights"], np.mean(models, axis=0).ravel(), atol=1e-5
        )


def twin(
    workers,
    steps,
    epoch=BATCHES,
    idle=lambda k, t: False,
    rate=RATE,
    theta=fit_features.THETA,
    due=lambda step: False,
    w0=None,
):
    """Returns what is to come of passes over the same batches, in order."""
    parts = [fit_features.part(k, workers) for k in range(workers)]

    def batch(k, t):
        here = slice(t % epoch * BATCH, (t % epoch + 1) * BATCH)
        return None if idle(k, t) else tuple(a[here] for a in parts[k])

    decisions, estimates, models = reference.fda(
        small.start() if w0 is None else w0,
        batch, workers, steps, rate, theta, "naive", due=due,
    )  # fmt: skip
    syncs = (np.flatnonzero(decisions) + 1).tolist()
    return syncs, estimates, np.mean(models, axis=0)


def assert_as(workers, expected):
    """Asserts that all workers did what the twin did; one quiet check, too."""
    syncs, estimates, weights = expected
    assert 0 < len(syncs) < len(estimates)
    for got in workers:
        assert got["steps"] == len(estimates)
        assert [s for s, cause in got["syncs"] if cause != "end"] == syncs
        ended = syncs[-1] == len(estimates)
        assert (got["syncs"][-1][1] == "end") == (not ended)
        if got["variance"]:
            np.testing.assert_allclose(
                got["variance"], estimates, rtol=1e-3, atol=1e-5
            )
        np.testing.assert_allclose(got["weights"], weights.ravel(), atol=1e-5)


INPUTS = [
    "arrays",
    "finite",
    "PyDataset",
    "repeated",
    "unknown length",
    "evaluation on one",
    "after all that",
]


@pytest.mark.parametrize(("count", "name"), on_four(INPUTS, fit_features.FEW))
def test_whatever_the_input_fit_does_as_the_twin(cluster, count, name):
    assert_as(case(cluster, name, count), twin(count, 2 * BATCHES))


def test_a_loop_of_ones_own_does_as_the_twin(cluster):
    workers = case(cluster, "own loop")
    syncs, _, weights = twin(2, 2 * BATCHES)
    for worker in workers:
        assert worker["syncs"] == syncs
        np.testing.assert_allclose(
            worker["weights"], weights.ravel(), atol=1e-5
        )


@pytest.mark.parametrize("name", ["a cap", "a cap, unknown length"])
def test_a_cap_in_epochs_holds_for_every_input(cluster, name):
    def epochs(step):
        return step % BATCHES == 0

    workers = case(cluster, name)
    assert_as(workers, twin(2, 2 * BATCHES, due=epochs))
    for worker in workers:
        capped = [s for s, cause in worker["syncs"] if cause == "interval"]
        assert capped == [BATCHES, 2 * BATCHES]


def test_fitting_again_begins_a_round_at_the_average(cluster):
    workers = case(cluster, "again")
    first = twin(2, 2 * BATCHES)
    assert_as([w["first"] for w in workers], first)
    assert_as([w["second"] for w in workers], twin(2, BATCHES, w0=first[2]))
    for worker in workers:
        assert worker["second"]["epochs"] == 1  # it began with the sixth
        assert worker["second"]["history"]["syncs"][-1] > len(first[0])


def test_a_callback_may_change_the_model_at_an_epochs_end(cluster):
    workers = case(cluster, "model changed")
    syncs, _, average = twin(2, BATCHES)
    later, _, weights = twin(2, BATCHES, w0=average / 2)
    for worker in workers:
        assert [s for s, cause in worker["syncs"] if cause == "threshold"] == [
            *syncs,
            *(BATCHES + step for step in later),
        ]
        assert [BATCHES, "callback"] in worker["syncs"]
        np.testing.assert_allclose(
            worker["weights"], weights.ravel(), atol=1e-5
        )


# What a fit shows.


def scores(w, x, y):
    """Returns the mean cross-entropy and the accuracy."""
    logits = np.hstack([x, np.ones((len(x), 1))]) @ np.reshape(
        w, (-1, small.CLASSES)
    )
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -logs[np.arange(len(y)), y].mean(), (logits.argmax(1) == y).mean()


def test_metrics_are_those_of_all_workers_together(cluster):
    parts = [fit_features.part(k, 2) for k in range(2)]
    parts[1] = tuple(a[:-3] for a in parts[1])  # a last batch of 5
    pooled = [np.concatenate(both) for both in zip(*parts, strict=True)]
    loss, accuracy = scores(small.start(), *pooled)
    for worker in case(cluster, "pooled"):
        assert worker["history"]["loss"] == [pytest.approx(loss, rel=1e-5)]
        assert worker["history"]["accuracy"] == [pytest.approx(accuracy)]


@pytest.fixture(scope="module")
def shown(cluster):
    """What each worker's callbacks saw."""
    return case(cluster, "callbacks")


def test_callbacks_see_the_average_at_an_epochs_end(shown):
    for epoch in range(3):
        _, _, average = twin(2, BATCHES * (epoch + 1))
        for worker in shown:
            np.testing.assert_allclose(
                worker["seen"][epoch][0], average.ravel(), atol=1e-5
            )


def test_validation_is_of_the_average_on_all_workers_data(shown):
    x, y = small.data(40, seed=5)
    # Worker 0 has 40 samples of these, worker 1 the first 25 of them.
    x, y = np.concatenate([x, x[:25]]), np.concatenate([y, y[:25]])
    for worker in shown:
        for weights, logs in worker["seen"]:
            loss, accuracy = scores(weights, x, y)
            assert logs["val_loss"] == pytest.approx(loss, rel=1e-5)
            assert logs["val_accuracy"] == pytest.approx(accuracy)


def test_all_workers_see_the_same_numbers(shown):
    first, second = shown
    assert first["history"] == second["history"]
    assert first["seen"] == second["seen"]
    names = ["accuracy", "loss", "mb_sent", "syncs", "theta", "val_accuracy"]
    assert {*names, "val_loss", "variance"} <= first["history"].keys()


def test_own_models_come_back_in_the_next_epoch(shown):
    syncs, estimates, _ = twin(2, 3 * BATCHES)  # the rate falls after that
    for worker in shown:
        decided = [s for s, _ in worker["syncs"] if s <= 3 * BATCHES]
        assert decided == syncs
        np.testing.assert_allclose(
            worker["variance"][: 3 * BATCHES], estimates, rtol=1e-3, atol=1e-5
        )


def test_plateaus_and_early_stopping_are_the_same_on_all_workers(shown):
    for worker in shown:
        losses = worker["history"]["val_loss"]
        assert losses == sorted(losses)
        assert worker["epochs"] == 4
        assert worker["rates"] == pytest.approx([RATE, RATE, RATE, RATE / 2])
        # The best weights are those of the first epoch.
        assert worker["weights"] == worker["seen"][0][0]


def test_averaged_weights_are_there_during_an_epoch(shown):
    both = zip(*(worker["averages"] for worker in shown), strict=True)
    for (own, average), (other, same) in both:
        assert average == same
        np.testing.assert_allclose(average, np.mean([own, other], 0), atol=1e-6)
    assert any(own != average for own, average in shown[0]["averages"])


def test_only_the_chief_writes(shown):
    chief, other = shown
    assert {"best", "log"} <= set(chief["files"])
    assert other["files"] == []
    assert (chief["chiefs"], other["chiefs"]) == (4, 0)
    assert chief["saved"] == chief["seen"][3][0]
    table = chief["rows"]
    assert [float(row["variance"]) for row in table] == pytest.approx(
        chief["history"]["variance"]
    )
    assert {"theta", "syncs", "mb_sent", "val_loss"} <= table[0].keys()


def test_tensorboard_shows_the_variance_and_each_synchronisation(shown):
    chief = shown[0]
    if chief["points"] is None:
        pytest.skip("needs tensorboard, which Keras' callback needs, too")
    tags, before = chief["points"], chief["before"]
    steps = [before + step for step in range(1, chief["steps"] + 1)]
    assert [s for s, _ in tags["fda/variance"]] == steps
    np.testing.assert_allclose(
        [value for _, value in tags["fda/variance"]], chief["variance"]
    )
    assert tags["fda/theta"] == [[s, fit_features.THETA] for s in steps]
    marked = [s - before for s, _ in tags["fda/synchronisation"]]
    assert marked == [s for s, _ in chief["syncs"]]
    for name in ("variance", "theta", "syncs", "mb_sent"):
        assert [value for _, value in tags[f"epoch_{name}"]] == pytest.approx(
            chief["history"][name]
        )


def test_workers_with_the_same_seed_shuffle_and_drop_apart(cluster):
    first, second = case(cluster, "shuffles")
    for worker in (first, second):
        samples = np.reshape([s for s, _ in worker["seen"]], (2, 8))
        # Each epoch has every sample once; seeded, Keras repeats the order.
        np.testing.assert_array_equal(samples.sum(1), [2**16 - 1] * 2)
    for what in (0, 1):  # samples, masks
        assert [s[what] for s in first["seen"]] != [
            s[what] for s in second["seen"]
        ]


# How a fit ends.


SHORTEST = {
    "shards of 11 and 9": 2,
    "shards of 11 and 9, unknown": 2,
    "shards of 11 and 9, one unknown": 3,
}


@pytest.mark.parametrize(("count", "name"), on_four(SHORTEST, fit_features.FEW))
def test_the_shortest_shard_ends_an_epoch(cluster, count, name):
    workers = case(cluster, name, count)
    assert_as(workers, twin(count, 9 * SHORTEST[name], epoch=9))


def test_who_has_no_data_waits_for_the_next_exchange(cluster):
    # 9 and 11 batches are over when all meet after step 12 of each epoch.
    workers = case(cluster, "shards of 11 and 9, every 4")
    lengths = (11, 9)
    assert_as(
        workers,
        twin(
            2,
            36,
            epoch=12,
            idle=lambda k, t: t % 12 >= lengths[k],
            theta=np.inf,
            due=lambda step: step % 4 == 0,
        ),
    )


@pytest.mark.parametrize(
    ("name", "steps", "due"),
    [
        ("stop", 5, lambda step: False),
        ("stop, executions of 4", 5, lambda step: False),
        ("stop, every 4", 8, lambda step: step % 4 == 0),
    ],
)
def test_one_worker_stops_all_at_the_next_exchange(cluster, name, steps, due):
    # Worker 1 stops after step 4, and waits with its model as it is.
    workers = case(cluster, name)
    theta = np.inf if "every" in name else fit_features.THETA
    expected = twin(
        2, steps, idle=lambda k, t: k == 1 and t > 3, theta=theta, due=due
    )
    assert_as(workers, expected)
    assert [worker["epochs"] for worker in workers] == [1, 1]


def errors(cluster, name, workers=2):
    return [worker.get("error", "") for worker in cluster(workers)[name]]


@pytest.mark.parametrize("name", ["NaN", "NaN, every 4"])
def test_nan_on_one_worker_ends_all_in_words(cluster, name):
    for error in errors(cluster, name):
        assert "FloatingPointError" in error
        assert "the drift of worker 1 is NaN" in error


FAILURES = [
    "error in on_train_begin",
    "error in on_epoch_begin",
    "error in on_train_batch_begin",
    "error in on_train_batch_end",
    "error in on_test_begin",
    "error in on_test_batch_end",
    "error in on_epoch_end",
    "error in on_train_end",
    "error in the data",
    "error in the first batch",
    "error in the data, executions of 4",
    "error in a PyDataset",
    "error in a step",
    "error in the validation data",
    "model in a scope",
    "no batch, unknown",
]
OWN = {
    "error in the data": "InvalidArgumentError: .*broken",
    "error in the first batch": "InvalidArgumentError: .*broken",
    "error in the data, executions of 4": "InvalidArgumentError: .*broken",
    "error in a PyDataset": "UnknownError: .*KeyError: 'mine'",
    "error in a step": "InvalidArgumentError: .*label value",
    "error in the validation data": "InvalidArgumentError: .*broken",
    "model in a scope": "ValueError: The model .* inside strategy.scope()",
    "no batch, unknown": "ValueError: The data of worker 1 have no batch",
}


@pytest.mark.parametrize(("count", "name"), on_four(FAILURES, fit_features.FEW))
def test_an_error_on_one_worker_ends_all_in_words(cluster, count, name):
    own = OWN.get(name, "KeyError: 'mine'")
    told = "RuntimeError: Worker 1 failed; all workers stop: "
    for k, error in enumerate(errors(cluster, name, count)):
        words = f"{'' if k == 1 else told}{own}"
        assert re.match(words, error, re.DOTALL), error


DIFFER = "ValueError: Worker 1 differs from worker 0 in "


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other theta", DIFFER + "sync.theta: 2.0"),
        ("other monitor", DIFFER + "sync.monitor: Exact"),
        ("other model", DIFFER + "optimizer: .*Adam"),
        ("other epochs", DIFFER + "epochs: 3 against 2"),
        ("other executions", DIFFER + "steps_per_execution: 4 against 1"),
        (
            "other first epoch",
            "RuntimeError: Worker 1 is at the start of epoch 2, worker 0 at "
            "the start of epoch 1. Call fit in the same way",
        ),
        (
            "validation on one",
            "RuntimeError: Worker 1 is at the validation of epoch 1, worker 0 "
            "at what follows epoch 1. Call fit in the same way",
        ),
        ("no batch", "ValueError: The data of worker 1 have no batch"),
    ],
)
def test_workers_that_are_unlike_refuse_to_go_on(cluster, name, words):
    for error in errors(cluster, name):
        assert re.match(words, error), error
