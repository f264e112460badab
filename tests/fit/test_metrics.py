"""What two workers count, against stock Keras on all of the data."""

import functools
import json
import math

import keras
import metric_cases as cases
import metrics_job
import numpy as np
import processes
import pytest
import tensorflow as tf

import fda_tf
from fda_tf.data.digests import Digest
from fda_tf.fit import metric_kinds

OURS = ("syncs", "mb_sent", "tested", "asked", "moved", "weights", "stopped")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Returns what -> name -> what each of two workers did."""

    @functools.cache
    def run(what):
        folder = tmp_path_factory.mktemp("metrics")
        return processes.by_name(
            processes.reports("metrics_job.py", folder, 2, what, seconds=300)
        )

    return run


def case(cluster, name, what="runs"):
    """Returns what two workers did in a case: the same, but for their parts."""
    first, second = cluster(what)[name]
    assert "error" not in first, first
    assert shown(first) == shown(second)
    return first, second


def shown(report):
    """Returns Keras' own part of a history, NaN as a text that is equal."""
    own = {name: each for name, each in report.items() if name not in OURS}
    return json.loads(json.dumps(own), parse_constant=str)


def stock(model, data=None, **options):
    """Returns the history of stock Keras on one process."""
    x, y = data or cases.train()
    settings = {"batch_size": cases.BATCH, "epochs": 1} | options
    fitted = model.fit(x, y, shuffle=False, verbose=0, **settings)
    return metrics_job.plain(fitted.history)


def assert_as(got, expected, *names):
    """Asserts that two histories are equal, to float32's rounding."""
    got = shown(got)
    assert got.keys() == expected.keys()
    for name in names or expected:
        np.testing.assert_allclose(
            got[name], expected[name], rtol=2e-6, err_msg=name
        )


@pytest.fixture(scope="module")
def counting():
    """A model with counts and metrics of one's own, to be fit by stock."""
    counted = [cases.K.TruePositives(), cases.K.AUC(), *cases.divisible()]
    return cases.build(counted)


# What is shared out, and what not.

TEST = cases.test()
SHARED = {
    "arrays": ({"epochs": 2}, [10, 10]),  # of 20 batches
    "dataset": ({}, [5, 5]),
    "unknown length": ({}, [5, 5]),
    "PyDataset": ({}, [5, 5]),
    "steps": ({"validation_steps": 5}, [2, 3]),
    "repeated": ({"validation_steps": 5}, [2, 3]),
    "batches of 16": ({"validation_batch_size": 16}, [2, 3]),
    "frequency": ({"validation_freq": 2, "epochs": 2}, [5, 5]),
}
FEW = {"one batch": (8, [1, 1]), "three batches": (22, [1, 2])}


@pytest.mark.parametrize("name", SHARED)
def test_equal_validation_data_are_shared_out(cluster, counting, name):
    options, tested = SHARED[name]
    workers = case(cluster, name)
    assert [worker["tested"] for worker in workers] == tested
    assert_as(workers[0], stock(counting, validation_data=TEST, **options))


@pytest.mark.parametrize("name", FEW)
def test_fewer_batches_than_workers_count_once(cluster, counting, name):
    samples, tested = FEW[name]
    workers = case(cluster, name)
    assert [worker["tested"] for worker in workers] == tested
    some = tuple(a[:samples] for a in TEST)
    assert_as(workers[0], stock(counting, validation_data=some))


def test_a_pydataset_is_read_once_and_then_asked_for_its_part(cluster):
    for worker in case(cluster, "PyDataset"):
        # Ten to compare, the part, and what Keras looks at and reads ahead.
        assert 15 <= worker["asked"] < 20


@pytest.mark.parametrize(
    "name", ["another order", "shuffled PyDataset", "whole"]
)
def test_what_is_evaluated_whole_counts_once(cluster, counting, name):
    workers = case(cluster, name)
    assert [worker["tested"] for worker in workers] == [10, 10]
    names = ["val_loss", "val_auc", "val_true_positives", "val_plain_sum"]
    expected = stock(counting, validation_data=TEST)
    assert_as(workers[0], expected, *names)


@pytest.mark.parametrize("name", ["unlike", "unlike datasets"])
def test_unlike_validation_data_are_each_workers_own(cluster, counting, name):
    workers = case(cluster, name)
    assert [worker["tested"] for worker in workers] == [5, 5]
    names = ["val_loss", "val_auc", "val_true_positives", "val_plain_sum"]
    assert_as(workers[0], stock(counting, validation_data=TEST), *names)


def test_a_split_of_each_workers_own_data_is_its_own(cluster, counting):
    parts = [cases.split(cases.train(), k) for k in range(2)]
    train, test = (
        [np.concatenate(both) for both in zip(*half, strict=True)]
        for half in (
            [[a[:16] for a in part] for part in parts],
            [[a[16:] for a in part] for part in parts],
        )
    )
    workers = case(cluster, "a split")
    expected = stock(counting, train, validation_data=tuple(test))
    assert_as(workers[0], expected)


def test_what_moves_the_model_is_evaluated_whole(cluster):
    workers = case(cluster, "moves")
    model = cases.build([cases.K.TruePositives(name="t")], cases.Moves)
    expected = stock(model, validation_data=TEST)
    for worker in workers:
        assert (worker["tested"], worker["moved"]) == (10, 10)
        (counts,) = (v for n, v in worker.items() if n.startswith("val_true"))
        assert counts == expected["val_t"]


# What metrics are.


def test_what_must_see_all_batches_is_evaluated_whole(cluster):
    workers = case(cluster, "must see all")
    metrics = [*cases.whole(), cases.K.TruePositives(name="t")]
    model = cases.build(metrics)
    expected = stock(model, validation_data=TEST)
    parts = [
        stock(model, cases.split(cases.train(), k), validation_data=TEST)
        for k in range(2)
    ]
    for worker in workers:
        assert worker["tested"] == 10
        for name in ("val_first", "val_its", "val_mean", "val_loss", "first"):
            assert worker[name] == pytest.approx(expected[name])
        # As they are marked: worker 0's, and the mean.
        assert worker["its"] == pytest.approx(parts[0]["its"])
        mean = np.mean([part["mean"] for part in parts], 0)
        assert worker["mean"] == pytest.approx(mean)


def test_a_metric_that_is_not_reset_counts_what_was_before_once(cluster):
    workers = case(cluster, "never reset")
    model = cases.build([cases.Never(name="never")])
    assert_as(workers[0], stock(model, validation_data=TEST, epochs=3))


def test_logs_of_steps_are_the_workers_own(cluster):
    for k, worker in enumerate(cluster("runs")["never reset, steps"]):
        sees = cases.Sees("never")
        own = cases.split(cases.train(), k)
        model = cases.build([cases.Never(name="never")])
        stock(model, own, callbacks=[sees], epochs=3)
        np.testing.assert_allclose(worker["steps"], sees.seen, rtol=2e-6)


@pytest.mark.parametrize(
    ("words", "name"), [(w, m.name) for w, m in cases.refused().items()]
)
def test_a_metric_of_no_kind_is_refused_by_name(cluster, words, name):
    for worker in cluster("runs")[words]:
        assert worker["error"].startswith(f"ValueError: The metric {name!r}")
        assert words in worker["error"]


def test_a_trial_leaves_a_metric_as_it_is():
    metric = cases.Custom("largest", tf.maximum)
    metric.update_state(None, np.float32([3.0]))
    specs = (tf.TensorSpec([None, 1]), tf.TensorSpec([None, 1])), {}
    assert metric_kinds.try_out(metric, specs) == ["max"]
    assert float(metric.result()) == 3.0


@pytest.mark.slow
def test_all_metrics_of_keras_are_those_of_one_process(cluster):
    workers = case(cluster, "of Keras", "of Keras")
    model = cases.of_keras()
    expected = stock(
        model,
        cases.of_keras_data(cases.TRAIN, 1),
        validation_data=cases.of_keras_data(cases.TEST, 2),
    )
    assert_as(workers[0], expected)
    x, y = cases.of_keras_data(cases.TRAIN, 1)
    some = x[:44], {name: each[:44] for name, each in y.items()}
    expected = stock(
        model, some, validation_data=cases.of_keras_data(cases.TEST, 2)
    )
    assert_as(case(cluster, "uneven", "of Keras")[0], expected)
    held = {type(m).__name__ for m in metric_kinds.find(model)}
    shipped = {
        name
        for name, each in vars(keras.metrics).items()
        if isinstance(each, type)
    }
    # Sum is in the logs of one's own; Metric is what all are made of.
    assert shipped - held == {"Metric", "Sum"}


# What a step returns besides.


def test_logs_are_as_stock_shows_them(cluster):
    workers = case(cluster, "logs")
    model = cases.build(base=cases.Logs)
    expected = stock(model, validation_data=TEST, epochs=2)
    got = shown(workers[0])
    assert got.keys() == expected.keys()
    for name in expected:
        if name.removeprefix("val_") in ("text", "nothing", "number"):
            assert got[name] == expected[name]
        elif name.startswith("val_") or name in ("tracker", "other"):
            np.testing.assert_allclose(
                got[name], expected[name], rtol=2e-6, err_msg=name
            )
    parts = [
        stock(cases.build(base=cases.Logs), cases.split(cases.train(), k))
        for k in range(2)
    ]
    for name in ("one", "vector", "rows"):  # of the last step of each
        mean = np.mean([part[name] for part in parts], 0)
        np.testing.assert_allclose(got[name][:1], mean, rtol=2e-6)


def test_alone_logs_are_those_of_stock():
    def fit(callbacks):
        model = cases.build(base=cases.Logs)
        return stock(model, validation_data=TEST, callbacks=callbacks)

    ours = fit([fda_tf.Averaging(fda_tf.Every(steps=2))])
    expected = fit([])
    assert {name: ours[name] for name in expected} == expected


# TerminateOnNaN.


def test_terminate_on_nan_ends_all_workers_quietly(cluster):
    for worker in case(cluster, "NaN"):
        assert len(worker["loss"]) == 1 and math.isnan(worker["loss"][0])
        assert worker["stopped"]
        assert all(np.isnan(np.ravel(w)).all() for w in worker["weights"])


# The digest.


def test_a_digest_tells_what_differs():
    x, y = cases.data(50)

    def digest(*batches):
        made = Digest()
        for batch in batches:
            made.add(batch)
        return made.as_set(), made.in_order()

    whole = digest((x, y))
    assert digest((x[:9], y[:9]), (x[9:], y[9:])) == whole
    order = np.random.default_rng(0).permutation(50)
    as_set, in_order = digest((x[order], y[order]))
    assert as_set == whole[0] and in_order != whole[1]
    for other in (
        (x, y[order]),  # labels of other samples
        (-x, y),
        (np.float64(x), y),
        (x[:49], y[:49]),
        (x, y, np.ones(50)),
        (np.where(x == x[7, 1], 0, x), y),
    ):
        assert digest(other)[0] != whole[0]


def test_texts_have_a_digest():
    ones, others = Digest(), Digest()
    ones.add({"a": np.array(["ab", "c"]), "b": tf.constant(["d", "e"])})
    others.add({"a": np.array(["ab", "c"]), "b": tf.constant(["d", "f"])})
    assert ones.as_set() != others.as_set()


def test_a_validation_that_is_none_is_refused():
    with pytest.raises(ValueError, match="Known: shared, whole"):
        fda_tf.FDA(validation="all")
