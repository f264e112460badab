"""The random choices of a sketch, and the forms its compiled parts take."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Groups that one compiled loop nest adds up, at least, when there are more: it
# then touches the accumulator once for all of them. Below 16 XLA chooses other
# loops, three times slower (TensorFlow 2.21).
_GROUPS_PER_PASS = 16


class Tables(NamedTuple):
    """The random choices of a sketch, named as in fda_tf.sketch's docstring."""

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
