"""Theta that sets itself, on synthetic drifts and in training."""

from fractions import Fraction

import keras
import numpy as np
import pytest
import reference
import small
import tensorflow as tf
from runs import BATCH, STEPS, simulate

import fda_tf
from fda_tf.algorithm import thetas
from fda_tf.core import loop as training
from fda_tf.data import sources
from fda_tf.workers import simulated

ExponentialDecay = keras.optimizers.schedules.ExponentialDecay


JOB = thetas.Job(parameters=1000, workers=5, epoch=Fraction(20))
NO_EPOCH = JOB._replace(epoch=None)
FIRST = 30  # steps of the first round of `Auto`


def rounds_of(schedule, variance, steps, job=JOB):
    """Returns (interval, theta) of each round; the variance is a function.

    `variance(step, t)` is the variance t steps after a synchronisation.
    """
    return many_rounds_of(schedule, variance, steps, job)[0]


def many_rounds_of(schedule, variance, steps, job=JOB, count=1):
    """Returns the same for each of `count` drifts; the variance is a vector."""
    theta = np.full(count, schedule.start(job), np.float32)
    last, rounds = np.zeros(count, np.int64), [[] for _ in range(count)]
    after_step = tf.function(schedule.after_step)
    for step in range(1, steps + 1):
        estimate = np.float32(variance(step, step - last) * np.ones(count))
        met = estimate > theta
        if met.any():
            for i in np.nonzero(met)[0]:
                rounds[i].append((step - last[i], float(theta[i])))
            new = schedule.synchronised(theta, step, step - last, estimate)
            theta, last = np.where(met, new, theta), np.where(met, step, last)
        now = tf.constant(step, tf.int64)
        theta = after_step(
            tf.constant(theta), now, tf.constant(step - last)
        ).numpy()
    return [np.array(found).reshape(-1, 2) for found in rounds]


POWERS, SCALES = np.meshgrid([0.75, 1.0, 1.5, 2.0], [1e-12, 1.0, 1e12])
POWERS, SCALES = POWERS.ravel(), SCALES.ravel()


def growing(step, t):
    """Returns the variance of drifts that grow as powers of the time."""
    return SCALES * t**POWERS


@pytest.mark.parametrize("goal", [4, 25])
def test_the_interval_comes_to_its_goal(goal):
    for rounds in many_rounds_of(
        thetas.TargetInterval(goal), growing, 40 * goal, count=POWERS.size
    ):
        settled = rounds[len(rounds) // 2 :, 0]
        assert goal - 1 <= settled.mean() <= goal + 1
        assert np.all(np.abs(settled - goal) <= 1)  # it does not swing


def test_the_interval_is_held_when_drifts_are_noisy():
    random, goal = np.random.default_rng(0), 20
    noise = random.lognormal(0, 0.5, size=4000)
    rounds = rounds_of(
        thetas.TargetInterval(goal), lambda step, t: t * noise[step], 3900
    )
    assert 0.7 * goal < rounds[len(rounds) // 4 :, 0].mean() < 1.3 * goal


def test_the_first_round_ends_by_the_clock():
    schedule = thetas.TargetInterval(25)
    rounds = rounds_of(schedule, lambda step, t: 3.0 * t, 60)
    # It takes H steps; its variance, 3 H, is theta: the next takes one more.
    assert rounds.tolist() == [[25, 0.0], [26, 75.0]]


@pytest.mark.parametrize("drop", [1e-2, 1e-4])
def test_a_round_is_as_long_as_ever_after_the_learning_rate_dropped(drop):
    goal = 10  # a rate of a tenth: a hundredth of the variance
    rounds = rounds_of(
        thetas.TargetInterval(goal),
        lambda step, t: t * (drop if step > 1000 else 1.0),
        2000,
    )[:, 0]
    (late,) = np.nonzero(rounds > goal + 1)
    # One round waits for twice the goal; from then on theta is right.
    assert len(late) == 1 and rounds[late[0]] == 2 * goal
    assert np.all(np.abs(rounds[late[0] + 1 :] - goal) <= 1)


@pytest.mark.parametrize("rise", [1e2, 1e6])
def test_theta_catches_up_with_drifts_that_grow(rise):
    goal = 10
    rounds = rounds_of(
        thetas.TargetInterval(goal, most=4.0),
        lambda step, t: t * (rise if step > 1000 else 1.0),
        2000,
    )[:, 0]
    soon = rounds[rounds < goal - 1]
    # By (H / t)^(1/2), at most 4, a round, until (H / t) is 1 within a step.
    assert len(soon) <= np.log(rise) / np.log(10**0.5) + 4
    assert np.all(np.abs(rounds[-20:] - goal) <= 1)


def test_models_that_have_not_parted_do_not_meet():
    goal, still = 10, range(101, 201)
    rounds = rounds_of(
        thetas.TargetInterval(goal),
        lambda step, t: 0.0 if step in still else t,
        300,
    )
    ends = np.cumsum(rounds[:, 0])
    assert not any(end in still for end in ends)
    assert still.stop in ends  # theta is 0 after 2 H steps: the first drift
    assert np.all(np.abs(rounds[ends > 220, 0] - goal) <= 1)


def test_drifts_that_saturate_keep_rounds_in_their_bounds():
    # A variance that no longer grows at H tells nothing of the interval.
    goal = 20
    rounds = rounds_of(
        thetas.TargetInterval(goal), lambda step, t: 1 - np.exp(-t / 3), 2000
    )[:, 0]
    assert rounds.max() <= 2 * goal and goal / 2 <= rounds.mean() <= 2 * goal


@pytest.mark.parametrize("workers", [2, 5])
def test_the_interval_is_held_on_random_walks(workers):
    random, goal = np.random.default_rng(1), 20
    drifts = np.zeros((workers, 40))

    def variance(step, t):
        drifts[:] = random.normal(size=drifts.shape) + (t > 1) * drifts
        return drifts.var(0).sum()

    rounds = rounds_of(thetas.TargetInterval(goal), variance, 3000)[5:, 0]
    assert 0.85 * goal < rounds.mean() < 1.15 * goal
    assert rounds.max() <= 2 * goal


def test_divergence_raises_theta_by_bounded_steps():
    schedule = thetas.TargetInterval(10, gain=1.0, most=4.0)
    rounds = rounds_of(
        schedule, lambda step, t: 1e5 ** (step - 30) if step > 30 else t, 37
    )
    raised = rounds[rounds[:, 0] == 1, 1]
    assert len(raised) >= 4  # after each step, for a while
    np.testing.assert_allclose(raised[1:] / raised[:-1], 4.0, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
@pytest.mark.parametrize("theta", [0.0, np.inf])
@pytest.mark.parametrize(
    "schedule", [thetas.TargetInterval(10), thetas.FdaOpt(2), thetas.Auto()]
)
def test_a_variance_of_no_use_leaves_the_next_round_to_the_clock(
    schedule, theta, bad
):
    schedule.start(JOB)
    theta = tf.constant(theta)
    new = schedule.synchronised(theta, 10, 10, tf.constant(bad))
    assert float(new) == np.inf
    assert float(schedule.after_step(new, 10, 0)) == np.inf


def test_a_theta_that_is_known_is_kept_without_a_check():
    schedule = thetas.TargetInterval(10)  # a cap ends rounds between checks
    new = schedule.synchronised(tf.constant(3.0), 10, 10, tf.constant(np.nan))
    assert float(new) == 3.0


def test_a_theta_beyond_float32_begins_anew():
    schedule, theta = thetas.TargetInterval(100), tf.constant(1e38)
    new = schedule.synchronised(theta, 1, 1, tf.constant(1.0))
    assert float(new) == np.inf


def test_epochs_are_steps():
    schedule = thetas.TargetInterval(epochs=1)
    rounds = rounds_of(schedule, lambda step, t: t**1.2, 1000)[:, 0]
    assert rounds[0] == 20 and np.all(np.abs(rounds - 20) <= 1)


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_fda_opt_comes_to_half_of_its_epochs(epochs):
    goal = epochs / 2 * 20
    for rounds in many_rounds_of(
        thetas.FdaOpt(epochs), growing, int(30 * goal), count=POWERS.size
    ):
        rounds = rounds[:, 0]
        assert rounds[0] == 20  # the first round is one epoch
        assert rounds.max() <= max(20, 2 * goal)
        assert np.all(np.abs(rounds[len(rounds) // 2 :] - goal) <= 2)


def test_fda_opt_is_its_formula():
    rule = thetas.FdaOpt(epochs=6)
    rule.start(JOB)
    # e = 50 / 20 epochs; (6 / 2) / 2.5 x 7
    new = rule.synchronised(tf.constant(9.0), 500, 50, tf.constant(7.0))
    np.testing.assert_allclose(float(new), 8.4, rtol=1e-6)


def test_a_budget_of_bytes_is_kept():
    one = 8 * JOB.workers * JOB.parameters  # bytes of a synchronisation
    rounds = rounds_of(
        thetas.TargetBytes(per_step=one / 16), lambda step, t: t**1.3, 5000
    )
    np.testing.assert_allclose(len(rounds) * one / 5000, one / 16, rtol=0.07)


def test_a_budget_of_bytes_is_kept_in_training():
    run = simulate(
        fda_tf.VarianceThreshold(thetas.TargetBytes(per_step=208), "exact"),
        steps=3 * STEPS,
    )
    # 8 x 4 workers x 39 weights = 1248 bytes: one in six steps.
    spent = run.rows[-1]["model_bytes"] / (3 * STEPS)
    assert 0.85 * 208 < spent < 1.15 * 208


def test_a_goal_is_met_in_training():
    goal = 6
    run = simulate(
        fda_tf.VarianceThreshold(thetas.TargetInterval(goal), "exact"),
        steps=3 * STEPS,
    )
    intervals = [s.interval for s in run.syncs if s.cause == "threshold"]
    assert intervals[0] == goal  # by the clock
    assert goal - 1 <= np.mean(intervals[len(intervals) // 2 :]) <= goal + 1
    assert np.all(run.theta[: goal - 1] == np.inf) and run.theta[goal - 1] == 0
    assert np.all(np.isfinite(run.theta[goal:]))


def test_auto_doubles_its_rounds_up_to_four_epochs():
    for rounds in many_rounds_of(
        thetas.Auto(), growing, 2400, count=POWERS.size
    ):
        rounds = rounds[:, 0]
        goals = np.clip(np.cumsum(rounds) - rounds, FIRST, 80)
        assert rounds[0] == FIRST
        assert np.all((rounds >= goals / 2) & (rounds <= 2 * goals))
        assert np.all(np.abs(rounds[len(rounds) // 2 :] - 80) <= 2)


def test_auto_without_epochs_meets_as_often_as_the_steps_double():
    rounds = rounds_of(thetas.Auto(), lambda step, t: t, 2**12, NO_EPOCH)
    ends = np.cumsum(rounds[:, 0])
    np.testing.assert_allclose(ends, 64 * 2.0 ** np.arange(len(ends)), rtol=0.1)
    assert len(ends) in (6, 7)


@pytest.mark.parametrize("drop", [1e-2, 1e-8])
def test_auto_goes_on_as_ever_after_the_learning_rate_dropped(drop):
    rounds = rounds_of(
        thetas.Auto(), lambda step, t: t * (drop if step > 1000 else 1), 3000
    )[:, 0]
    (late,) = np.nonzero(rounds > 82)
    assert len(late) == 1 and rounds[late[0]] == 160  # twice four epochs
    assert np.all(np.abs(rounds[late[0] + 1 :] - 80) <= 2)


def test_auto_is_bounded_whatever_the_drifts():
    random = np.random.default_rng(0)
    wild = random.lognormal(0, 4, size=5001)
    rounds = rounds_of(thetas.Auto(), lambda step, t: t * wild[step], 5000)[
        :, 0
    ]
    assert rounds.max() <= 160 and 40 < rounds.mean() < 160


def test_auto_stays_below_its_cap():
    """The variance of each step is given; cap = ||w_0||^2 / L."""
    job = JOB._replace(squared_norm=64.0, matrices=8)
    auto = thetas.Auto()
    theta = tf.constant(auto.start(job))
    assert float(theta) == 8  # and not infinite, for the first round
    step = tf.constant(9, tf.int64)
    # Of 30 steps, the first round's goal, 9 are done: nothing changes.
    assert float(auto.after_step(theta, step, step)) == 8
    # The variance is above 8: they meet; a longer round is wanted, in vain.
    auto.averaged(tf.constant(80.0))
    theta = auto.synchronised(theta, step, step, tf.constant(8.5))
    assert float(theta) == 10
    # Drifts that shrink: at the cap a round takes H steps, below it 2 H.
    for start, last in ((10.0, 29), (9.0, 59)):
        for interval, rings in ((last - 1, False), (last, True)):
            done = tf.constant(interval, tf.int64)
            after = auto.after_step(tf.constant(start), 9 + done, done)
            assert float(after) == (0 if rings else start)
    # What is measured below the cap is a theta as ever.
    theta = auto.synchronised(tf.constant(0.0), 39, 30, tf.constant(2.0))
    assert float(theta) == pytest.approx(2.0 * 39 / 30)
    # A single matrix has no cap, nor has a model that begins at 0.
    for changes in ({"matrices": 1}, {"squared_norm": 0.0}):
        assert thetas.Auto().start(job._replace(**changes)) == np.inf


def test_auto_in_training():
    sync = fda_tf.VarianceThreshold("auto", "exact")
    assert "theta=Auto()" in repr(sync)
    run = simulate(sync, steps=4 * STEPS)
    rounds = np.array([s.interval for s in run.syncs[:-1]])
    # An epoch has 240 / (4 x 8) = 7.5 steps.
    assert rounds[0] == 12 and rounds.max() <= 60
    assert 15 < rounds[3:].mean() < 45


def test_unlike_machines_have_the_same_cap():
    """Each computes it from its own w_0: the fixed tree's, to the last bit."""
    sync = fda_tf.VarianceThreshold("auto", "naive")
    source = sources.ArraySource(small.shards(2), BATCH)
    home = simulated.Simulation(small.rich_model, source, 2)
    loop = training.Loop(home, sync, None)
    layers = np.float32(2)
    assert loop.theta.numpy() == reference.squared_norm(loop.w0) / layers
    loop.run(3)
    for _ in range(4):
        for rows in home._weights:  # models that are nowhere near
            random = np.random.default_rng(int(loop.syncs))
            rows.assign(random.normal(size=rows.shape))
        assert bool(loop.synchronise())
        (cap,) = loop.variables()["theta"][1:]
        assert cap.numpy() == reference.squared_norm(loop.w0) / layers


def test_auto_says_whose_drift_diverged():
    def build():
        return small.linear_model(optimizer=keras.optimizers.SGD(1e30))

    with pytest.raises(FloatingPointError, match="drift of worker 0, 1, 2, 3"):
        simulate(fda_tf.VarianceThreshold("auto"), build)


def test_fit_leaves_the_longest_round_to_auto():
    epoch = fda_tf.Every(epochs=1)

    def longest(*args, **options):
        return fda_tf.FDA(*args, **options).algorithm.sync.max_interval

    assert longest("auto") is None
    assert longest("auto", max_interval=epoch) == epoch
    assert longest(1.5) == longest("fl") == epoch


@pytest.mark.parametrize(
    "theta",
    ["auto", thetas.TargetInterval(9), thetas.TargetBytes(9), thetas.FdaOpt()],
)
def test_what_reads_the_variance_refuses_max(theta):
    with pytest.raises(ValueError, match="max.* tells no variance"):
        fda_tf.VarianceThreshold(theta, "max")


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
        (lambda: thetas.TargetInterval(), "takes steps= or epochs=, one of"),
        (lambda: thetas.TargetInterval(epochs=0), "a number of epochs above 0"),
        (lambda: thetas.TargetBytes(0), "expected a number of bytes above 0"),
        (lambda: thetas.TargetBytes(1e9).start(JOB), "Give that much or less"),
        (lambda: thetas.TargetBytes(np.inf).start(JOB), "send 40000 bytes a"),
        (lambda: thetas.FdaOpt(0), "a number of epochs above 0"),
        (lambda: thetas.FdaOpt(np.inf), "a number of epochs above 0"),
        (lambda: thetas.FdaOpt().start(NO_EPOCH), "how many steps an epoch"),
        (
            lambda: thetas.TargetInterval(epochs=1).start(NO_EPOCH),
            "Use TargetInterval[(]steps=...[)]",
        ),
        (lambda: thetas.PerParameter(-1), "c=-1: expected a number above 0"),
        (lambda: thetas.FollowRate(0, ExponentialDecay(1, 1, 1)), "theta=0: "),
        (lambda: fda_tf.VarianceThreshold(-1.0), "theta=-1.0: expected a numb"),
        (lambda: fda_tf.VarianceThreshold(None), "theta=None: expected a numb"),
    ],
)
def test_impossible_thetas_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
