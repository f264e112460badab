"""Lists of tensors as flat vectors, cut into few buckets.

A model of d parameters travels as one flat vector. So that no collective and
no temporary is larger than 64 MB, a vector is a tuple of **buckets**: flat
tensors that, put end to end, are the whole. Their number depends on the size
alone, never on how many tensors the model has.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

BUCKET_SIZE = 16 * 2**20  # numbers: 64 MB of float32

Vector = tuple[tf.Tensor, ...]


class Piece(NamedTuple):
    """A run of one flattened tensor that lies in one bucket."""

    tensor: int  # which tensor of the list
    start: int  # first number of the run, in the flattened tensor
    stop: int  # one past the last


class Layout:
    """Where each tensor of a list lies in the buckets of a flat vector.

    Args:
      shapes: the static shapes of the tensors, in order.
      bucket_size: the largest number of elements of one bucket.

    Example:
      >>> layout = Layout([(2, 2), (3,)], bucket_size=4)
      >>> layout.size, layout.bucket_sizes
      (7, (4, 3))
      >>> a, b = layout.pack([tf.ones((2, 2)), tf.zeros(3)])
      >>> [t.shape.as_list() for t in layout.unpack((a, b))]
      [[2, 2], [3]]
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        bucket_size: int = BUCKET_SIZE,
    ):
        self.shapes = [tuple(int(n) for n in shape) for shape in shapes]
        buckets: list[list[Piece]] = []
        room = 0
        for i, shape in enumerate(self.shapes):
            start, size = 0, _product(shape)
            while start < size:
                if not room:
                    buckets.append([])
                    room = bucket_size
                stop = min(size, start + room)
                buckets[-1].append(Piece(i, start, stop))
                room -= stop - start
                start = stop
        self._buckets = buckets
        self.bucket_sizes = tuple(
            sum(p.stop - p.start for p in pieces) for pieces in buckets
        )
        self.size = sum(self.bucket_sizes)

    def pack(self, tensors: Sequence[tf.Tensor]) -> Vector:
        """Returns the flat buckets of tensors that have the layout's shapes."""
        flat = [tf.reshape(tensor, [-1]) for tensor in tensors]
        packed = []
        for pieces in self._buckets:
            runs = [_run(flat[p.tensor], p) for p in pieces]
            packed.append(runs[0] if len(runs) == 1 else tf.concat(runs, 0))
        return tuple(packed)

    def unpack(self, vector: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the shaped tensors of which `pack` made the vector."""
        runs: list[list[tf.Tensor]] = [[] for _ in self.shapes]
        for bucket, pieces in zip(vector, self._buckets, strict=True):
            sizes = [p.stop - p.start for p in pieces]
            for piece, run in zip(pieces, tf.split(bucket, sizes), strict=True):
                runs[piece.tensor].append(run)
        return [
            tf.reshape(tf.concat(parts, 0) if len(parts) > 1 else parts[0], s)
            if parts
            else tf.zeros(s)
            for parts, s in zip(runs, self.shapes, strict=True)
        ]


def subtract(u: Sequence[tf.Tensor], v: Sequence[tf.Tensor]) -> Vector:
    """Returns u - v, bucket by bucket."""
    return tuple(a - b for a, b in zip(u, v, strict=True))


def squared_norm(vector: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns ||v||^2, a float32 scalar.

    `l2_loss` (half the sum of squares) is one pass with no temporary, and
    sums in a tree: a plain running sum loses digits from a few million on.

    Example:
      >>> float(squared_norm([tf.constant([3.0]), tf.constant([4.0])]))
      25.0
    """
    return 2.0 * tf.add_n([tf.nn.l2_loss(bucket) for bucket in vector])


def dot(u: Sequence[tf.Tensor], v: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns <u, v>, a float32 scalar.

    Product and sum take a tenth of the time of `tensordot`, a matrix product
    of one row, and the sum is a tree.

    Example:
      >>> float(dot([tf.constant([1.0, 2.0])], [tf.constant([3.0, 4.0])]))
      11.0
    """
    return tf.add_n([tf.reduce_sum(a * b) for a, b in zip(u, v, strict=True)])


def variables(vector: Sequence[tf.Tensor], name: str) -> list[tf.Variable]:
    """Returns untrainable variables that hold the vector's buckets."""
    return [
        tf.Variable(bucket, trainable=False, name=f"{name}_{i}")
        for i, bucket in enumerate(vector)
    ]


def assign(targets: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    """Puts each value into its variable."""
    for target, value in zip(targets, values, strict=True):
        target.assign(value)


def _run(flat: tf.Tensor, piece: Piece) -> tf.Tensor:
    """Returns a piece of its flattened tensor: no slice where it is all."""
    if piece.stop - piece.start == flat.shape[0]:
        return flat
    return flat[piece.start : piece.stop]


def _product(shape: Sequence[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
