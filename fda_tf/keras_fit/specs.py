"""The specs of batches, as JSON can hold them."""

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
