"""Checks that cost less: the cascade, fewer of them, and the overlap."""

import fractions
import types

import numpy as np
import pytest
import reference
import small
import tensorflow as tf
from runs import BATCH, STEPS, WORKERS, simulate

import fda_tf
from fda_tf.algorithm.policies import AdaptiveChecks, Every
from fda_tf.core import variance_check
from fda_tf.data import sources
from fda_tf.workers.local_model import Snapshot

THETA, FLOATS = 0.2, 1251


def threshold(theta=THETA, monitor="sketch", **options):
    return fda_tf.VarianceThreshold(theta, monitor, **options)


def syncs_of(run):
    return [s.step for s in run.syncs if s.cause == "threshold"]


@pytest.fixture(scope="module")
def plain():
    """A run that sends the whole state at each check."""
    return simulate(
        threshold(monitor=fda_tf.monitors.SketchMonitor(cascade=False))
    )


def test_the_cascade_decides_as_the_plain_sketch(plain):
    run = simulate(threshold())
    assert 2 <= len(syncs_of(plain)) < STEPS
    assert run.syncs == plain.syncs
    assert np.array_equal(small.flat(run.model), small.flat(plain.model))
    # What it shows where less will do are bounds.
    assert np.all(run.variance >= plain.variance - 1e-5)


def test_the_cascade_checks_when_the_plain_sketch_does():
    """The norm says when the next check is, and not the cascade's bound."""
    x, y = small.data()
    runs = [
        fda_tf.simulate(
            small.linear_model,
            [(x[k::2], y[k::2]) for k in range(2)],
            threshold(
                0.1,  # rounds of about ten steps
                fda_tf.monitors.SketchMonitor(cascade=cascade),
                check_every=AdaptiveChecks(8),
            ),
            steps=STEPS,
            batch_size=120,
        )
        for cascade in (False, True)
    ]
    checks = [np.flatnonzero(np.isfinite(r.variance)).tolist() for r in runs]
    assert checks[0] == checks[1]
    assert runs[0].syncs == runs[1].syncs and len(runs[0].syncs) > 2


def test_the_cascades_second_stage_tells_the_norm():
    """Equal drifts: a norm of 2 theta, a bound of 0.4 theta, at step 10."""
    direction = np.eye(1, 40, dtype=np.float32)[0]
    check = _check_of(
        [2**0.5 * direction] * 3, fda_tf.monitors.SketchMonitor(3, 16)
    )
    check._every = AdaptiveChecks(9)
    theta, ten = tf.constant(1.0), tf.constant(10, tf.int64)
    for step in (ten - 1, ten):  # the first sends it all
        verdict = check.end(theta, step, variance_check.none())
    assert verdict.estimate.numpy() == pytest.approx(2 - 2 / 1.25, rel=1e-5)
    assert not bool(check._whole) and int(check._next) == 11


def test_the_cascade_sends_what_its_rule_says(plain):
    run = simulate(threshold())
    expected = 0
    for rounds in _rounds(plain):
        near = whole = crossed = False
        directions = None
        for norm, rows in rounds:
            if not crossed:
                expected += 1
                inside = norm <= THETA
                crossed = not inside
            elif not near:
                expected += 1 + len(rows)
                along = np.sum(directions * rows, axis=1)
                bound = norm - np.median(along**2) / (1 + rows.shape[1] ** -0.5)
                inside = bound <= THETA
                near = whole and not inside
            else:
                inside = False
            if not inside:
                expected += FLOATS
                lengths = np.linalg.norm(rows, axis=1, keepdims=True)
                directions = rows / lengths
            whole = not inside
    assert run.rows[-1]["state_bytes"] == 4 * WORKERS * expected
    assert run.rows[-1]["checks"] == STEPS
    saved = plain.rows[-1]["state_bytes"] / run.rows[-1]["state_bytes"]
    assert saved > 2


def _rounds(plain):
    """Yields (mean ||u||^2, mean sketch) of each step of a round, by NumPy."""
    models = [small.start().astype(np.float64)] * WORKERS
    w0, done = models[0], []
    matrix = _matrix(w0.size)
    source = sources.ArraySource(small.shards(WORKERS), BATCH)
    for t in range(STEPS):
        models = [_step(w, source, k, t) for k, w in enumerate(models)]
        drifts = [(w - w0).ravel() for w in models]
        norm = np.mean([u @ u for u in drifts])
        done.append((norm, (matrix @ np.mean(drifts, axis=0)).reshape(5, 250)))
        if t + 1 in syncs_of(plain):
            yield done
            w0, done = np.mean(models, axis=0), []
            models = [w0] * WORKERS
    yield done


def _matrix(size):
    """Returns the sketch as a matrix: what it makes of each unit vector."""
    monitor = fda_tf.monitors.SketchMonitor()
    monitor.build([size])
    states = [monitor.state([u], 0.0) for u in tf.eye(size)]
    return np.stack([state[1:].numpy() for state in states], axis=1)


def _step(w, source, k, t):
    x, y = (part.numpy() for part in source.batch(k, t))
    return w - small.RATE * reference.gradient(w, x, y)


def _check_of(drifts, monitor):
    """Returns a Check on workers whose drifts are given, w_0 being 0."""
    snapshots = [Snapshot((tf.constant(u),), ()) for u in drifts]
    layout = types.SimpleNamespace(bucket_sizes=(len(drifts[0]),))
    workers = types.SimpleNamespace(
        here=1,
        worker=types.SimpleNamespace(
            weights=types.SimpleNamespace(layout=layout)
        ),
        mean=lambda of, kind: [
            sum(parts) / len(drifts)
            for parts in zip(*map(of, snapshots), strict=True)
        ],
    )
    w0 = [tf.Variable(tf.zeros(len(drifts[0])))]
    return variance_check.VarianceCheck(threshold(1.0, monitor), workers, w0)


@pytest.mark.parametrize("seed", range(8))
def test_the_cascade_decides_alike_within_one_ulp_of_theta(seed):
    random = np.random.default_rng(seed)
    common = random.normal(size=40) * (seed % 3)
    drifts = [
        (common + random.normal(size=40)).astype(np.float32) for _ in range(3)
    ]
    monitors = [
        fda_tf.monitors.SketchMonitor(3, 8, seed, cascade=c) for c in (0, 1)
    ]
    plain, cascade = (_check_of(drifts, m) for m in monitors)
    estimate = _crosses(plain, np.float32(0))[1]
    norm = np.float32(np.mean([u @ u for u in drifts]))
    for near in (estimate, norm):
        below, above = np.nextafter(near, [-np.inf, np.inf], dtype=np.float32)
        for theta in (below, near, above):
            expected = bool(estimate > theta)
            assert _crosses(plain, theta)[0] == expected
            assert _crosses(cascade, theta)[0] == expected
            # And when it knows directions from a state of this round.
            assert _crosses(cascade, theta, first=np.float32(0))[0] == expected


def _crosses(check, theta, first=None):
    """Returns (whether, estimate) in a new round, maybe after a crossing."""
    one, none = tf.constant(1, tf.int64), variance_check.none()
    check.synchronised()
    if first is not None:
        check.end(tf.constant(first), one, none)
        one += 1
    verdict = check.end(tf.constant(theta), one, none)
    return bool(verdict.crossed), verdict.estimate.numpy()


@pytest.mark.parametrize("seed", range(20))
def test_no_estimate_is_above_its_bound(seed):
    random = np.random.default_rng(seed)
    monitor = fda_tf.monitors.SketchMonitor(5, 16, seed)
    monitor.build([300])
    old, new = random.normal(size=(2, 300)).astype(np.float32)
    turned = old + seed / 10 * new  # from the same direction to any other
    monitor.learn(monitor.state([tf.constant(old)], 0.0))
    state = monitor.state([tf.constant(turned)], 0.0)
    bound, estimate = (
        monitor.bound(monitor.short(state)),
        monitor.estimate(state),
    )
    assert float(bound) >= float(estimate) - 1e-4 * float(state[0])
    if not seed:  # the very direction that it has learnt
        np.testing.assert_allclose(bound, estimate, rtol=1e-4)


def test_a_bad_drift_is_seen_by_the_cascade():
    drifts = [np.ones(4, np.float32), np.full(4, np.nan, np.float32)]
    check = _check_of(drifts, fda_tf.monitors.SketchMonitor(3, 8))
    one = tf.constant(1, tf.int64)
    verdict = check.end(tf.constant(1.0), one, variance_check.none())
    assert not bool(verdict.finite)


@pytest.mark.parametrize("every", [1, 3])
def test_overlap_is_late_by_one_step_and_nothing_else(every):
    run = simulate(threshold(monitor="naive", overlap=True, check_every=every))
    models = [small.start().astype(np.float64)] * WORKERS
    w0, sent, interval, syncs, estimates = models[0], None, 0, [], []
    source = sources.ArraySource(small.shards(WORKERS), BATCH)
    for t in range(STEPS):
        models = [_step(w, source, k, t) for k, w in enumerate(models)]
        interval += 1
        heard = sent  # the state of the step before
        estimates.append(np.nan if heard is None else heard)
        sent = None
        if interval % every == 0:
            sent = np.mean([((w - w0) ** 2).sum() for w in models])
        if heard is not None and heard > THETA:
            syncs.append(t + 1)
            w0 = np.mean(models, axis=0)  # as they are
            models, interval, sent = [w0] * WORKERS, 0, None
    assert 2 <= len(syncs) < STEPS // 2
    assert syncs_of(run) == syncs
    np.testing.assert_allclose(run.variance, estimates, rtol=1e-4, atol=1e-5)
    assert run.rows[-1]["checks"] == np.isfinite(estimates).sum()
    np.testing.assert_allclose(
        small.flat(run.model), np.mean(models, axis=0).ravel(), atol=1e-5
    )


EPOCH = fractions.Fraction(240, WORKERS * BATCH)  # steps


@pytest.mark.parametrize(
    "every", [4, Every(epochs=3.5 / EPOCH), Every(epochs=4 / EPOCH)]
)
def test_checks_every_r_steps_of_a_round(every):
    run = simulate(
        threshold(monitor="naive", check_every=every), evaluate_every=6
    )
    checked = np.flatnonzero(np.isfinite(run.variance)) + 1
    last, expected = 0, []
    for step in range(1, STEPS + 1):
        if (step - last) % 4 == 0:
            expected.append(step)
        if step in syncs_of(run):
            last = step
    assert checked.tolist() == expected
    assert set(syncs_of(run)) <= set(expected)
    assert run.rows[-1]["checks"] == len(expected)
    assert run.rows[-1]["state_bytes"] == 4 * WORKERS * len(expected)
    for row in run.rows:  # has the last check's, and not the last step's
        last = max(step for step in expected if step <= row["step"])
        assert row["variance"] == run.variance[last - 1]


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("limit", [1, 3, 10])
def test_a_crossing_is_found_within_the_limit(power, limit):
    theta, policy = 1.0, AdaptiveChecks(limit)
    for scale in (0.3, 0.1, 0.03):

        def norm(t, scale=scale):  # ||u||^2 when ||u|| grows as t^power
            return np.float32((scale * t**power) ** 2)

        crossing = next(t for t in range(1, 10**5) if norm(t) > theta)
        step = checks = policy.first_check
        while norm(step) <= theta:
            interval = tf.constant(step, tf.int64)
            step = int(policy.next_check(interval, norm(step), theta))
            checks += 1
        assert step - crossing < limit
        if power <= 1:  # drifts that grow no faster are found at once
            assert step == crossing
    assert checks <= crossing


def test_drifts_of_nothing_are_looked_at_again_at_the_limit():
    policy, one = AdaptiveChecks(7), tf.constant(1, tf.int64)
    assert int(policy.next_check(one, 0.0, 1.0)) == 8
    assert int(policy.next_check(one, 1.0, np.inf)) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"check_every": 0}, "check_every=0: expected a whole number of steps"),
        ({"overlap": 1}, "overlap=1: expected True or False"),
        ({"check_every": 2.5}, "check_every=2.5: expected a whole number"),
        (
            {"overlap": True, "check_every": AdaptiveChecks(4)},
            "overlap=True with AdaptiveChecks",
        ),
        (
            {"monitor": "max", "check_every": AdaptiveChecks(4)},
            r"AdaptiveChecks\(max_steps=4\) with monitor='max', which tells no",
        ),
    ],
)
def test_impossible_checks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        threshold(**options)


def test_epochs_of_unknown_length_are_refused():
    every = Every(epochs=1)
    with pytest.raises(ValueError, match="unknown or infinite.*Every"):
        every.in_steps(None)
    for units in ({}, {"steps": 1, "epochs": 1.0}, {"epochs": 0.0}):
        with pytest.raises(ValueError, match="epochs"):
            Every(**units)
