"""The AMS sketch: a linear map of a vector to a few numbers that keep its norm.

A row of the sketch gives every coordinate a random sign and one of W cells;
each cell holds the signed sum of its coordinates. The row's sum of squares is
then the squared norm in the mean, and the median of a few rows rarely errs
(Alon, Matias, Szegedy 1996; in FDA: Theologitis et al. 2025, section 3).

**Construction.** The vector is cut into blocks of W (= width) coordinates, the
blocks into T groups of Q = min(W, number of blocks). In row r, group t is
rotated by o[t, r] blocks: its block b has the place q = b - o[t, r] mod Q.
Column c of that block has the sign s[t, q, r] h[t, c] and the cell
c + p[r, q] mod W. All signs and rotations are independent and uniform, and
p[r] holds Q distinct random residues mod W. Since the groups share p, a row is
a weighted sum over the groups, then one cyclic shift for each place: nothing
is hashed or scattered, and the tables hold (depth + 4) / W bytes for each
coordinate.

**Why a row is an AMS row.** Coordinates in one block never meet in a cell. For
two blocks in one group the shifts differ by a uniform residue other than 0, so
coordinates in unlike columns meet with probability 1/(W-1), in like columns
never. Two blocks in unlike groups (then Q = W) have the same place with
probability 1/W, and their like columns meet; else they are as two blocks of one
group. So any two of their coordinates meet with probability exactly 1/W.

Coordinates that meet lie in blocks B, B' whose signs s are independent, so
E[sum of squares] = ||v||^2 exactly. The variance is the sum over the pairs of
blocks of 4 E[(sum of h h' v v' over coordinates of B and B' that meet)^2], and
E over h leaves the squares: v^2 v'^2 times the probability of meeting. Only in
one group and at shift W/2 do the columns (c, c + W/2) and (c + W/2, c) share
their signs and count twice. Like columns, which never meet there, outweigh
that: with u[c] = sum of v^2 in column c of the group, sum over c of
u[c] u[c + W/2] <= sum of u[c]^2. So

    Var(row's sum of squares) <= 2/(W-1) ||v||^4    for every vector v,

what an ideal, 4-wise independent row has. Only h is common to the rows; given
h they are independent, with equal means.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fda_tf.tensors import vectors

# Groups that one compiled loop nest adds up, at least, when there are more: it
# then touches the accumulator once for all of them. Below 16 XLA chooses other
# loops, three times slower (TensorFlow 2.21).
_GROUPS_PER_PASS = 16


class Tables(NamedTuple):
    """The random choices of a sketch, named as in the module's docstring."""

    rotations: np.ndarray  # o: int32 [T, depth], in blocks, 0..Q-1
    signs: np.ndarray  # s: int8 [T, Q, depth], 1 or -1
    flips: np.ndarray  # float32 [T, W], 1 or -1; h[t] = product of flips[t:]
    shifts: np.ndarray  # p: int32 [depth, Q], distinct in a row, 0..W-1


def draw(
    size: int, depth: int, width: int, seed: int | Sequence[int]
) -> Tables:
    """Draws the random choices of a sketch: equal arguments, equal tables.

    Args:
      size: number of coordinates of the vectors.
      depth: number of rows.
      width: number of cells of a row.
      seed: one or more integers from 0 to 2^32 - 1.

    Returns:
      The tables, as NumPy arrays.

    Example:
      >>> draw(1000, depth=5, width=10, seed=0).signs.shape
      (10, 10, 5)
    """
    blocks = -(-size // width)
    places = min(width, blocks)
    groups = -(-blocks // places)
    # The stream of RandomState is frozen (NEP 19): workers with unlike versions
    # of NumPy draw the same tables.
    random = np.random.RandomState(seed)

    def coins(*shape):
        return random.randint(0, 2, shape, np.int8) * np.int8(2) - np.int8(1)

    shifts = [random.permutation(width)[:places] for _ in range(depth)]
    return Tables(
        rotations=random.randint(0, places, (groups, depth), np.int32),
        signs=coins(groups, places, depth),
        flips=coins(groups, width).astype(np.float32),
        shifts=np.array(shifts, np.int32),
    )


def of_fold(tables: Tables, width: int) -> dict[str, np.ndarray]:
    """Returns which place has shift k, for all k, and its weight.

    Shifts are laid out as [depth, ceil(W / B), B] for B about sqrt(W).
    """
    groups, places, depth = tables.signs.shape
    base = math.isqrt(width - 1) + 1
    shape = [depth, -(-width // base), base]
    order = np.zeros([depth, shape[1] * base], np.int32)
    weights = np.zeros_like(order, np.float32)
    rows, place = np.arange(depth)[:, None], np.arange(places)
    if groups > 1:  # the sums come signed, and as [places, depth, width]
        order[rows, tables.shifts] = place * depth + rows
        weights[rows, tables.shifts] = 1.0
    else:
        blocks = (place + tables.rotations[0][:, None]) % places
        order[rows, tables.shifts] = blocks
        weights[rows, tables.shifts] = tables.signs[0].T
    return {"order": order.reshape(shape), "weights": weights.reshape(shape)}


def of_passes(tables: Tables, whole: int) -> dict[str, np.ndarray]:
    """Returns the tables of `_add_groups`: [passes, groups of a pass, ...].

    Places without a whole block get the sign 0; the tail (a block that is not
    whole, always in the last group) is added separately.
    """
    groups, places, depth = tables.signs.shape
    passes = max(1, groups // _GROUPS_PER_PASS)
    length = -(-groups // passes)
    rotations = np.zeros([passes * length, depth], np.int32)
    rotations[:groups] = tables.rotations
    signs = np.zeros([passes * length, places, depth], np.int8)
    signs[:groups] = tables.signs
    last = whole - (groups - 1) * places  # whole blocks in the last group
    rows = np.arange(depth)
    block = (np.arange(places)[:, None] + tables.rotations[-1]) % places
    signs[groups - 1][block >= last] = 0
    flips = np.ones([passes * length, tables.flips.shape[1]], np.float32)
    flips[:groups] = tables.flips
    tail = (last - tables.rotations[-1]) % places
    return {
        "rotations": rotations.reshape(passes, length, depth),
        "signs": signs.reshape(passes, length, places, depth),
        "flips": flips.reshape(passes, length, -1),
        "tail_cells": np.stack([tail, rows], axis=1).astype(np.int32),
        "tail_weights": tables.signs[-1, tail, rows][:, None]
        * tables.flips[-1],
    }


class AMSSketch:
    """A linear map from vectors of `size` numbers to `depth` x `width` numbers.

    `squared_norm(sketch(v))` estimates ||v||^2 with a relative standard
    deviation of about sqrt(2 / width) for each row, of which it takes the
    median. Sketches of equal arguments are equal: their means over workers are
    the sketch of the mean vector.

    Args:
      size: number of coordinates of the vectors, at least 1.
      depth: number of rows, odd.
      width: number of cells of a row, at least 2.
      seed: one or more integers from 0 to 2^32 - 1; equal on all workers.

    Raises:
      ValueError: if size, depth, width or seed are out of range.

    Example:
      >>> ams = AMSSketch(3, depth=1, width=4)
      >>> float(squared_norm(ams.sketch(tf.constant([0.0, 2.0, 0.0]))))
      4.0

    Source: Alon, Matias, Szegedy, STOC 1996; see the module's docstring.
    """

    def __init__(
        self,
        size: int,
        depth: int = 5,
        width: int = 250,
        seed: int | Sequence[int] = 0,
    ):
        _check(size, depth, width, seed)
        self.size, self.depth, self.width = int(size), int(depth), int(width)
        tables = draw(self.size, self.depth, self.width, seed)
        self._groups, self._places = tables.signs.shape[:2]
        arrays = of_fold(tables, self.width)
        if self._groups > 1:
            arrays |= of_passes(tables, self.size // self.width)
        else:
            arrays["columns"] = tables.flips[0]
        with tf.init_scope():  # also when made inside a tf.function
            self._tables = {k: tf.constant(v) for k, v in arrays.items()}

    @property
    def table_bytes(self) -> int:
        """Memory of the tables, in bytes: about (depth + 4) / width x size."""
        return sum(
            table.shape.num_elements() * table.dtype.size
            for table in self._tables.values()
        )

    def sketch(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns the sketch of a vector: linear, and seeded.

        Args:
          vector: float32 [size].

        Returns:
          float32 [depth, width].

        Raises:
          ValueError: if the vector has another shape or type.
        """
        vector = tf.convert_to_tensor(vector)
        matches = vector.shape.is_compatible_with([self.size])
        if vector.dtype != tf.float32 or not matches:
            raise ValueError(
                f"Received a vector of type {vector.dtype.name} and shape "
                f"{vector.shape}. Expected float32 [{self.size}]: flatten and "
                "cast it, or make an AMSSketch of its size."
            )
        vector = tf.ensure_shape(vector, [self.size])
        tables = self._tables
        if self._groups > 1:
            sums = self._sum_groups(vector)
        else:
            missing = self._places * self.width - self.size
            padded = tf.pad(vector, [[0, missing]])
            blocks = tf.reshape(padded, [self._places, self.width])
            sums = blocks * tables["columns"]
        return _fold(sums, tables["order"], tables["weights"])

    def _sum_groups(self, vector):
        """Returns the groups' weighted sum: [places, depth, width]."""
        tables = self._tables
        whole = self.size // self.width
        blocks = tf.reshape(vector[: whole * self.width], [whole, self.width])
        sums = _add_groups(
            blocks, tables["rotations"], tables["signs"], tables["flips"]
        )
        tail = self.size - whole * self.width
        if not tail:
            return sums
        tail = tf.pad(vector[-tail:], [[0, self.width - tail]])
        return tf.tensor_scatter_nd_add(
            sums, tables["tail_cells"], tables["tail_weights"] * tail
        )


def squared_norm(sketch: tf.Tensor) -> tf.Tensor:
    """Estimates ||v||^2 from v's sketch: the median row's sum of squares.

    A row is summed by `vectors.sum_alike`: called outside XLA, it has equal
    bits on unlike processors, so that all workers take the same decision.

    Args:
      sketch: float32 [depth, width], depth odd.

    Returns:
      float32 [], the squared norm of v, estimated.

    Raises:
      ValueError: if the sketch is no matrix with an odd number of rows.

    Example:
      >>> rows = tf.constant([[1.0, 2.0], [0.0, 3.0], [2.0, 2.0]])
      >>> float(squared_norm(rows))
      8.0
    """
    shape = sketch.shape
    if shape.rank != 2 or None in shape or shape[0] % 2 == 0:
        raise ValueError(
            f"Received a sketch of shape {shape}. Expected [depth, "
            "width] with an odd depth, as AMSSketch.sketch returns it."
        )
    sums = vectors.sum_alike(tf.square(sketch))
    largest, _ = tf.math.top_k(sums, shape[0] // 2 + 1)
    return largest[-1]


def _check(size, depth, width, seed):
    """Raises ValueError if a sketch's settings are out of range."""
    if size < 1:
        raise ValueError(
            f"Received size={size}. Expected at least 1: the number of "
            "coordinates of the vectors to sketch."
        )
    if depth < 1 or depth % 2 == 0:
        raise ValueError(
            f"Received depth={depth}. Expected a positive odd number of rows, "
            "which have a median: take 5."
        )
    if width < 2:
        raise ValueError(
            f"Received width={width}. Expected at least 2 cells in a row: take "
            "250 for a standard deviation of 9 % a row."
        )
    if np.any(np.less(seed, 0)) or np.any(np.greater(seed, 2**32 - 1)):
        raise ValueError(
            f"Received seed={seed}. Expected integers from 0 to 2^32 - 1."
        )


@tf.function(autograph=False, jit_compile=True)
def _add_groups(blocks, rotations, signs, flips):
    """Returns sum_t s[t, q, r] h[t, c] block[t, q + o[t, r]][c]: [Q, depth, W].

    By Horner's rule, sums = (sums + signs[t] * blocks) * flips[t]: the column
    signs cost one multiplication, and XLA makes one vectorised loop of a pass.
    """
    passes, length, places, depth = signs.shape
    place = tf.range(places)[:, None]

    def add(i, sums):
        for j in range(length):
            turned = place + rotations[i, j]
            turned = tf.where(turned < places, turned, turned - places)
            group = tf.gather(blocks, (i * length + j) * places + turned)
            weight = tf.cast(signs[i, j], tf.float32)[:, :, None]
            sums = (sums + weight * group) * flips[i, j]
        return i + 1, sums

    sums = tf.zeros([places, depth, blocks.shape[1]])
    if passes == 1:
        return add(0, sums)[1]
    return tf.while_loop(lambda i, _: i < passes, add, (0, sums))[1]


@tf.function(autograph=False, jit_compile=True)
def _fold(sums, order, weights):
    """Returns sum_k of row order[r, k], weighted and shifted by k: [depth, W].

    Two rounds of shifts that are known at compile time: k = B k1 + k0. The
    first B - 1 columns of the first round, where rows wrap round, are computed
    from a copy of the rows' edges: cheaper than a longer copy of all rows.
    """
    _, steps, base = order.shape
    width, turns = sums.shape[-1], base - 1
    sums = tf.reshape(sums, [-1, width])

    def shift(rows, length):
        total = 0.0
        for k in range(base):
            shifted = rows[:, turns - k : turns - k + length]
            moved = tf.gather(shifted, order[:, :, k])
            total += weights[:, :, k, None] * moved
        return total

    edges = tf.concat([sums[:, width - turns :], sums[:, :turns]], axis=1)
    outer, inner = shift(edges, turns), shift(sums, width - turns)
    near = tf.concat([outer, inner, outer, inner], axis=2)
    starts = [width - base * k for k in range(steps)]
    return tf.add_n([near[:, k, i : i + width] for k, i in enumerate(starts)])
