"""What was sent, counted from the tensors that were."""

from collections.abc import Sequence

import tensorflow as tf

KINDS = ("state", "model", "eval", "call")


class Meter:
    """Counts the bytes of every tensor handed to an all-reduce.

    `paid` is what all workers together hand in. A ring all-reduce puts
    2 (K-1)/K times that on the wire: each of K workers sends (K-1)/K of its
    tensor while reducing and as much again while gathering. Counting runs
    inside the compiled loop; alone (K = 1) nothing is sent.

    Args:
      workers: K.

    Example:
      >>> meter = Meter(workers=4)
      >>> meter.all_reduce("state", [tf.zeros(1251)])
      >>> meter.paid("state"), meter.on_wire("state")
      (20016, 30024)
    """

    def __init__(self, workers: int):
        self.workers = workers
        self._bytes = {
            kind: tf.Variable(0, dtype=tf.int64, trainable=False, name=kind)
            for kind in KINDS
        }

    @property
    def variables(self) -> list[tf.Variable]:
        """The counts, in the order of `KINDS`."""
        return [self._bytes[kind] for kind in KINDS]

    def all_reduce(self, kind: str, tensors: Sequence[tf.Tensor]) -> None:
        """Counts one all-reduce of the tensors that each worker hands in.

        Args:
          kind: what it was for, one of `KINDS`.
          tensors: one worker's; all workers' have equal shapes.
        """
        if self.workers == 1:
            return
        size = sum(t.shape.num_elements() * t.dtype.size for t in tensors)
        self._bytes[kind].assign_add(size)

    def paid(self, kind: str) -> int:
        """Returns the bytes that all workers together handed in."""
        return int(self._bytes[kind].numpy()) * self.workers

    def paid_tensor(self, kind: str) -> tf.Tensor:
        """Returns the same as an int64 scalar; for use in graphs."""
        return self._bytes[kind].read_value() * self.workers

    def on_wire(self, kind: str) -> int:
        """Returns the bytes that a ring put on the wire, over all workers."""
        return 2 * (self.workers - 1) * int(self._bytes[kind].numpy())
