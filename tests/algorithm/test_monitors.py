"""The contract of every monitor, against closed forms and NumPy."""

import numpy as np
import pytest
import reference
import small
import tensorflow as tf

import fda_tf
from fda_tf.algorithm import monitors

SIZES = (300, 47)
D = sum(SIZES)
THETA = tf.constant(1.0)
ESTIMATING = ["naive", "linear", "sketch", "exact"]


def split(vector):
    """Returns a vector's buckets."""
    return small.as_tensors(*np.split(vector, [SIZES[0]]))


def built(name):
    """Returns a monitor, ready for drifts of D numbers."""
    monitor = fda_tf.monitors.MONITORS[name]()
    monitor.build(SIZES)
    return monitor


def mean_state(monitor, drifts):
    """Returns the mean over workers of their states."""
    states = [monitor.state(split(u), THETA) for u in drifts]
    assert all(s.shape == [monitor.floats] for s in states)
    assert all(s.dtype == tf.float32 for s in states)
    return tf.add_n(states) / len(states)


def estimate(monitor, drifts):
    """Returns the monitor's estimate of the variance of some drifts."""
    return float(monitor.estimate(mean_state(monitor, drifts)))


def variance(drifts):
    """Returns the variance itself."""
    drifts = np.asarray(drifts, np.float64)
    return (drifts**2).sum(1).mean() - (drifts.mean(0) ** 2).sum()


def random_drifts(workers, seed, common=1.0):
    """Returns drifts with a part that all share."""
    random = np.random.default_rng(seed)
    shared = common * random.normal(size=D)
    return (shared + random.normal(size=(workers, D))).astype(np.float32)


@pytest.mark.parametrize("name", ESTIMATING)
def test_opposite_drifts_give_the_norm_exactly(name):
    (a,) = random_drifts(1, seed=0)
    expected = np.sum(a.astype(np.float64) ** 2)
    assert estimate(built(name), [a, -a]) == pytest.approx(expected, rel=1e-5)


def test_equal_drifts():
    (a,) = random_drifts(1, seed=1)
    norm = np.sum(a.astype(np.float64) ** 2)
    assert estimate(built("naive"), [a, a]) == pytest.approx(norm, rel=1e-5)
    assert estimate(built("exact"), [a, a]) == pytest.approx(0, abs=1e-5 * norm)
    linear = built("linear")
    linear.synchronised(split(3 * a), split(a))  # xi is parallel to a
    assert estimate(linear, [a, a]) == pytest.approx(0, abs=1e-5 * norm)


@pytest.mark.parametrize("seed", range(20))
def test_bounds(seed):
    drifts = random_drifts(workers=2 + seed % 5, seed=seed, common=seed / 5)
    exact = variance(drifts)
    slack = 1e-5 * float((drifts**2).sum(1).mean())
    naive, linear, sketch = (
        estimate(built(name), drifts) for name in ("naive", "linear", "sketch")
    )
    assert naive >= linear - slack
    assert linear >= exact - slack
    assert naive >= sketch
    assert estimate(built("exact"), drifts) == pytest.approx(exact, abs=slack)


def test_exact_sums_in_an_order_that_no_machine_chooses():
    for seed in range(8):
        state = np.random.default_rng(seed).normal(size=1 + D)
        state = state.astype(np.float32)
        expected = state[0] - reference.squared_norm([state[1:]])
        assert built("exact").estimate(tf.constant(state)).numpy() == expected


def test_the_sketch_is_near_the_variance():
    errors = []
    for seed in range(40):
        drifts = random_drifts(4, seed, common=1.0)
        monitor = monitors.SketchMonitor(seed=seed)
        monitor.build(SIZES)
        mean_norm = np.sum(drifts.mean(0) ** 2)
        gap = estimate(monitor, drifts) - variance(drifts)
        errors.append(gap / mean_norm)
    # E[estimate] - Var = ||mean u||^2 (1 - 1 / (1 + eps)): about eps of it.
    assert 0.0 < np.mean(errors) < 0.12
    assert np.std(errors) < 0.12


def test_linear_follows_the_last_two_models_and_keeps_xi_else():
    linear = built("linear")
    first = np.concatenate(linear._xi)
    assert np.linalg.norm(first) == pytest.approx(1, rel=1e-5)
    old, new = random_drifts(2, seed=2)
    linear.synchronised(split(new), split(new))
    np.testing.assert_array_equal(np.concatenate(linear._xi), first)
    linear.synchronised(split(new), split(old))
    move = (new - old) / np.linalg.norm(new - old)
    np.testing.assert_allclose(np.concatenate(linear._xi), move, atol=1e-6)


def test_linear_draws_its_first_direction_by_seed():
    xis = []
    for seed in (0, 0, 1):
        monitor = monitors.LinearMonitor(seed)
        monitor.build(SIZES)
        xis.append(np.concatenate(monitor._xi))
    np.testing.assert_array_equal(xis[0], xis[1])
    assert abs(xis[0] @ xis[2]) < 0.5


@pytest.mark.parametrize(
    ("drift", "flag"), [(0.9, 0.0), (1.0, 0.0), (1.1, 1.0), (np.nan, 1.0)]
)
def test_max_raises_a_flag_above_theta_and_for_nan(drift, flag):
    monitor = built("max")
    one = np.zeros(D, np.float32)
    one[0] = drift

    @tf.function  # grappler may rewrite comparisons
    def state(*buckets):
        return monitor.state(buckets, THETA)

    assert float(state(*split(one))[0]) == flag
    mean = mean_state(monitor, [one, 0 * one])
    if np.isfinite(drift):
        assert bool(monitor.exceeds(mean, THETA)) == bool(flag)


@pytest.mark.parametrize("name", ESTIMATING)
def test_exceeds_is_strict(name):
    monitor = built(name)
    mean = mean_state(monitor, random_drifts(3, seed=4))
    value = monitor.estimate(mean)
    assert not bool(monitor.exceeds(mean, value))
    below = tf.constant(np.nextafter(value.numpy(), np.float32(-np.inf)))
    assert bool(monitor.exceeds(mean, below))


@pytest.mark.parametrize("name", fda_tf.monitors.MONITORS)
def test_states_average_as_drifts_do(name):
    """The projection is linear: P(mean u) = mean P(u)."""
    monitor = built(name)
    drifts = random_drifts(3, seed=5)
    mean = mean_state(monitor, drifts)[1:]
    of_mean = monitor.state(split(drifts.mean(0)), THETA)[1:]
    np.testing.assert_allclose(mean, of_mean, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "floats"),
    [("naive", 1), ("linear", 2), ("sketch", 1251), ("exact", D + 1)],
)
def test_floats_sent(name, floats):
    assert built(name).floats == floats


@pytest.mark.parametrize("name", fda_tf.monitors.MONITORS)
def test_repr_tells_the_settings_and_nothing_else(name):
    monitor = fda_tf.monitors.MONITORS[name]()
    before = repr(monitor)
    monitor.build(SIZES)
    assert repr(monitor) == before
    assert before.startswith(type(monitor).__name__)


def test_unknown_and_impossible_monitors():
    with pytest.raises(ValueError, match="Known: naive, linear, sketch, exact"):
        monitors.get("skech")
    with pytest.raises(ValueError, match="Unknown monitor"):
        monitors.get(["naive"])
    with pytest.raises(TypeError, match="estimate"):
        type("Half", (monitors.Monitor,), {"state": lambda *_: None})()
    for settings in ({"depth": 0}, {"depth": 4}, {"width": 0}, {"depth": 5.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            monitors.SketchMonitor(**settings)
