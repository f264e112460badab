"""What was sent, counted from the tensors that were."""

from collections.abc import Sequence

import tensorflow as tf

KINDS = ("state", "model", "eval", "call")


class Meter:
    """Counts the bytes of every tensor handed to a collective.

    `paid` is what all workers together hand in, and `returned` what a server
    in their middle would hand back. A ring all-reduce puts 2 (K-1)/K times the
    former on the wire: each of K workers sends (K-1)/K of its tensor while
    reducing and as much again while gathering. A gather puts K-1 times it
    there. Counting runs inside the compiled loop; alone (K = 1) nothing is
    sent.

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
        # Of all workers that there were: another number may go on.
        self._paid, self._returned, self._wire = (
            {kind: _counter(kind) for kind in KINDS} for _ in range(3)
        )

    @property
    def variables(self) -> list[tf.Variable]:
        """The counts."""
        counts = (self._paid, self._returned, self._wire)
        return [count[kind] for count in counts for kind in KINDS]

    def all_reduce(self, kind: str, tensors: Sequence[tf.Tensor]) -> None:
        """Counts one all-reduce of the tensors that each worker hands in.

        Args:
          kind: what it was for, one of `KINDS`.
          tensors: one worker's; all workers' have equal shapes.
        """
        if self.workers == 1:
            return
        size = _size(tensors)
        whole = self.workers * size
        self._count(kind, whole, whole, 2 * (self.workers - 1) * size)

    def gather(
        self,
        kind: str,
        tensors: Sequence[tf.Tensor],
        results: Sequence[tf.Tensor],
    ) -> None:
        """Counts a gather, after which each worker has what all handed in.

        Args:
          kind: what it was for, one of `KINDS`.
          tensors: one worker's.
          results: what each worker makes of them.
        """
        if self.workers == 1:
            return
        paid, returned = self.workers * _size(tensors), _size(results)
        wire = (self.workers - 1) * paid
        self._count(kind, paid, self.workers * returned, wire)

    def broadcast(self, kind: str, tensors: Sequence[tf.Tensor]) -> None:
        """Counts what one worker hands in, and every worker gets.

        Args:
          kind: what it was for, one of `KINDS`.
          tensors: that worker's.
        """
        if self.workers == 1:
            return
        size = _size(tensors)
        self._count(kind, size, self.workers * size, (self.workers - 1) * size)

    def paid(self, kind: str) -> int:
        """Returns the bytes that all workers together handed in."""
        return int(self._paid[kind].numpy())

    def paid_tensor(self, kind: str) -> tf.Tensor:
        """Returns the same as an int64 scalar; for use in graphs."""
        return self._paid[kind].read_value()

    def both_ways(self, kind: str) -> tf.Tensor:
        """Returns the bytes paid and returned; int64, for use in graphs."""
        return self._paid[kind].read_value() + self._returned[kind].read_value()

    def on_wire(self, kind: str) -> int:
        """Returns the bytes that went over the wire, between all workers."""
        return int(self._wire[kind].numpy())

    def _count(self, kind, paid, returned, wire):
        self._paid[kind].assign_add(paid)
        self._returned[kind].assign_add(returned)
        self._wire[kind].assign_add(wire)


def _counter(name: str) -> tf.Variable:
    return tf.Variable(0, dtype=tf.int64, trainable=False, name=name)


def _size(tensors: Sequence[tf.Tensor]) -> int:
    return sum(t.shape.num_elements() * t.dtype.size for t in tensors)
