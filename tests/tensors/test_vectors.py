"""Packing, unpacking and the arithmetic of bucketed vectors."""

import numpy as np
import pytest
import tensorflow as tf
from reference import squared_norm

from fda_tf.tensors import vectors

SHAPES = [(3, 4), (), (5,), (2, 1, 2), (0, 3), (7,)]


def tensors(shapes):
    """Returns tensors that hold the numbers 0, 1, 2, ... in order."""
    sizes = [int(np.prod(s)) for s in shapes]
    parts = np.split(np.arange(sum(sizes), dtype=np.float32), np.cumsum(sizes))
    pairs = zip(parts, shapes, strict=False)
    return [tf.reshape(part, shape) for part, shape in pairs]


@pytest.mark.parametrize("bucket", [1, 2, 5, 12, 28, 29, 1000])
def test_buckets_end_to_end_are_the_tensors_end_to_end(bucket):
    layout = vectors.Layout(SHAPES, bucket)
    packed = layout.pack(tensors(SHAPES))
    assert layout.size == 29
    assert tuple(b.shape[0] for b in packed) == layout.bucket_sizes
    assert max(layout.bucket_sizes) <= bucket
    assert len(layout.bucket_sizes) <= 1 + 9 * 29 / bucket
    np.testing.assert_array_equal(np.concatenate(packed), np.arange(29))
    for a, b in zip(layout.unpack(packed), tensors(SHAPES), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_number_of_buckets_is_that_of_the_size_not_of_the_tensors():
    many = vectors.Layout([(10,)] * 600, bucket_size=2000)
    one = vectors.Layout([(6000,)], bucket_size=2000)
    assert many.bucket_sizes == one.bucket_sizes == (2000, 2000, 2000)


def test_a_large_tensor_has_buckets_of_its_own():
    sizes = [3, 500, 2, 499, 1, 2100, 4]
    layout = vectors.Layout([(n,) for n in sizes], bucket_size=2000)
    assert layout.bucket_sizes == (3, 500, 2 + 499 + 1, 2000, 100, 4)


def test_nothing_packs_to_nothing():
    layout = vectors.Layout([])
    assert layout.size == 0 and layout.pack([]) == ()


def test_norm_dot_and_difference():
    u = (tf.constant([1.0, 2.0]), tf.constant([3.0]))
    v = (tf.constant([0.0, 4.0]), tf.constant([-1.0]))
    assert float(vectors.squared_norm(u)) == 14
    norm, dot = vectors.squared_norm_and(
        vectors.difference(u, v),
        lambda i, bucket: tf.tensordot(u[i], bucket, 1),
    )
    assert (float(norm), float(dot)) == (21, 9)
    np.testing.assert_array_equal(
        np.concatenate(vectors.subtract(u, v)), [1, -2, 4]
    )


def test_the_norm_of_many_numbers_keeps_its_digits():
    v = np.random.default_rng(0).normal(size=3_000_000).astype(np.float32)
    expected = np.sum(v.astype(np.float64) ** 2)
    assert float(vectors.squared_norm([tf.constant(v)])) == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("sizes", [[1], [7], [64, 5, 1000], [3, 4097, 2, 1, 9]])
def test_the_norm_alike_is_the_trees_to_the_last_bit(sizes):
    random = np.random.default_rng(0)
    v = [random.normal(size=size).astype(np.float32) for size in sizes]
    for of in (vectors.squared_norm_alike, graph_of_the_norm):
        assert of([tf.constant(b) for b in v]).numpy() == squared_norm(v)


@tf.function
def graph_of_the_norm(v):
    return vectors.squared_norm_alike(v)


def test_no_reduction_is_left_to_the_machine():
    specs = [tf.TensorSpec([size]) for size in (64, 5, 1000)]
    graph = graph_of_the_norm.get_concrete_function(specs).graph
    types = {op.type for op in graph.get_operations()}
    assert {"Square", "AddV2"} <= types
    elementwise = {"Square", "AddV2", "StridedSlice", "Pad", "Pack"}
    assert types <= elementwise | {"Placeholder", "Const", "Identity", "NoOp"}


def test_variables_hold_buckets():
    held = vectors.variables((tf.constant([1.0]), tf.constant([2.0])), "w")
    vectors.assign(held, (tf.constant([3.0]), tf.constant([4.0])))
    assert [float(v[0]) for v in held] == [3.0, 4.0]
    assert not any(v.trainable for v in held)


def test_each_makes_a_bucket_when_the_one_before_is_done():
    weights = tf.Variable([1.0, 2.0])

    @tf.function
    def norm():
        lazy = vectors.Lazy(3, lambda i: weights.read_value())
        return vectors.squared_norm(lazy)

    operations = norm.get_concrete_function().graph.get_operations()
    reads, losses = (
        [op for op in operations if op.type == kind]
        for kind in ("ReadVariableOp", "L2Loss")
    )
    waits = [list(read.control_inputs) for read in reads]
    assert waits == [[], losses[:1], losses[1:2]]
    assert float(norm()) == 15


def test_whole_tensors_are_packed_without_slices():
    # Each operation costs: it must not be two for each tensor of a model.
    def operations(layout):
        shapes = [tf.TensorSpec(shape) for shape in layout.shapes]
        graph = tf.function(layout.pack).get_concrete_function(shapes).graph
        return [op.type for op in graph.get_operations()]

    whole = operations(vectors.Layout([(2, 2), (3,)] * 5, bucket_size=100))
    assert whole.count("StridedSlice") == 0 and whole.count("ConcatV2") == 1
    cut = operations(vectors.Layout([(2, 2), (3,)] * 5, bucket_size=17))
    assert cut.count("StridedSlice") == 4  # two tensors are cut in two
    own = operations(vectors.Layout([(6,), (3,), (8,)], bucket_size=20))
    assert not {"StridedSlice", "ConcatV2"} & set(own)
