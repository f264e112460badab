"""Theta that sets itself, on synthetic drifts and in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from runs import STEPS, simulate

import fda_tf
from fda_tf import thetas

ExponentialDecay = keras.optimizers.schedules.ExponentialDecay


def rounds_of(schedule, variance, steps):
    """Returns (interval, theta) of each round; the variance is a function.

    `variance(step, t)` is the variance t steps after a synchronisation.
    """
    theta, last, rounds = np.float32(schedule.start(1000)), 0, []
    for step in range(1, steps + 1):
        estimate, interval = (
            np.float32(variance(step, step - last)),
            step - last,
        )
        if estimate > theta:
            rounds.append((interval, float(theta)))
            theta = schedule.synchronised(theta, step, interval, estimate)
            last, interval = step, 0
        theta = schedule.after_step(tf.constant(theta), step, interval)
        theta = theta.numpy()
    return np.array(rounds)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("goal", [4, 25])
def test_the_interval_comes_to_its_goal(power, scale, goal):
    schedule = thetas.TargetInterval(goal)
    rounds = rounds_of(schedule, lambda step, t: scale * t**power, 60 * goal)
    settled = rounds[len(rounds) // 2 :, 0]
    assert goal - 1 <= settled.mean() <= goal + 1
    assert np.all(np.abs(settled - goal) <= 1)  # it does not swing


def test_the_interval_is_held_when_drifts_are_noisy():
    random, goal = np.random.default_rng(0), 20
    noise = random.lognormal(0, 0.5, size=20_000)
    rounds = rounds_of(
        thetas.TargetInterval(goal), lambda step, t: t * noise[step], 10_000
    )
    assert 0.7 * goal < rounds[len(rounds) // 4 :, 0].mean() < 1.3 * goal


@pytest.mark.parametrize("drop", [1e-2, 1e-4])
def test_the_interval_comes_back_when_the_learning_rate_drops(drop):
    goal = 10
    rounds = rounds_of(
        thetas.TargetInterval(goal),
        lambda step, t: t * (drop if step > 1000 else 1.0),
        5000,
    )
    # Starved for a while, since theta is halved every H steps at most.
    longest = rounds[:, 0].max()
    assert longest < 2 * goal + goal * (np.log2(1 / drop) + 2)
    assert np.all(np.abs(rounds[-20:, 0] - goal) <= 1)


def test_divergence_raises_theta_by_bounded_steps():
    schedule = thetas.TargetInterval(10, gain=1.0, most=4.0)
    rounds = rounds_of(
        schedule, lambda step, t: 1e6**step if step < 6 else t, 9
    )
    factors = rounds[2:, 1] / rounds[1:-1, 1]
    assert np.all((factors <= 4.0 + 1e-5) & (factors >= 0.25))


def test_what_is_not_finite_changes_nothing():
    schedule = thetas.TargetInterval(10)
    zero, nan = tf.constant(0.0), tf.constant(np.nan)
    assert float(schedule.synchronised(zero, 1, 1, nan)) == 0.0


def test_theta_never_becomes_the_start_again():
    schedule, theta = thetas.TargetInterval(1), tf.constant(1e-37)
    for step in range(100):
        theta = schedule.after_step(theta, step, 10**6)
        theta = schedule.synchronised(theta, step, 10**6, tf.constant(1.0))
    assert float(theta) > 0


def test_a_goal_is_met_in_training():
    goal = 6
    run = simulate(
        fda_tf.VarianceThreshold(thetas.TargetInterval(goal), "exact"),
        steps=3 * STEPS,
    )
    intervals = [s["interval"] for s in run.syncs if s["cause"] == "threshold"]
    assert intervals[0] == 1  # theta is 0 in the first round
    assert goal - 1 <= np.mean(intervals[len(intervals) // 2 :]) <= goal + 1
    assert run.theta[0] == 0 and np.all(run.theta[1:] > 0)


def test_theta_follows_the_rate_in_training():
    rate = ExponentialDecay(0.3, 20, 0.5)
    schedule = thetas.FollowRate(0.5, rate)
    run = simulate(fda_tf.VarianceThreshold(schedule, "naive"))
    expected = [0.5 * (float(rate(t)) / 0.3) ** 2 for t in range(STEPS)]
    np.testing.assert_allclose(run.theta, expected, rtol=1e-5)


def test_the_rule_of_thumb_counts_the_parameters():
    run = simulate(fda_tf.VarianceThreshold("hpc", "naive"))
    np.testing.assert_allclose(run.theta, 2.74e-5 * 39, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fda_tf.VarianceThreshold("auto?"), "Unknown rule 'auto[?]'"),
        (lambda: thetas.TargetInterval(0.5), "expected a number of steps"),
        (lambda: thetas.TargetInterval(np.inf), "expected finite numbers"),
        (lambda: thetas.TargetInterval(9, gain=1.5), "a gain of at most 1"),
        (lambda: thetas.TargetInterval(9, gain=0), "gain=0: expected above 0"),
        (lambda: thetas.PerParameter(-1), "c=-1: expected a number above 0"),
        (lambda: thetas.FollowRate(0, ExponentialDecay(1, 1, 1)), "theta=0: "),
        (lambda: fda_tf.VarianceThreshold(-1.0), "theta=-1.0: expected a numb"),
        (lambda: fda_tf.VarianceThreshold(None), "theta=None: expected a numb"),
    ],
)
def test_impossible_thetas_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
