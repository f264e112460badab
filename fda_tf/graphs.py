"""Functions that branch and loop on tensors."""

import functools
from collections.abc import Callable

import tensorflow as tf


def on_tensors(function: Callable) -> Callable:
    """Lets the conditions and loops of a function be of tensors.

    AutoGraph rewrites the function when it is first called, and none that it
    calls. So `tf.function(..., autograph=False)` goes with it: AutoGraph would
    rewrite all forty functions of a step, which takes longer than the step's
    own tracing.

    Args:
      function: with `if`, `while` or `for` of a tensor in its own body.

    Returns:
      A function that does the same, in a graph as well as eagerly.

    Example:
      >>> @on_tensors
      ... def halvings(x):
      ...     n = 0
      ...     while x > 1:
      ...         x, n = x / 2, n + 1
      ...     return n
      >>> halvings = tf.function(halvings, autograph=False)
      >>> int(halvings(tf.constant(8.0)))
      3
    """

    @functools.cache
    def converted():
        return tf.autograph.to_graph(function, recursive=False)

    @functools.wraps(function)
    def call(*args, **kwargs):
        return converted()(*args, **kwargs)

    return call
