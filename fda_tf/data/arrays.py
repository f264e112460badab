"""Arrays of samples, taken as `model.fit` takes them.

One place says which structures, arrays and dtypes `shard`, `simulate` and
`train` accept, so all of them give `train_step` the batches of stock `fit`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

NAMES = ("x", "y", "sample_weight")


def read(data: Any, whose: str) -> tuple:
    """Returns (x,), (x, y) or (x, y, sample_weight), with lists as tuples.

    A leaf is then a NumPy array, a `tf.RaggedTensor`, a `tf.SparseTensor`, or
    None for an input that is left out. As in `fit`, a pandas Series becomes a
    column [n, 1], and a SciPy matrix a `tf.SparseTensor`.

    Args:
      data: a tuple or list of (nested structures of) arrays.
      whose: what the data are, for messages.

    Raises:
      ValueError: for another structure, and for what is no array.

    Example:
      >>> read(([np.zeros(2), np.ones(2)], np.arange(2)), "It")[0]
      (array([0., 0.]), array([1., 1.]))
    """
    if not isinstance(data, (tuple, list)) or not 1 <= len(data) <= 3:
        what = f"of type {type(data).__name__}"
        if isinstance(data, (tuple, list)):
            what = f"a {type(data).__name__} of {len(data)} parts"
        raise ValueError(
            f"{whose} is {what}; expected (x,), (x, y) or (x, y, "
            "sample_weight), each a (nested structure of) arrays [n, ...]; or "
            "a tf.data.Dataset."
        )
    data = keras.tree.lists_to_tuples(tuple(data))
    paths, leaves = zip(*keras.tree.flatten_with_path(data), strict=True)
    read = [
        _read_leaf(leaf, f"{whose}: {_name(path)}")
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return keras.tree.pack_sequence_as(data, read)


def named(arrays: tuple) -> dict[str, Any]:
    """Returns name -> array, without inputs that are left out.

    Example:
      >>> named(({"a": np.zeros(1)}, np.arange(2)))
      {"x['a']": array([0.]), 'y': array([0, 1])}
    """
    leaves = keras.tree.flatten_with_path(arrays)
    return {_name(path): leaf for path, leaf in leaves if leaf is not None}


def length(arrays: tuple, whose: str) -> int:
    """Returns n, the samples.

    Raises:
      ValueError: for arrays of unlike lengths, and if there is no sample.
    """
    lengths = {name: int(a.shape[0]) for name, a in named(arrays).items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"{whose} has arrays of the lengths {lengths}; expected (x, y) or "
            "(x, y, sample_weight) of equal lengths."
        )
    n = next(iter(lengths.values()))
    if not n:
        raise ValueError(
            f"{whose} is empty. Give every worker at least one sample; "
            "fda_tf.partition.split deals them out."
        )
    return n


def forms(arrays: tuple) -> dict[str, str]:
    """Returns name -> dtype and shape of one sample, as `fit` makes it.

    Example:
      >>> forms((np.zeros([4, 2]), np.arange(4)))
      {'x': 'float32[2]', 'y': 'int64[]'}
    """

    def form(array):
        kind = "" if isinstance(array, np.ndarray) else type(array).__name__
        dtype = tf.as_dtype(array.dtype)
        name = keras.config.floatx() if dtype.is_floating else dtype.name
        return f"{kind}{name}{list(array.shape[1:])}"

    return {name: form(array) for name, array in named(arrays).items()}


def take(arrays: Any, rows: Any) -> Any:
    """Returns some samples.

    Args:
      arrays: as `read` returns them.
      rows: a slice, or the samples' int64 indices.
    """

    def take_rows(array):
        if isinstance(array, tf.SparseTensor):
            return SparseRows(array).take(np.arange(array.shape[0])[rows])
        if isinstance(array, tf.RaggedTensor) and not isinstance(rows, slice):
            return tf.gather(array, rows)
        return None if array is None else array[rows]

    return keras.tree.map_structure(take_rows, arrays)


def split_at(samples: int, fraction: float) -> int:
    """Returns how many samples `validation_split` leaves to train on.

    Raises:
      ValueError: unless the fraction is between 0 and 1 and leaves both parts
        a sample.

    Example:
      >>> split_at(10, 0.25)
      7
    """
    first = int(np.floor(samples * (1.0 - fraction)))
    if not (0 < fraction < 1 and 0 < first < samples):
        raise ValueError(
            f"validation_split={fraction!r} of {samples} samples: expected a "
            "fraction between 0 and 1 that leaves at least one sample to "
            "train on and one to validate on."
        )
    return first


def to_tensors(parts: Sequence[tuple]) -> tuple:
    """Returns the arrays of several parts, one after the other, as tensors.

    Floats become `keras.config.floatx()`, as in `fit`.

    Args:
      parts: of equal structures, as `read` returns them.
    """

    def join(*leaves):
        if leaves[0] is None:
            return None
        if isinstance(leaves[0], tf.SparseTensor):
            return SparseRows(_to_floatx(tf.sparse.concat(0, list(leaves))))
        if isinstance(leaves[0], tf.RaggedTensor):
            return _to_floatx(tf.concat(leaves, 0))
        leaves = [_to_floatx(leaf) for leaf in leaves]
        return tf.constant(
            np.concatenate(leaves) if len(leaves) > 1 else leaves[0]
        )

    return keras.tree.map_structure(join, *parts)


def gather(tensors: Any, rows: tf.Tensor) -> Any:
    """Returns some samples of what `to_tensors` returned; for graphs, too."""

    def gather_rows(tensor):
        if isinstance(tensor, SparseRows):
            return tensor.take(rows)
        return None if tensor is None else tf.gather(tensor, rows)

    return keras.tree.map_structure(gather_rows, tensors)


class SparseRows:
    """A sparse tensor whose rows can be gathered, as `tf.gather` cannot.

    Args:
      tensor: [n, ...].
    """

    def __init__(self, tensor: tf.SparseTensor):
        tensor = tf.sparse.reorder(tensor)
        n, *self._sample = tensor.shape.as_list()
        self._places, self._values = (
            tf.RaggedTensor.from_value_rowids(
                part, tensor.indices[:, 0], tf.constant(n, tf.int64)
            )
            for part in (tensor.indices[:, 1:], tensor.values)
        )

    def take(self, rows: Any) -> tf.SparseTensor:
        """Returns some rows.

        Args:
          rows: int64 indices, of a length that is known.
        """
        values = tf.gather(self._values, rows)
        places = tf.gather(self._places, rows).flat_values
        row = values.value_rowids()[:, None]
        return tf.SparseTensor(
            tf.concat([row, places], 1),
            values.flat_values,
            [rows.shape[0], *self._sample],
        )


def _read_leaf(leaf: Any, name: str) -> Any:
    if leaf is None or isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return leaf
    if hasattr(leaf, "tocoo"):  # of SciPy
        matrix = leaf.tocoo()
        places = np.stack([matrix.row, matrix.col], 1).astype(np.int64)
        return tf.SparseTensor(places, matrix.data, matrix.shape)
    if not hasattr(leaf, "__array__") or not np.ndim(leaf):
        raise ValueError(
            f"{name} has something that is no array, of type "
            f"{type(leaf).__name__}. Lists stand for structure: make them "
            "arrays with numpy.asarray."
        )
    array = np.asarray(leaf)
    if hasattr(leaf, "iloc") and array.ndim == 1:  # a Series of pandas
        array = array[:, None]
    _check_dtype(array, name)
    return array


def _check_dtype(array: np.ndarray, name: str) -> None:
    """Raises ValueError for what no tensor can hold."""
    mend = (
        "expected numbers, or str (or bytes) alone. Give a DataFrame whose "
        "columns are of unlike types as dict(frame), and dates as numbers."
    )
    try:
        tf.as_dtype(array.dtype)
    except TypeError:
        raise ValueError(f"{name} is of dtype {array.dtype}; {mend}") from None
    if array.dtype != object:
        return
    for i, value in enumerate(array.flat):
        if not isinstance(value, (str, bytes)):
            raise ValueError(
                f"{name} is of dtype object, and its element {i} is a "
                f"{type(value).__name__}; {mend}"
            )


def _to_floatx(array: Any) -> Any:
    dtype, floatx = tf.as_dtype(array.dtype), keras.config.floatx()
    if not dtype.is_floating or dtype.name == floatx:
        return array
    if isinstance(array, np.ndarray):
        return array.astype(tf.as_dtype(floatx).as_numpy_dtype)
    return tf.cast(array, floatx)


def _name(path: Sequence[Any]) -> str:
    first, *rest = path
    return NAMES[first] + "".join(f"[{key!r}]" for key in rest)
