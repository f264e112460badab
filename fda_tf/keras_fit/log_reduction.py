"""The logs that a step returns, of all workers together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fda_tf.keras_fit.metric_reduction import Metrics, Share


def reduce(
    logs: Any, origins: Sequence, metrics: Metrics, share: Share, replicas: Any
) -> Any:
    """Returns the logs of the last step, equal on all workers; all must ask.

    Those that are results of metrics are the reduced metrics' results. Other
    numbers are means over the workers, by the samples of the last step of
    each; what is no number, or has another shape on each, is that of the first
    worker with most of them.

    Args:
      logs: what the last step returned.
      origins: whose result each of the logs is; as in `Recorded`.
      metrics: of the model, reduced already.
      share: what this worker's last step counts for.
      replicas: the processes of the job.
    """
    leaves = tf.nest.flatten(logs)
    if len(origins) != len(leaves):
        origins = [None] * len(leaves)
    others = [i for i, origin in enumerate(origins) if origin is None]
    together = _together([leaves[i] for i in others], share, replicas)
    for i, value in zip(others, together, strict=True):
        leaves[i] = value
    for i, origin in enumerate(origins):
        if origin is not None:
            leaves[i] = metrics.result(*origin)
    return tf.nest.pack_sequence_as(logs, leaves)


def _together(leaves: list, share: Share, replicas: Any) -> list:
    """Returns the leaves, each as the mean or as one worker has it."""
    values = [_array(leaf) for leaf in leaves]
    forms = [None if v is None else [v.dtype.name, *v.shape] for v in values]
    everyone = replicas.gather_json({"forms": forms, "weight": share.last})
    places = range(len(leaves))
    means = [
        i
        for i in places
        if forms[i] and all(each["forms"][i] == forms[i] for each in everyone)
    ]
    weights = np.array([each["weight"] for each in everyone])
    weights = weights if weights.any() else np.ones_like(weights)
    _put_means(leaves, {i: values[i] for i in means}, weights, replicas)
    rest = [i for i in places if i not in means]
    if rest:
        k = int(weights.argmax())
        own = [_to_json(leaves[i]) for i in rest if replicas.index == k]
        for i, value in zip(rest, replicas.gather_json(own)[k], strict=True):
            leaves[i] = _from_json(value)
    return leaves


def _put_means(
    leaves: list,
    values: dict[int, np.ndarray],
    weights: np.ndarray,
    replicas: Any,
) -> None:
    """Puts the means of what all have into the places of `values`."""
    flat = [np.ravel(value).astype(np.float64) for value in values.values()]
    if not flat:
        return
    rows = replicas.gather(np.concatenate(flat))
    mean = np.average(rows[weights > 0], 0, weights[weights > 0])
    ends = np.cumsum([len(each) for each in flat])[:-1]
    for i, part in zip(values, np.split(mean, ends), strict=True):
        leaves[i] = part.reshape(values[i].shape)


def _array(leaf: Any) -> np.ndarray | None:
    """Returns a leaf as an array of numbers; None if it is none."""
    if leaf is None or isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return None
    array = np.asarray(leaf)
    numbers = array.dtype.kind in "fiub" or array.dtype == tf.bfloat16
    return array if numbers else None


def _to_json(leaf: Any) -> Any:
    """Returns a leaf as JSON can hold it: its bytes as latin-1."""
    if leaf is None:
        return None
    if isinstance(leaf, tf.RaggedTensor):
        return {"list": leaf.to_list()}
    if isinstance(leaf, tf.SparseTensor):
        leaf = tf.sparse.to_dense(leaf)
    array = np.asarray(leaf)
    values = array.tolist()
    if array.dtype.kind in "OS":
        texts = array.astype(object).ravel().tolist()
        texts = [t if isinstance(t, bytes) else str(t).encode() for t in texts]
        values = [t.decode("latin-1") for t in texts]
        return {"bytes": values, "shape": array.shape}
    return {"values": values, "dtype": array.dtype.name}


def _from_json(value: Any) -> Any:
    """Returns what `_to_json` was given, as Keras would show it."""
    if value is None:
        return None
    if "list" in value:
        return value["list"]
    if "bytes" in value:
        texts = [t.encode("latin-1") for t in value["bytes"]]
        return np.array(texts, object).reshape(value["shape"])
    return np.array(value["values"], value["dtype"])
