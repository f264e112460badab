"""The check: what the workers exchange after a step to learn whether to meet.

    project the drift -> mean over workers -> estimate > theta?

It costs a round trip, and for a sketch as many bytes as a small model. Three
things make it cheaper, and none changes what a synchronisation does:

* the **cascade** sends the squared norm alone until it exceeds theta once in
  the round, then a few floats more, and the whole state only when a bound by
  those exceeds theta. No estimate is above its bounds, so nothing is decided
  otherwise than with the whole state at once;
* **check_every** leaves out steps;
* **overlap** sends the state of a step while the next one computes.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import tensorflow as tf

from fda_tf.algorithm.policies import VarianceThreshold
from fda_tf.tensors import vectors
from fda_tf.workers.base import Workers

# Bounds are held against theta with this share of the norm to spare, as sums
# in another order round otherwise: by less than it, up to K = 10,000.
SLACK = 1e-3


class Verdict(NamedTuple):
    """What a check says of a step."""

    estimate: tf.Tensor  # float32: of the variance; NaN without a check
    crossed: tf.Tensor  # bool: whether it exceeds theta
    finite: tf.Tensor  # bool: whether all drifts are
    checked: tf.Tensor  # bool: whether there was a check


def none() -> Verdict:
    """Returns what is said of a step without a check."""
    no, yes = tf.constant(False), tf.constant(True)
    return Verdict(tf.constant(math.nan), crossed=no, finite=yes, checked=no)


class VarianceCheck:
    """Asks the workers for their states, and the monitor what they mean.

    Args:
      sync: the policy, with its monitor.
      workers: the K workers.
      w0: the variables that hold the last synchronised model.
      epoch: steps in a global epoch, if known.
    """

    def __init__(
        self,
        sync: VarianceThreshold,
        workers: Workers,
        w0: list,
        epoch: Fraction | None = None,
    ):
        self.monitor, self.workers, self._w0 = sync.monitor, workers, w0
        self._every = sync.check_every.in_steps(epoch)
        self._overlap = sync.overlap
        self.monitor.build(workers.worker.weights.layout.bucket_sizes)
        self._cascade = self.monitor.cascade and not sync.overlap
        # Of this round: whether the norm has exceeded theta, the last state
        # was a whole one, theta is near; the interval at which the next check
        # is; and whether a state is on its way.
        self._crossed = _variable(False, tf.bool, "crossed")
        self._whole = _variable(False, tf.bool, "whole")
        self._near = _variable(False, tf.bool, "near")
        self._next = _variable(self._every.first_check, tf.int64, "next_check")
        self._held = _variable(False, tf.bool, "held")
        room = [workers.here, self.monitor.floats if self._overlap else 0]
        self._states = _variable(tf.zeros(room), tf.float32, "states")
        # What has arrived in a step that is not over: if the step fails, it
        # is not to be sent again.
        self._arrived = _variable(False, tf.bool, "arrived")
        self._mean = _variable(tf.zeros(room[1]), tf.float32, "mean_state")

    @property
    def variables(self) -> list[tf.Variable]:
        """What it keeps: for checkpoints."""
        cascade = [self._crossed, self._whole, self._near]
        return [*cascade, self._next, self._held, self._states]

    def begin(self, theta: tf.Tensor) -> Verdict:
        """Says what the state of the last step means, when it overlaps."""
        if not self._overlap:
            return none()

        def travel():
            held = self._states.read_value()
            self._mean.assign(self.workers.mean_of(held, "state"))
            self._arrived.assign(True)
            return self._mean.read_value()

        def arrive():
            has = self._arrived.read_value()
            mean_state = tf.cond(has, self._mean.read_value, travel)
            return self._verdict(mean_state, theta)

        return tf.cond(self._held.read_value(), arrive, none)

    def end(
        self, theta: tf.Tensor, interval: tf.Tensor, begun: Verdict
    ) -> Verdict:
        """Says whether to synchronise now, after a local step.

        Args:
          theta: the threshold.
          interval: steps since the last synchronisation, this one included.
          begun: what `begin` returned before the step.
        """

        def send():
            self._next.assign(self._every.next_check(interval, None, None))
            self._states.assign(self.workers.each(self._state(theta)))
            return self._held.assign(True)

        def look():
            norm, mean_state = self._mean_state(theta)
            self._next.assign(self._every.next_check(interval, norm, theta))
            return self._verdict(mean_state, theta)

        is_next = interval >= self._next.read_value()
        if not self._overlap:
            return tf.cond(is_next, look, lambda: begun)
        self._arrived.assign(False)
        tf.cond(is_next, send, lambda: self._held.assign(False))
        return begun

    @property
    def is_cut_off(self) -> bool:
        """Whether a step that failed has ended a state's way, too; eager.

        The other workers cannot be met then where they are.
        """
        return bool(self._held) and not bool(self._arrived)

    def synchronised(self) -> None:
        """Begins a round: what is on its way is of no use any more."""
        for flag in (self._crossed, self._whole, self._near):
            flag.assign(False)
        self._held.assign(False)
        self._next.assign(self._every.first_check)

    def _verdict(self, mean_state, theta) -> Verdict:
        return Verdict(
            self.monitor.estimate(mean_state),
            self.monitor.exceeds(mean_state, theta),
            tf.reduce_all(tf.math.is_finite(mean_state)),
            tf.constant(True),
        )

    def _mean_state(self, theta):
        """Returns (the mean ||u||^2, the mean state).

        In place of the state there may be [an upper bound, 0, ...] that will
        do.
        """
        if not self._cascade:
            mean_state = self._exchange(lambda state: state, theta)
            return mean_state[0], mean_state
        crossed, near = self._crossed.read_value(), self._near.read_value()
        norm, bound, inside = tf.cond(
            crossed,
            lambda: tf.cond(near, _unknown, lambda: self._by_short(theta)),
            lambda: self._by_norm(theta),
        )

        def it_will_do():
            self._whole.assign(False)
            rest = tf.zeros([self.monitor.floats - 1])
            return norm, tf.concat([bound[None], rest], 0)

        def ask_for_all():
            mean_state = self._exchange(lambda state: state, theta)
            self.monitor.learn(mean_state)
            self._whole.assign(True)
            return mean_state[0], mean_state

        return tf.cond(inside, it_will_do, ask_for_all)

    def _by_norm(self, theta):
        """Returns (the mean ||u||^2, it as the bound, whether it will do)."""
        (first,) = self.workers.mean(self._norm, "state")
        norm = first[0]
        inside = norm <= theta * (1 - SLACK)  # not if it is NaN
        self._crossed.assign(tf.where(inside, False, True))
        return norm, norm, inside

    def _by_short(self, theta):
        """Returns (the mean ||u||^2, a bound, whether that will do)."""
        part = self._exchange(self.monitor.short, theta)
        norm, bound = part[0], self.monitor.bound(part)
        inside = bound + SLACK * norm <= theta
        # Twice in a row: theta is near, and another round trip is not worth
        # the bytes.
        twice = self._whole.read_value() & tf.where(inside, False, True)
        self._near.assign(twice)
        return norm, bound, inside

    def _exchange(self, part, theta):
        state = self._state(theta)
        return self.workers.mean(lambda s: [part(state(s))], "state")[0]

    def _norm(self, snapshot):
        drift = vectors.difference(snapshot.weights, self._w0)
        return [vectors.squared_norm(drift)[None]]

    def _state(self, theta):
        def state(snapshot):
            drift = vectors.difference(snapshot.weights, self._w0)
            if not self.monitor.one_pass:
                drift = tuple(drift)
            sent = self.monitor.state(drift, theta)
            if sent.shape != [self.monitor.floats]:
                raise ValueError(
                    f"{self.monitor}.state returned the shape {sent.shape}, "
                    f"but its `floats` is {self.monitor.floats}. Let them "
                    "agree: the bytes are counted by them."
                )
            return sent

        return state


def _unknown():
    """Returns what is known before any exchange, as `Check._by_norm` does."""
    nan = tf.constant(math.nan)
    return nan, nan, tf.constant(False)


def _variable(value, dtype, name) -> tf.Variable:
    return tf.Variable(value, dtype=dtype, trainable=False, name=name)
