"""When policies ask for a synchronisation."""

import math
from fractions import Fraction

import pytest

import fda_tf
from fda_tf import sync


def due(policy, steps, epoch=None):
    """Returns the steps at which a policy is due, by the clock alone."""
    found, last = [], 0
    for step in range(1, steps + 1):
        if policy.due(sync.Clock(step, step - last, epoch)):
            found.append(step)
            last = step
    return found


def test_every_step():
    assert due(fda_tf.EveryStep(), 4) == [1, 2, 3, 4]


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
    capped = fda_tf.VarianceThreshold(1.0, cap=fda_tf.Every(steps=20))
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
        (lambda: fda_tf.VarianceThreshold(1, cap=5), "cap=5: expected"),
    ],
)
def test_impossible_policies_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
