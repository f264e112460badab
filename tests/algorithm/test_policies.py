"""When policies ask for a synchronisation."""

import math
from fractions import Fraction

import keras
import pytest
import tensorflow as tf

import fda_tf
from fda_tf.algorithm import policies


def due(policy, steps, epoch=None):
    """Returns the steps at which a policy is due, by the clock alone."""
    found, last = [], 0
    for step in range(1, steps + 1):
        if policy.due(policies.Clock(step, step - last, epoch)):
            found.append(step)
            last = step
    return found


def test_every_step():
    assert due(fda_tf.Every(steps=1), 4) == [1, 2, 3, 4]


def test_every_h_steps():
    assert due(fda_tf.Every(steps=3), 10) == [3, 6, 9]


@pytest.mark.parametrize(
    ("epochs", "epoch"),
    [(1, Fraction(75, 10)), (2, Fraction(1875, 10)), (0.5, Fraction(9))],
)
def test_every_e_epochs_is_after_step_ceil(epochs, epoch):
    every = Fraction(epochs) * epoch
    expected = [math.ceil(i * every) for i in range(1, 6)]
    steps = expected[-1]
    assert due(fda_tf.Every(epochs=epochs), steps, epoch) == expected


def test_epochs_shorter_than_a_step_are_every_step():
    assert due(fda_tf.Every(epochs=1), 3, Fraction(1, 4)) == [1, 2, 3]


def test_thresholds_have_no_clock_but_a_cap():
    assert due(fda_tf.VarianceThreshold(1.0), 50) == []
    capped = fda_tf.VarianceThreshold(1.0, max_interval=fda_tf.Every(steps=20))
    assert due(capped, 50) == [20, 40]


def test_unknown_epochs_are_refused():
    with pytest.raises(ValueError, match=r"Use Every\(steps=...\)"):
        due(fda_tf.Every(epochs=1), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fda_tf.Every(), "one of them"),
        (lambda: fda_tf.Every(steps=2, epochs=1), "one of them"),
        (lambda: fda_tf.Every(steps=0), "at least 1"),
        (lambda: fda_tf.Every(steps=1.5), "whole number"),
        (lambda: fda_tf.Every(epochs=0), "above 0"),
        (lambda: fda_tf.Every(epochs=math.nan), "above 0"),
        (lambda: fda_tf.VarianceThreshold(-1.0), "theta=-1.0: expected"),
        (lambda: fda_tf.VarianceThreshold(math.nan), "theta=nan: expected"),
        (lambda: fda_tf.VarianceThreshold("1"), "Unknown rule '1' for theta"),
        (lambda: fda_tf.VarianceThreshold(1, "sum"), "Unknown monitor 'sum'"),
        (
            lambda: fda_tf.VarianceThreshold(1, max_interval=0.5),
            "max_interval=0.5: expected",
        ),
    ],
)
def test_impossible_policies_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_qsr_makes_rounds_longer_as_the_rate_falls():
    rates = [0.4] * 6 + [0.1] * 40 + [0.05] * 60

    class Steps(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return tf.gather(rates, step)

    policy = fda_tf.policies.QuadraticRule(Steps(), growth=0.2, least=2)
    # (0.2 / 0.4)^2 = 0.25, so H0 = 2; then (0.2 / 0.1)^2 = 4; then 16.
    early = [2, 4, 6]
    middle = [10, 14, 18, 22, 26, 30, 34, 38, 42, 46]
    assert due(policy, 100) == [*early, *middle, 62, 78, 94]


def test_post_local_begins_with_every_step():
    policy = fda_tf.policies.PostLocal(first=3, then=fda_tf.Every(steps=4))
    assert due(policy, 15) == [1, 2, 3, 7, 11, 15]


def test_rules_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match="rate=0: expected a number above 0"):
        fda_tf.policies.QuadraticRule(rate=0, growth=1)
    with pytest.raises(ValueError, match="least=0: expected a whole number"):
        fda_tf.policies.QuadraticRule(rate=0.1, growth=1, least=0)
    with pytest.raises(ValueError, match="then=4: expected fda_tf.Every"):
        fda_tf.policies.PostLocal(first=3, then=4)
