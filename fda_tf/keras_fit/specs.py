"""The specs of batches, as JSON can hold them."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def without_optionals(batch: Any) -> Any:
    """Returns a batch, or its specs, with None for what a PyDataset left out.

    Example:
      >>> without_optionals((tf.OptionalSpec(None), 1))
      (None, 1)
    """
    kinds = (tf.experimental.Optional, tf.OptionalSpec)
    return tf.nest.map_structure(
        lambda leaf: None if isinstance(leaf, kinds) else leaf, batch
    )


def of_any_size(spec: Any) -> Any:
    """Returns the specs of batches with any number of samples.

    Example:
      >>> of_any_size((tf.TensorSpec([8, 2]), None))
      (TensorSpec(shape=(None, 2), dtype=tf.float32, name=None), None)
    """

    def relaxed(leaf):
        if isinstance(leaf, tf.TensorSpec) and leaf.shape.rank:
            return tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype)
        return leaf

    return tf.nest.map_structure(relaxed, spec)


def tensors(logs: Any) -> list[Any]:
    """Returns the tensors, or their specs, in what a step returns.

    Example:
      >>> tensors({"a": 1, "b": {"c": None, "d": 2}})
      [1, 2]
    """
    leaves = tf.nest.flatten(logs, expand_composites=True)
    return [leaf for leaf in leaves if leaf is not None]


def with_tensors(like: Any, tensors: Sequence[Any]) -> Any:
    """Returns the structure of which these are the tensors.

    Example:
      >>> with_tensors({"a": 1, "b": {"c": None, "d": 2}}, [3, 4])
      {'a': 3, 'b': {'c': None, 'd': 4}}
    """
    left = iter(tensors)
    leaves = [
        None if leaf is None else next(left)
        for leaf in tf.nest.flatten(like, expand_composites=True)
    ]
    return tf.nest.pack_sequence_as(like, leaves, expand_composites=True)


def size(batch: Any) -> tf.Tensor:
    """Returns how many samples a batch has, float32.

    Example:
      >>> float(size((None, tf.zeros([4, 2]))))
      4.0
    """
    leaves = [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]
    first = leaves[0] if leaves else tf.zeros([])
    if isinstance(first, tf.RaggedTensor):
        rows = first.nrows()
    elif isinstance(first, tf.SparseTensor):
        rows = first.dense_shape[0]
    else:
        rows = 1 if first.shape.rank == 0 else tf.shape(first)[0]
    return tf.cast(rows, tf.float32)


def to_json(spec: Any) -> Any:
    """Returns a nested structure of `tf.TensorSpec`s as plain data.

    Example:
      >>> spec = ({"a": tf.TensorSpec([None, 2])}, None)
      >>> from_json(to_json(spec)) == spec
      True
    """
    if isinstance(spec, dict):
        return {"dict": {k: to_json(v) for k, v in spec.items()}}
    if isinstance(spec, (tuple, list)):
        return {type(spec).__name__: [to_json(s) for s in spec]}
    if spec is None:
        return None
    shape = None if spec.shape.rank is None else spec.shape.as_list()
    return {"shape": shape, "dtype": spec.dtype.name}


def from_json(data: Any) -> Any:
    """Returns the structure that `to_json` was given."""
    if data is None:
        return None
    if "shape" in data:
        return tf.TensorSpec(data["shape"], data["dtype"])
    if "dict" in data:
        return {k: from_json(v) for k, v in data["dict"].items()}
    parts = [from_json(d) for d in data.get("tuple", data.get("list"))]
    return tuple(parts) if "tuple" in data else parts
