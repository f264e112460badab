"""What a model holds beside its variables: constants, tables and assets.

A layer that was adapted, a lookup table, an array that a layer, a loss or a
train_step was given: all of it is in the traced step, or in what the layer
saves. No worker sends it, so it has to be the same on all of them.
"""

import collections
import hashlib
import pathlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fda_tf import keras_internals
from fda_tf.processes.agreement import ASSETS, BATCHES, CONSTANTS

# Fewer whole numbers are shapes, axes and seeds, which need not be the same.
_FEWEST = 8
_NUMBERING = re.compile(r"(_\d+)+$")


def describe(model: Any, traced: Any, spec: Any) -> dict[str, Any]:
    """Returns what a model and its step hold, by place, as JSON has it.

    Args:
      model: whose layers these are.
      traced: its train_step, a concrete function; None if it is not traced.
      spec: of the batches that it takes.
    """
    layers = keras_internals.layers_of(model)
    names = {_without_number(la.name) for la in layers if la is not model}
    kept: dict[str, list] = collections.defaultdict(list)
    for where, value in _constants(traced) if traced else ():
        parts = map(_without_number, reversed(where.split("/")))
        layer = next((part for part in parts if part in names), None)
        place = f"layer {layer!r}" if layer else "the train step"
        kept[CONSTANTS + place].append(value)
    sums = {place: _sum_up(values) for place, values in kept.items()}
    saved = {
        f"{ASSETS}layer {i} ({_without_number(layer.name)!r})": digest
        for i, layer in enumerate(layers)
        if layer is not model and (digest := _saved(layer))
    }
    # Without a trace nothing is known of constants: as for other batches.
    batches = {BATCHES: repr(spec)} if traced else {}
    return batches | sums | saved


def _constants(traced: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name of an operation, value) of all constants in a function."""
    definition = traced.graph.as_graph_def()
    inner = [f.node_def for f in definition.library.function]
    for nodes in [definition.node, *inner]:
        for node in nodes:
            if node.op == "Const":
                yield node.name, tf.make_ndarray(node.attr["value"].tensor)
    variables = {id(v.handle) for v in traced.graph.variables}
    for outside, inside in traced.graph.captures:
        if id(outside) in variables or not isinstance(outside, tf.Tensor):
            continue
        if outside.dtype == tf.resource:
            yield from _tables(outside, inside)
        elif inside.op.type == "Placeholder" and hasattr(outside, "numpy"):
            yield _used_by(inside), np.asarray(outside)


def _tables(outside: Any, inside: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields what a table holds, in the order of its keys; else nothing."""
    for lookup in inside.consumers():
        if lookup.type == "LookupTableFindV2":
            keys, values = tf.raw_ops.LookupTableExportV2(
                table_handle=outside,
                Tkeys=lookup.get_attr("Tin"),
                Tvalues=lookup.get_attr("Tout"),
            )
            order = np.argsort(keys.numpy())
            yield lookup.name, np.array(repr(keys.numpy()[order].tolist()))
            yield lookup.name, np.array(repr(values.numpy()[order].tolist()))
            return


def _used_by(inside: Any) -> str:
    consumers = inside.consumers()
    return consumers[0].name if consumers else inside.name


def _sum_up(values: Sequence[np.ndarray]) -> list[Any]:
    """Returns numbers that differ when the values do, in whatever order.

    Of floats, their number, and two sums that rounding hardly changes: huge
    ones, as masks are made of, are made small. Of all else a digest.
    """
    count, size, mixed, rest = 0, 0.0, 0.0, []
    for value in values:
        kind = tf.as_dtype(value.dtype)
        if kind.is_floating:
            x = np.arcsinh(np.ravel(value).astype(np.float64))
            x = np.where(np.isfinite(x), x, 1.0)
            count += x.size
            size += float(np.abs(x).sum())
            mixed += float(np.cos(np.arange(x.size)) @ x)
        elif _counts(value, kind):
            text = value.dtype == object
            content = repr(value.tolist()).encode() if text else value.tobytes()
            rest.append(f"{kind.name} {value.shape} {_digest(content)}")
    # The second sum may be near 0, where no rounding is small: beside `size`.
    return [count, size, size + mixed, _digest("".join(sorted(rest)).encode())]


def _counts(value: np.ndarray, kind: tf.DType) -> bool:
    # A text alone may be a path, or a message with a name in it.
    if kind == tf.string:
        return value.ndim > 0 or value.dtype.kind == "U"
    return value.size >= _FEWEST


def _saved(layer: Any) -> str | None:
    """Returns a digest of what a layer saves besides variables, or None."""
    kept: dict[str, Any] = {}
    if not type(layer).save_own_variables.__module__.startswith("keras."):
        layer.save_own_variables(kept)
    facts = [
        f"{name} {np.asarray(value).tolist()}"
        for name, value in sorted(kept.items())
        if isinstance(value, (np.ndarray, np.generic, str, bytes, int, float))
    ]
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            for path in sorted(pathlib.Path(folder).rglob("*")):
                if path.is_file():
                    content = _digest(path.read_bytes())
                    facts.append(f"{path.relative_to(folder)} {content}")
    return _digest("\n".join(facts).encode()) if facts else None


def _without_number(name: str) -> str:
    """Returns a name without what Keras and TensorFlow number it with."""
    return _NUMBERING.sub("", name)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]
