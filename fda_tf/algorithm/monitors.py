"""What the workers exchange to bound how far their models have parted.

The drift of worker k is u_k = w_k - w_0, and the model variance is

    Var = mean_k ||u_k||^2 - ||mean_k u_k||^2.

A monitor sends, instead of u_k, a small **state**: the squared norm and a
linear projection P u_k. As P(mean u) = mean P u, the mean of the states tells
mean ||u||^2 exactly and ||mean u||^2 from below. A monitor of your own is a
subclass with `state` and `estimate`; see `Monitor`.

Source: Theologitis et al., Federated Dynamic Averaging, EDBT 2025, section 3.
"""

import abc
from collections.abc import Sequence

import tensorflow as tf

from fda_tf import validate
from fda_tf.algorithm import sketch
from fda_tf.algorithm.part import Part
from fda_tf.tensors import vectors
from fda_tf.tensors.vectors import Vector


class Monitor(Part, abc.ABC):
    """Abstract base: a state on each worker, an estimate from their mean.

    `state` runs on every worker, and what it returns is what travels. The
    rest reads the mean over the workers, which is the same on all of them;
    sums of many numbers there are `fda_tf.tensors.vectors.sum_alike`'s.

    Example:
      A monitor of one's own: the variance of the first bucket's mean alone.

      >>> class MeanMonitor(Monitor):
      ...     floats = 2
      ...     def state(self, drift, theta):
      ...         mean = tf.reduce_mean(drift[0])
      ...         return tf.stack([mean * mean, mean])
      ...     def estimate(self, mean_state):
      ...         return mean_state[0] - mean_state[1] ** 2
      >>> monitor = MeanMonitor()
      >>> states = [monitor.state([tf.constant([a])], 1.0) for a in (1.0, 3.0)]
      >>> float(monitor.estimate((states[0] + states[1]) / 2))
      1.0
    """

    floats = 1  # numbers in a state
    cascade = False  # whether to send less first; see `SketchMonitor`
    one_pass = False  # whether `state` takes a drift as `vectors.Lazy`, once
    variables: Sequence[tf.Variable] = ()  # what it learns: for checkpoints

    def build(self, sizes: Sequence[int]) -> None:
        """Makes tables for drifts whose buckets have these sizes."""
        del sizes  # the simplest monitors need none

    @abc.abstractmethod
    def state(self, drift: Vector, theta: tf.Tensor) -> tf.Tensor:
        """Returns a worker's state, float32 [floats].

        Ours have the squared norm at index 0, then the projection. A drift
        that is NaN or infinite should make the state so: that is how the
        loop finds it.
        """

    @abc.abstractmethod
    def estimate(self, mean_state: tf.Tensor) -> tf.Tensor:
        """Returns the estimate of the model variance, a scalar."""

    def exceeds(self, mean_state: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
        """Returns whether to synchronise, a boolean scalar."""
        return self.estimate(mean_state) > theta

    def short(self, state: tf.Tensor) -> tf.Tensor:
        """Returns a part of a state, linear in it, for the cascade."""
        return state[:1]

    def bound(self, mean_short: tf.Tensor) -> tf.Tensor:
        """Returns what no estimate exceeds, from the mean of the parts."""
        return mean_short[0]

    def learn(self, mean_state: tf.Tensor) -> None:
        """Learns from a whole mean state what makes the next bound tight."""
        del mean_state

    def synchronised(self, new: Vector, old: Vector) -> None:
        """Learns that w_0 moved from `old` to `new`."""
        del new, old  # only what follows the model needs to know


class NaiveMonitor(Monitor):
    """Estimate = mean ||u||^2: never below the variance; sends 1 float.

    Example:
      >>> monitor = NaiveMonitor()
      >>> float(monitor.state([tf.constant([3.0, 4.0])], 1.0)[0])
      25.0
    """

    one_pass = True

    def state(self, drift, theta):
        return vectors.squared_norm(drift)[None]

    def estimate(self, mean_state):
        return mean_state[0]


class LinearMonitor(Monitor):
    """Estimate = mean ||u||^2 - (mean <xi, u>)^2; sends 2 floats.

    xi is the unit vector along w_0 - w_{-1}, the last two synchronised
    models; in the first round a random unit vector. When a synchronisation
    does not move w_0, xi stays.

    Args:
      seed: of the first round's xi; equal on all workers.

    Example:
      >>> monitor = LinearMonitor()
      >>> monitor.build([2])
      >>> monitor.synchronised([tf.constant([2.0, 0])], [tf.constant([0.0, 0])])
      >>> state = monitor.state([tf.constant([3.0, 4.0])], 1.0)
      >>> [float(s) for s in state], float(monitor.estimate(state))
      ([25.0, 3.0], 16.0)
    """

    floats = 2
    one_pass = True

    def __init__(self, seed: int = 0):
        self.seed = validate.seed("LinearMonitor: seed", seed)

    def build(self, sizes):
        def draw(i):
            return tf.random.stateless_normal([sizes[i]], seed=[self.seed, i])

        # Drawn twice, to hold one bucket besides xi, not all.
        norm = tf.sqrt(vectors.squared_norm(vectors.Lazy(len(sizes), draw)))
        unit = vectors.Lazy(len(sizes), lambda i: draw(i) / norm)
        self._xi = vectors.variables(unit, "xi")

    @property
    def variables(self):
        """The direction xi."""
        return self._xi

    def state(self, drift, theta):
        def along(i, bucket):
            # A tenth of the time of tensordot, a matrix product of one row.
            return tf.reduce_sum(self._xi[i] * bucket)

        return tf.stack(vectors.squared_norm_and(drift, along))

    def estimate(self, mean_state):
        return mean_state[0] - mean_state[1] ** 2

    def synchronised(self, new, old):
        move = vectors.difference(new, old)
        norm = tf.sqrt(vectors.squared_norm(move))

        def turn(i, part):
            unit, xi = tf.math.divide_no_nan(part, norm), self._xi[i]
            return xi.assign(tf.where(norm > 0, unit, xi)).read_value()[:1]

        vectors.each(move, turn)


class SketchMonitor(Monitor):
    """Estimate = mean ||u||^2 - M2(mean sketch) / (1 + eps).

    M2, the median over the sketch's rows of the row's sum of squares, is
    ||mean u||^2 within eps = 1 / sqrt(width); the division makes it a lower
    bound with high probability. Sends 1 + depth x width floats.

    With the cascade it sends less, and decides the same. Until the mean norm
    exceeds theta once in a round, it sends the norm alone: no estimate is
    above it. Then the norm and, for each row r of the sketch, one number
    <q_r, row_r>, with q_r the direction of row r in the last whole mean
    sketch. As ||row_r||^2 >= <q_r, row_r>^2 for any unit vector, and medians
    keep the order,

        estimate <= mean ||u||^2 - median_r <q_r, row_r>^2 / (1 + eps),

    and the whole sketch follows only when this bound exceeds theta. The mean
    drift turns slowly, so the bound is tight for many steps.

    Args:
      depth: rows, odd.
      width: numbers in a row, at least 2.
      seed: of the sketch; equal on all workers.
      cascade: whether to send the whole sketch only when it can matter.

    Raises:
      ValueError: for a depth that is not odd or a width below 2.
    """

    one_pass = True

    def __init__(
        self,
        depth: int = 5,
        width: int = 250,
        seed: int = 0,
        cascade: bool = True,
    ):
        self.depth = validate.count("SketchMonitor: depth", depth, "rows")
        self.width = validate.count("SketchMonitor: width", width, "numbers")
        self.seed = validate.seed("SketchMonitor: seed", seed)
        sketch.AMSSketch(1, depth, width, seed)  # refuses the rest
        self.cascade = bool(cascade)

    @property
    def floats(self):
        """Numbers in a state: the norm and the sketch."""
        return 1 + self.depth * self.width

    def build(self, sizes):
        # Each bucket has a sketch of its own seed; their sum is linear too.
        self._sketches = [
            sketch.AMSSketch(size, self.depth, self.width, [self.seed, i])
            for i, size in enumerate(sizes)
        ]
        directions = tf.zeros([self.depth, self.width])
        self._directions = tf.Variable(directions, trainable=False, name="q")

    @property
    def variables(self):
        """The directions q of the sketch's rows."""
        return [self._directions]

    def state(self, drift, theta):
        norm, rows = vectors.squared_norm_and(
            drift, lambda i, bucket: self._sketches[i].sketch(bucket)
        )
        return tf.concat([norm[None], tf.reshape(rows, [-1])], 0)

    def estimate(self, mean_state):
        rows = self._rows(mean_state)
        eps = self.width**-0.5
        return mean_state[0] - sketch.squared_norm(rows) / (1.0 + eps)

    def short(self, state):
        along = tf.reduce_sum(self._directions * self._rows(state), 1)
        return tf.concat([state[:1], along], 0)

    def bound(self, mean_short):
        # `squared_norm` of rows of one number is the median of their squares.
        least = sketch.squared_norm(mean_short[1:, None])
        return mean_short[0] - least / (1.0 + self.width**-0.5)

    def learn(self, mean_state):
        rows = self._rows(mean_state)
        self._directions.assign(tf.math.l2_normalize(rows, 1, epsilon=1e-30))

    def _rows(self, state):
        return tf.reshape(state[1:], [self.depth, self.width])


class ExactMonitor(Monitor):
    """Estimate = the variance itself; sends d + 1 floats: for studies only."""

    def build(self, sizes):
        self._size = sum(sizes)

    @property
    def floats(self):
        """Numbers in a state: the norm and the drift."""
        return 1 + self._size

    def state(self, drift, theta):
        return tf.concat([vectors.squared_norm(drift)[None], *drift], 0)

    def estimate(self, mean_state):
        return mean_state[0] - vectors.squared_norm_alike([mean_state[1:]])


class MaxMonitor(Monitor):
    """Synchronises when any worker's ||u_k||^2 exceeds theta; sends a flag.

    The flag is not(||u||^2 <= theta), so that NaN counts as a crossing. The
    estimate is the share of the workers that raised it.

    Source: Kamp et al., Efficient Decentralized Deep Learning by Dynamic
    Model Averaging, ECML 2018.
    """

    one_pass = True

    def state(self, drift, theta):
        # Not a logical_not: grappler would turn not(a <= b) into a > b.
        inside = vectors.squared_norm(drift) <= theta
        return tf.where(inside, 0.0, 1.0)[None]

    def estimate(self, mean_state):
        return mean_state[0]

    def exceeds(self, mean_state, theta):
        return mean_state[0] > 0


MONITORS = {
    "naive": NaiveMonitor,
    "linear": LinearMonitor,
    "sketch": SketchMonitor,
    "exact": ExactMonitor,
    "max": MaxMonitor,
}


def get(monitor: str | Monitor) -> Monitor:
    """Returns the monitor of a name in `MONITORS`, or the one given.

    Raises:
      ValueError: for a name that is not in `MONITORS`.

    Example:
      >>> get("naive")
      NaiveMonitor()
    """
    return validate.part(
        "monitor", monitor, MONITORS, "fda_tf.monitors.Monitor"
    )
