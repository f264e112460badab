"""The specs of batches: of any `tf.TypeSpec`, and as JSON can hold them."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# What stands for nothing in a batch or its specs: a PyDataset has an Optional
# in the place of None, and a tf.data.Dataset a spec that has no public name.
_NOTHING = (
    tf.experimental.Optional,
    tf.OptionalSpec,
    type(tf.type_spec_from_value(None)),
)


def without_optionals(batch: Any) -> Any:
    """Returns a batch, or its specs, with None for what was left out.

    Example:
      >>> without_optionals((tf.OptionalSpec(None), 1))
      (None, 1)
    """
    return tf.nest.map_structure(
        lambda leaf: None if isinstance(leaf, _NOTHING) else leaf, batch
    )


def of(batch: Any) -> Any:
    """Returns the `tf.TypeSpec`s of a batch; None, and specs, stay."""

    def spec(leaf):
        if leaf is None or isinstance(leaf, tf.TypeSpec):
            return leaf
        if not tf.is_tensor(leaf):
            leaf = tf.convert_to_tensor(leaf)
        return tf.type_spec_from_value(leaf)

    return without_optionals(tf.nest.map_structure(spec, batch))


def of_any_size(batch: Any) -> Any:
    """Returns the specs of batches like one, of any number of samples.

    Args:
      batch: tensors, or the specs of such.

    Example:
      >>> of_any_size((tf.zeros([4, 2]), None))
      (TensorSpec(shape=(None, 2), dtype=tf.float32, name=None), None)
    """

    def any_size(leaf):
        spec = of(leaf)
        if spec is None or not spec.shape.rank:
            return spec
        shape = [None, *spec.shape[1:]]
        if isinstance(spec, tf.RaggedTensorSpec):
            ranks = spec.ragged_rank, spec.row_splits_dtype
            return tf.RaggedTensorSpec(shape, spec.dtype, *ranks)
        return type(spec)(shape, spec.dtype)

    return tf.nest.map_structure(any_size, batch)


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
    """Returns a nested structure of `tf.TypeSpec`s as plain data.

    Example:
      >>> spec = ({"a": tf.TensorSpec([None, 2])}, None)
      >>> from_json(to_json(spec)) == spec
      True
    """
    if isinstance(spec, dict):
        return {"dict": {k: to_json(v) for k, v in spec.items()}}
    if isinstance(spec, (tuple, list)):
        kind = "list" if isinstance(spec, list) else "tuple"
        return {kind: [to_json(s) for s in spec]}
    if spec is None:
        return None
    if not isinstance(spec, tf.TensorSpec):
        return {"spec": spec.experimental_as_proto().SerializeToString().hex()}
    shape = None if spec.shape.rank is None else spec.shape.as_list()
    return {"shape": shape, "dtype": spec.dtype.name}


def from_json(data: Any) -> Any:
    """Returns the structure that `to_json` was given."""
    if data is None:
        return None
    if "shape" in data:
        return tf.TensorSpec(data["shape"], data["dtype"])
    if "spec" in data:
        proto = tf.TypeSpec.experimental_type_proto()
        encoded = proto.FromString(bytes.fromhex(data["spec"]))
        return tf.TypeSpec.experimental_from_proto(encoded)
    if "dict" in data:
        return {k: from_json(v) for k, v in data["dict"].items()}
    parts = [from_json(d) for d in data.get("tuple", data.get("list"))]
    return tuple(parts) if "tuple" in data else parts
