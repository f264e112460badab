"""Specs of batches of every kind, and as JSON holds them."""

import collections
import json

import numpy as np
import pytest
import tensorflow as tf

from fda_tf.data import specs

Pair = collections.namedtuple("Pair", ["x", "y"])
RAGGED = tf.RaggedTensorSpec([None, None, 2], tf.int32, 1, tf.int32)
SPARSE = tf.SparseTensorSpec([None, 3], tf.float64)
DENSE = tf.TensorSpec([None, 2], tf.string)


@pytest.mark.parametrize(
    "spec",
    [
        (DENSE, None),
        {"a": [RAGGED, None], "b": (SPARSE,)},
        tf.TensorSpec(None),
    ],
)
def test_specs_survive_json(spec):
    kept = json.loads(json.dumps(specs.to_json(spec)))
    assert specs.from_json(kept) == spec


def test_a_named_tuple_comes_back_as_a_tuple():
    kept = specs.to_json(Pair(DENSE, RAGGED))
    assert specs.from_json(kept) == (DENSE, RAGGED)


def test_what_a_dataset_leaves_out_is_none():
    dataset = tf.data.Dataset.from_tensors((tf.zeros([4, 2]), None))
    assert specs.without_optionals(dataset.element_spec)[1] is None
    assert specs.of(next(iter(dataset)))[1] is None


def test_specs_of_any_size_leave_the_samples_number_open():
    ragged = tf.ragged.constant(
        [[[1, 2]], []], tf.int32, 1, (2,), None, tf.int32
    )
    sparse = tf.sparse.from_dense(np.eye(3))
    batch = {"a": (ragged, sparse), "b": np.array([["a", "b"]]), "c": None}
    expected = {"a": (RAGGED, SPARSE), "b": DENSE, "c": None}
    assert specs.of_any_size(batch) == expected
