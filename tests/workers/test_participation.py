"""Who takes part: C of K, stragglers, shares by samples, and the guard."""

import keras
import ml_dtypes
import numpy as np
import pytest
import small
import tensorflow as tf
from reference import gradient
from runs import BATCH, WORKERS, simulate

import fda_tf
from experiments import datasets
from experiments.tasks import TASKS
from fda_tf.core.loop import Loop
from fda_tf.data import sources as data
from fda_tf.workers import participation
from fda_tf.workers.simulated import Simulation

RATE = small.RATE


def local_step(w, source, k, t):
    x, y = (a.numpy() for a in source.batch(k, t))
    return w - RATE * gradient(w, x.astype(np.float64), y)


def unequal():
    """Returns shards of which worker k has the first 60 / (k + 1) samples."""
    return [
        (x[: 60 // (k + 1)], y[: 60 // (k + 1)])
        for k, (x, y) in enumerate(small.shards(WORKERS))
    ]


def test_each_round_draws_some_of_all():
    some = participation.Round(10, clients_per_round=3, seed=5)
    seen = []
    for _ in range(2000):
        places = [int(some.client(i)) for i in range(3)]
        assert len(set(places)) == 3 and set(places) <= set(range(10))
        seen.append(places)
        some.begin()
    counts = np.bincount(np.ravel(seen), minlength=10)
    # 2,000 draws of 3 in 10: 600 each, spread sqrt(2000 0.3 0.7) = 20.5
    assert np.all(np.abs(counts - 600) < 5 * 20.5)
    again = participation.Round(10, clients_per_round=3, seed=5)
    for places in seen[:20]:
        assert [int(again.client(i)) for i in range(3)] == places
        again.begin()


def test_partial_participation_is_as_by_hand():
    steps, every, some = 24, 3, 2
    run = simulate(
        fda_tf.Every(steps=every), clients_per_round=some, steps=steps, seed=4
    )
    who = participation.Round(WORKERS, some, seed=4)
    source = data.ArraySource(small.shards(WORKERS), BATCH, seed=4)
    w0, taken = small.start().astype(np.float64), [0] * WORKERS
    for _ in range(steps // every):
        models = []
        for k in [int(who.client(i)) for i in range(some)]:
            w = w0
            for _ in range(every):
                w = local_step(w, source, k, taken[k])
                taken[k] += 1
            models.append(w)
        w0 = np.mean(models, axis=0)
        who.begin()
    assert len(set(taken)) > 1  # some were drawn more often
    np.testing.assert_allclose(small.flat(run.model), w0.ravel(), atol=1e-5)
    # Bytes are over the participants, too.
    syncs = steps // every
    assert run.rows[-1]["model_bytes"] == syncs * 2 * some * 4 * w0.size


def test_statistics_of_those_newly_drawn_are_refused():
    local = {"clients_per_round": 2, "statistics": "local", "steps": 2}
    with pytest.raises(ValueError, match='those drawn .*statistics="average"'):
        simulate(fda_tf.Every(steps=1), small.rich_model, **local)
    simulate(fda_tf.Every(steps=1), **local)  # a model that has none


def test_slots_stay_with_their_client():
    """Adam counts its steps: each client's count is its own."""

    def build():
        return small.linear_model(optimizer=keras.optimizers.Adam(0.01))

    source = data.ArraySource(small.shards(WORKERS), BATCH, seed=1)
    home = Simulation(
        build, source, WORKERS, rounds=participation.Round(WORKERS, 2, seed=1)
    )
    loop = Loop(home, fda_tf.Every(steps=2), None)
    loop.run(20)
    who, expected = participation.Round(WORKERS, 2, seed=1), np.zeros(WORKERS)
    for _ in range(10):
        for i in range(2):
            expected[int(who.client(i))] += 2
        who.begin()
    whole = [rows for rows in home._rest if rows[0].dtype.is_integer]
    (iterations,) = [rows[0].numpy() for rows in whole if rows[0].shape[1] == 1]
    np.testing.assert_array_equal(iterations[:, 0], expected)


@pytest.mark.parametrize("monitor", ["naive", "exact"])
def test_stragglers_keep_their_weights(monitor):
    steps, theta, miss = 30, 0.15, 0.5
    run = simulate(
        fda_tf.VarianceThreshold(theta, monitor),
        straggler_rate=miss,
        steps=steps,
        seed=2,
    )
    who = participation.Round(WORKERS, straggler_rate=miss, seed=2)
    source = data.ArraySource(small.shards(WORKERS), BATCH, seed=2)
    w0 = small.start().astype(np.float64)
    models, decided, late = [w0] * WORKERS, [], 0
    for t in range(steps):
        models = [local_step(w, source, k, t) for k, w in enumerate(models)]
        drifts = [(w - w0).ravel() for w in models]
        estimate = np.mean([u @ u for u in drifts])
        if monitor == "exact":
            mean = np.mean(drifts, axis=0)
            estimate -= mean @ mean
        if estimate > theta:
            who.choose_participants(
                tf.constant(t + 1, tf.int64), everyone=False
            )
            there = [bool(who.attends(k)) for k in range(WORKERS)]
            late += there.count(False)
            w0 = np.mean(np.array(models)[there], axis=0)
            models = [w0 if there[k] else w for k, w in enumerate(models)]
            decided.append(t + 1)
    got = [s.step for s in run.syncs if s.cause == "threshold"]
    assert got == decided and 2 < len(decided) < steps and late > 2
    expected = np.mean(models, axis=0).ravel()  # at the end all are there
    np.testing.assert_allclose(small.flat(run.model), expected, atol=1e-5)


def test_someone_is_always_there():
    who = participation.Round(3, straggler_rate=0.99, seed=0)
    there = []
    for t in range(200):
        who.choose_participants(tf.constant(t, tf.int64), everyone=False)
        there.append(sum(bool(who.attends(k)) for k in range(3)))
    assert min(there) == 1 and np.mean(there) < 1.2
    who.choose_participants(tf.constant(0, tf.int64), everyone=True)
    assert all(bool(who.attends(k)) for k in range(3))


def test_workers_count_by_their_samples():
    shards, theta, steps = unequal(), 0.1, 30
    run = fda_tf.simulate(
        small.linear_model,
        shards,
        fda_tf.VarianceThreshold(theta, "exact"),
        steps=steps,
        batch_size=BATCH,
        weighting="samples",
    )
    sizes = np.array([len(y) for _, y in shards])
    p = sizes / sizes.sum()
    source = data.ArraySource(shards, BATCH)
    w0 = small.start().astype(np.float64)
    models, decided = [w0] * WORKERS, []
    for t in range(steps):
        models = [local_step(w, source, k, t) for k, w in enumerate(models)]
        drifts = np.array([(w - w0).ravel() for w in models])
        mean = p @ drifts
        estimate = p @ (drifts**2).sum(1) - mean @ mean
        np.testing.assert_allclose(run.variance[t], estimate, rtol=1e-3)
        if estimate > theta:
            w0 = w0 + mean.reshape(w0.shape)
            models = [w0] * WORKERS
            decided.append(t + 1)
    got = [s.step for s in run.syncs if s.cause == "threshold"]
    assert got == decided and 2 < len(decided) < steps
    last = np.tensordot(p, models, 1).ravel()
    np.testing.assert_allclose(small.flat(run.model), last, atol=1e-5)


def test_a_participants_share_is_of_those_who_take_part():
    shards, steps = unequal(), 10
    run = fda_tf.simulate(
        small.linear_model,
        shards,
        fda_tf.Every(steps=1),
        steps=steps,
        batch_size=BATCH,
        seed=3,
        weighting="samples",
        clients_per_round=2,
    )
    who = participation.Round(WORKERS, 2, seed=3)
    source = data.ArraySource(shards, BATCH, seed=3)
    w0, taken = small.start().astype(np.float64), [0] * WORKERS
    for _ in range(steps):
        models, sizes = [], []
        for k in [int(who.client(i)) for i in range(2)]:
            models.append(local_step(w0, source, k, taken[k]))
            sizes.append(len(shards[k][1]))
            taken[k] += 1
        w0 = np.average(models, axis=0, weights=sizes)
        who.begin()
    np.testing.assert_allclose(small.flat(run.model), w0.ravel(), atol=1e-5)


def test_shares_are_not_rounded_with_what_they_are_of():
    """In bfloat16, 0.3 is 0.3008 and the sum of the shares, 1.2, is 1.203."""
    source = data.ArraySource(small.shards(2), BATCH)
    home = Simulation(small.linear_model, source, 2)
    numbers = np.arange(1.0, 2.0, 1 / 128, dtype=np.float32)  # all of them
    sent = tf.cast(numbers, tf.bfloat16)
    shares = np.float32([0.3, 0.9])
    (mean,) = home.mean(lambda _: [sent], "model", tf.constant(shares))
    first, second = (
        (share * numbers).astype(ml_dtypes.bfloat16) for share in shares
    )
    total = (first + second).astype(np.float32)
    expected = (total / shares.sum()).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(mean, expected)


def test_the_guard_by_hand():
    norms = tf.constant([1.0, 2.0, 3.0, 7.0, float("nan"), float("inf")])
    # The median of 1, 2, 3, 7, and two that are longest, is 5.
    scales, shares = fda_tf.OutlierGuard(1.2).judge(norms)
    assert shares.numpy().tolist() == [1, 1, 1, 0, 0, 0]
    scales, shares = fda_tf.OutlierGuard(1.2, "clip").judge(norms)
    assert shares.numpy().tolist() == [1, 1, 1, 1, 0, 0]
    np.testing.assert_allclose(scales[:4], [1, 1, 1, 6 / 7], rtol=1e-6)


@pytest.mark.parametrize("action", ["drop", "clip"])
@pytest.mark.parametrize("compression", [None, "int8"])
def test_a_bad_worker_does_not_ruin_the_average(action, compression):
    shards = small.shards(10, 480)
    x, y = shards[3]
    bad = [*shards[:3], (1000 * x, (y + 1) % small.CLASSES), *shards[4:]]
    test = small.data(480)

    def loss(shards, **options):
        run = fda_tf.simulate(
            small.linear_model,
            shards,
            fda_tf.Algorithm(fda_tf.Every(steps=4), **options),
            steps=40,
            batch_size=BATCH,
            validation_data=test,
        )
        return run.rows[-1]["val_loss"]

    good, ruined = loss(shards), loss(bad)
    guarded = loss(
        bad, guard=fda_tf.OutlierGuard(3.0, action), compression=compression
    )
    assert ruined > 10 * good
    assert guarded < 1.5 * good


def test_one_bad_worker_of_ten_does_not_ruin_lenet5():
    """Its labels are wrong, and its weights a thousand times too large."""
    task, data = TASKS["lenet5_mnist5000"], datasets.load("mnist5000")
    x, test = task.inputs(data.x_train, data.x_test)
    pieces = fda_tf.partition.split("iid", data.y_train, 10)
    one = np.ones(len(x), np.float32)
    shards = [(x[i], data.y_train[i], one[i]) for i in pieces]
    bad = list(shards)
    bad[3] = (bad[3][0], (bad[3][1] + 1) % 10, 1000 * bad[3][2])

    def accuracy(shards, guard=None):
        run = fda_tf.simulate(
            lambda: task.build(0, lambda: keras.optimizers.SGD(0.2)),
            shards,
            fda_tf.Algorithm(fda_tf.Every(steps=8), guard=guard),
            steps=96,
            validation_data=(test, data.y_test),
            evaluate_every=96,
        )
        return run.rows[-1]["val_accuracy"]

    good, ruined = accuracy(shards), accuracy(bad)
    guarded = [
        accuracy(bad, fda_tf.OutlierGuard(2.0, a)) for a in ("drop", "clip")
    ]
    assert good > 0.8 and ruined < good - 0.3
    assert guarded[0] > good - 0.03
    assert guarded[1] > good - 0.15  # a part of it still counts


def one_is_nan():
    """The workers' data, of which worker 1's are NaN."""
    shards = small.shards(WORKERS)
    shards[1] = (np.full_like(shards[1][0], np.nan), shards[1][1])
    return shards


def test_the_guard_leaves_out_a_worker_that_is_nan():
    shards = one_is_nan()
    run = fda_tf.simulate(
        small.linear_model,
        shards,
        fda_tf.Algorithm(fda_tf.Every(steps=4), guard=fda_tf.OutlierGuard()),
        steps=12,
        batch_size=BATCH,
    )
    assert np.all(np.isfinite(small.flat(run.model)))


def test_a_guard_that_leaves_nobody_to_average_is_named():
    """Worker 1, far off, is the only one that does not miss it."""
    shards = small.shards(WORKERS)
    shards[1] = (1000 * shards[1][0], shards[1][1])
    with pytest.raises(FloatingPointError, match="the guard has dropped all"):
        fda_tf.simulate(
            small.linear_model,
            shards,
            fda_tf.Algorithm(
                fda_tf.Every(steps=1), guard=fda_tf.OutlierGuard()
            ),
            steps=40,
            batch_size=BATCH,
            straggler_rate=0.9,
        )


@pytest.mark.parametrize("action", ["drop", "clip"])
def test_the_guard_judges_the_average_that_is_evaluated(action):
    """Of drifts of 1, 2, 1 and a length that is far off or none at all."""
    source = data.ArraySource(small.shards(WORKERS), BATCH)
    home = Simulation(small.rich_model, source, WORKERS)
    loop = Loop(
        home,
        fda_tf.Algorithm(
            fda_tf.Every(steps=7), guard=fda_tf.OutlierGuard(3.0, action)
        ),
    )
    loop.run(1)
    w0, statistics = loop.w0[0].numpy(), home._statistics[0].numpy()
    along = np.eye(1, len(w0), 5)[0]
    limit = 3.0 * 1.5  # times the median
    for far, counts in ((90.0, limit), (np.nan, None), (4.0, 4.0)):
        lengths = np.array([1.0, 2.0, 1.0, far])
        home._weights[0].assign(w0 + np.outer(lengths, along))
        statistics[3] = far
        home._statistics[0].assign(statistics)
        kept = [1.0, 2.0, 1.0]
        there = 3
        if far == 4.0 or (action == "clip" and counts):
            kept, there = [*kept, counts], 4
        average = loop.averaged()
        expected = w0 + np.mean(kept) * along
        np.testing.assert_allclose(average.weights[0], expected, rtol=1e-6)
        np.testing.assert_allclose(
            average.statistics[0], statistics[:there].mean(0), rtol=1e-5
        )
        np.testing.assert_array_equal(home._statistics[0], statistics)
    # Each hands in its norm, its weights and its statistics.
    numbers = WORKERS + len(w0) + statistics.shape[1]
    assert home.meter.paid("eval") == 3 * WORKERS * 4 * numbers


def test_evaluations_in_mid_round_leave_out_a_worker_that_is_nan():
    shards = one_is_nan()
    run = fda_tf.simulate(
        small.linear_model,
        shards,
        fda_tf.Algorithm(fda_tf.Every(steps=7), guard=fda_tf.OutlierGuard()),
        steps=12,
        batch_size=BATCH,
        validation_data=small.data(),
        evaluate_every=4,
    )
    assert np.all(np.isfinite([row["val_loss"] for row in run.rows]))


def test_a_guard_that_leaves_all_out_raises():
    shards = [(np.full_like(x, np.nan), y) for x, y in small.shards(2)]
    with pytest.raises(FloatingPointError, match="Step 4: .* worker 0, 1 is"):
        fda_tf.simulate(
            small.linear_model,
            shards,
            fda_tf.Algorithm(
                fda_tf.Every(steps=4), guard=fda_tf.OutlierGuard()
            ),
            steps=6,
            batch_size=BATCH,
        )


def test_a_guard_that_finds_nothing_changes_nothing():
    sync = fda_tf.VarianceThreshold(0.2, "linear")
    plain, guarded = (
        simulate(sync),
        simulate(sync, guard=fda_tf.OutlierGuard(100.0)),
    )
    steps = [[s.step for s in run.syncs] for run in (plain, guarded)]
    assert steps[0] == steps[1]
    np.testing.assert_allclose(
        small.flat(plain.model), small.flat(guarded.model), atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients_per_round": 5}, "clients_per_round=5: expected 2 to 4"),
        ({"clients_per_round": 1}, "clients_per_round=1: expected 2 to 4"),
        (
            {"clients_per_round": 2.5},
            "clients_per_round=2.5: expected a whole number",
        ),
        ({"straggler_rate": 1.0}, "straggler_rate=1.0: expected a chance"),
        ({"straggler_rate": -0.1}, "straggler_rate=-0.1: expected a chance"),
        (
            {"straggler_rate": 0.1, "clients_per_round": 2},
            "together have no meaning",
        ),
        ({"weighting": "loss"}, "weighting='loss'. Known: equal, samples"),
        ({"guard": 3.0}, r"guard=3.0: expected fda_tf.OutlierGuard\(factor\)"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(fda_tf.Every(steps=4), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1.0}, "expected a number above 1"),
        ({"factor": 0.5}, "factor=0.5: expected above 1"),
        ({"action": "kill"}, "action='kill'. Known: drop, clip"),
    ],
)
def test_a_guard_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        fda_tf.OutlierGuard(**options)


def test_datasets_have_no_places_of_their_own():
    shards = [
        tf.data.Dataset.from_tensor_slices(shard).batch(BATCH)
        for shard in small.shards(WORKERS)
    ]
    with pytest.raises(
        ValueError, match="clients_per_round= needs shards of arr"
    ):
        fda_tf.simulate(
            small.linear_model,
            shards,
            fda_tf.Every(steps=2),
            steps=4,
            clients_per_round=2,
        )
