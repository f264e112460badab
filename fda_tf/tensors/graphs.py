"""Loops over workers in graphs: what is compiled does not grow with them."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def fold(
    first: int, stop: int, step: Callable[[tf.Tensor, Any], Any], carry: Any
) -> Any:
    """Returns what is left of a carry when `step` has been called in turn.

    Args:
      first: the first number that `step` is called with.
      stop: one more than the last.
      step: takes a number, int32, and the carry; returns the next carry.
      carry: a structure of tensors, as it is before the first.

    Example:
      >>> int(fold(1, 4, lambda i, product: product * i, tf.constant(1)))
      6
    """

    def body(i, carry):
        return i + 1, step(i, carry)

    start = (tf.constant(first), carry)
    return tf.while_loop(lambda i, _: i < stop, body, start)[1]


def repeat(count: int, do: Callable[[tf.Tensor], Any]) -> None:
    """Calls `do` with 0, 1, ... count - 1, for what it does to variables.

    Example:
      >>> total = tf.Variable(0)
      >>> repeat(4, total.assign_add)
      >>> int(total)
      6
    """

    def step(i, nothing):
        do(i)
        return nothing

    fold(0, count, step, tf.constant(0))
