"""Lists of tensors as flat vectors, cut into few buckets.

A model of d parameters travels as one flat vector. So that no all-reduce, and
nothing that is made for one, is larger than 64 MB, a vector is a tuple of
**buckets**: flat tensors that, put end to end, are the whole. (A gather, as of
int8 or top-k, is one tensor of all that all workers send.) Small tensors share
a bucket, for each collective has its price; one of 16 MB or more has its own,
where nothing need be copied. So there are at most 1 + 9 d / BUCKET_SIZE of
them, however many tensors the model has.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

BUCKET_SIZE = 16 * 2**20  # numbers: 64 MB of float32

Vector = Sequence[tf.Tensor]


class Lazy(Sequence):
    """A vector whose buckets are made when asked for, each time anew.

    Gone through by `each`, it takes the memory of one bucket, not of all. It
    is for use at once: what it is made of must not change before.

    Args:
      count: of buckets.
      bucket: makes bucket number i.

    Example:
      >>> lazy = Lazy(2, lambda i: tf.fill([1], float(i)))
      >>> [float(b[0]) for b in lazy], len(lazy + lazy)
      ([0.0, 1.0], 4)
    """

    def __init__(self, count: int, bucket: Callable[[int], tf.Tensor]):
        self._count, self._bucket = count, bucket

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> tf.Tensor:
        if not 0 <= i < self._count:
            raise IndexError(f"Bucket {i} of {self._count}.")
        return self._bucket(i)

    def __add__(self, other: Vector) -> "Lazy":
        n = len(self)
        return Lazy(
            n + len(other), lambda i: self[i] if i < n else other[i - n]
        )


class Piece(NamedTuple):
    """A run of one flattened tensor that lies in one bucket."""

    tensor: int  # which tensor of the list
    start: int  # first number of the run, in the flattened tensor
    stop: int  # one past the last


class Layout:
    """Where each tensor of a list lies in the buckets of a flat vector.

    Args:
      shapes: the static shapes of the tensors, in order.
      bucket_size: the largest number of elements of one bucket; a tensor of a
        quarter of it shares none with others.

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
            own = 4 * size >= bucket_size
            if own:
                room = 0
            while start < size:
                if not room:
                    buckets.append([])
                    room = bucket_size
                stop = min(size, start + room)
                buckets[-1].append(Piece(i, start, stop))
                room -= stop - start
                start = stop
            if own:
                room = 0
        self._buckets = buckets
        self.bucket_sizes = tuple(
            sum(p.stop - p.start for p in pieces) for pieces in buckets
        )
        self.size = sum(self.bucket_sizes)

    def pack(self, tensors: Sequence[tf.Tensor]) -> Vector:
        """Returns the flat buckets of tensors that have the layout's shapes."""
        flat = [tf.reshape(tensor, [-1]) for tensor in tensors]
        return tuple(
            self.bucket(i, flat.__getitem__) for i in range(len(self._buckets))
        )

    def bucket(self, i: int, flat: Callable[[int], tf.Tensor]) -> tf.Tensor:
        """Returns bucket i; `flat` makes the flattened tensor of a number."""
        runs = [_run(flat(p.tensor), p) for p in self._buckets[i]]
        return runs[0] if len(runs) == 1 else tf.concat(runs, 0)

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


def each(vector: Vector, of: Callable[[int, tf.Tensor], Any]) -> list[Any]:
    """Returns `of(i, bucket)` of each bucket, one after another in graphs.

    Args:
      vector: flat buckets.
      of: makes tensors of a bucket; for them all of it is needed.

    Example:
      >>> each([tf.ones(2), tf.ones(3)], lambda i, b: int(tf.size(b)))
      [2, 3]
    """
    results, before = [], []
    for i in range(len(vector)):
        with tf.control_dependencies(before):
            results.append(of(i, vector[i]))
        if not tf.executing_eagerly():
            before = tf.nest.flatten(results[-1])
    return results


def subtract(u: Sequence[tf.Tensor], v: Sequence[tf.Tensor]) -> Vector:
    """Returns u - v, bucket by bucket."""
    return tuple(a - b for a, b in zip(u, v, strict=True))


def difference(u: Vector, v: Vector) -> Lazy:
    """Returns u - v, the buckets of which are made when asked for."""
    return Lazy(len(u), lambda i: u[i] - v[i])


def squared_norm(vector: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns ||v||^2, a float32 scalar, for what is sent to others.

    `l2_loss` (half the sum of squares) is one pass with no temporary, and
    sums in a tree: a plain running sum loses digits from a few million on.

    Example:
      >>> float(squared_norm([tf.constant([3.0]), tf.constant([4.0])]))
      25.0
    """
    return squared_norm_and(vector)[0]


def squared_norm_and(
    vector: Vector, *linear: Callable[[int, tf.Tensor], tf.Tensor]
) -> list[tf.Tensor]:
    """Returns ||v||^2 and linear maps of v, in one pass over its buckets.

    Args:
      vector: v.
      *linear: each makes its part of the map from a bucket and its number.

    Example:
      >>> v = [tf.constant([3.0]), tf.constant([4.0])]
      >>> [float(t) for t in squared_norm_and(v, lambda i, b: b[0])]
      [25.0, 7.0]
    """

    def parts(i, bucket):
        return [tf.nn.l2_loss(bucket), *(part(i, bucket) for part in linear)]

    half, *maps = map(tf.add_n, zip(*each(vector, parts), strict=True))
    return [2.0 * half, *maps]


def squared_norm_alike(vector: Vector) -> tf.Tensor:
    """Returns ||v||^2, for what workers with equal v decide by themselves.

    `squared_norm` sums in an order that depends on a machine's cores, so that
    unlike machines may differ in the last bit.

    Args:
      vector: flat buckets, of which one at a time is summed.

    Example:
      >>> float(squared_norm_alike([tf.constant([3.0]), tf.constant([4.0])]))
      25.0
    """
    sums = each(vector, lambda i, bucket: sum_alike(tf.square(bucket)))
    return sum_alike(tf.stack(sums))


def sum_alike(numbers: tf.Tensor) -> tf.Tensor:
    """Returns the sums along the last axis, with equal bits everywhere.

    They are summed by a fixed tree of elementwise additions, halves onto
    halves, which IEEE 754 defines to the last bit. Not inside XLA, which may
    do it in another order.

    Args:
      numbers: [..., n].

    Returns:
      [...].

    Example:
      >>> sum_alike(tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).numpy()
      array([ 6., 15.], dtype=float32)
    """
    size = numbers.shape[-1]
    length = 1 << (size - 1).bit_length()
    before = [[0, 0]] * (numbers.shape.rank - 1)
    sums = tf.pad(numbers, [*before, [0, length - size]])
    while length > 1:
        length //= 2
        sums = sums[..., :length] + sums[..., length:]
    return sums[..., 0]


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
