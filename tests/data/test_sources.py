"""The order of samples: a pure function of (seed, worker, step)."""

import numpy as np
import pytest
import tensorflow as tf

from fda_tf.data import digests, sources


def source(sizes, batch=8, **settings):
    """Returns a source whose samples are their own global numbers."""
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return sources.ArraySource([(n, n) for n in numbers], batch, **settings)


def drawn(made, worker, steps):
    """Returns the samples of the first steps, [steps, batch]."""
    return np.stack([made.batch(worker, t)[0].numpy() for t in range(steps)])


@pytest.mark.parametrize("size", [1, 5, 8, 37, 100])
def test_each_pass_has_each_sample_once_and_batches_are_full(size):
    made = source([3, size])
    passes = 8
    samples = drawn(made, 1, size * passes // 8).ravel()
    assert samples.size == size * passes // 8 * 8
    for one_pass in samples[: size * passes].reshape(-1, size):
        np.testing.assert_array_equal(np.sort(one_pass), 3 + np.arange(size))


def test_passes_and_workers_are_shuffled_differently():
    made = source([64, 64])
    first, second = drawn(made, 0, 16).reshape(2, 64)
    other = drawn(made, 1, 8).ravel() - 64
    orders = [first, second, other, np.arange(64)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert np.mean(a == b) < 0.2


def test_order_depends_on_the_seed_alone():
    one, same = source([50], seed=3), source([50], seed=3)
    other = source([50], seed=4)
    np.testing.assert_array_equal(drawn(one, 0, 9), drawn(same, 0, 9))
    assert not np.array_equal(drawn(one, 0, 9), drawn(other, 0, 9))


def test_a_cluster_worker_draws_as_in_the_simulation():
    x = np.arange(40)
    alone = sources.ArraySource([(x[20:], x[20:])], 8, first=1)
    np.testing.assert_array_equal(
        drawn(alone, 1, 9), drawn(source([20, 20]), 1, 9)
    )


@pytest.mark.parametrize("size", [20, 1000])
def test_independent_draws_are_distinct_within_a_batch_and_uniform(size):
    made = source([size], sampling="independent")
    steps = 1500
    batches = drawn(made, 0, steps)
    assert all(len(set(batch)) == 8 for batch in batches)
    # The kernel has about 2^24 shuffles: two of 1,500 may be the same.
    assert len({tuple(batch) for batch in batches}) >= steps - 2
    counts = np.bincount(batches.ravel(), minlength=size)
    mean = steps * 8 / size
    chi2 = ((counts - mean) ** 2 / (mean * (1 - 8 / size))).sum()
    assert abs(chi2 - size) < 5 * np.sqrt(2 * size)


def test_a_batch_larger_than_the_shard_repeats_it():
    for sampling in sources.SAMPLINGS:
        batches = drawn(source([3], batch=7, sampling=sampling), 0, 3)
        assert set(batches.ravel()) == {0, 1, 2}


def test_batches_run_in_a_compiled_loop():
    made = source([30, 30])

    @tf.function
    def total(steps):
        result = tf.constant(0, tf.int64)
        for t in tf.range(steps):
            result += tf.reduce_sum(made.batch(1, t)[0])
        return result

    assert int(total(5)) == drawn(made, 1, 5).sum()


def test_epoch_is_n_over_b_k():
    assert source([100, 50], batch=8).epoch_steps(150, 2) == 150 / 16
    dataset = tf.data.Dataset.range(10).map(lambda i: (i, i)).batch(2)
    assert sources.DatasetSource([dataset, dataset]).epoch_steps(10, 2) == 5
    endless = sources.DatasetSource([dataset.repeat()])
    assert endless.samples is None
    assert endless.epoch_steps(None, 1) is None


def test_arrays_of_every_kind_are_gathered_over_shards():
    x = np.where(np.arange(40).reshape(10, 4) % 3, 0.0, 1.0) + np.eye(10, 4)
    rows = tf.ragged.constant([[i] * (i % 3) for i in range(10)])
    words = np.array([f"word {i}" for i in range(10)], object)

    def shard(part):
        sparse = tf.sparse.from_dense(x[part])
        return [x[part], sparse, rows[part], words[part], None], np.arange(10)[
            part
        ]

    made = sources.ArraySource([shard(slice(0, 4)), shard(slice(4, 10))], 7)
    for worker, numbers in [(0, range(4)), (1, range(4, 10))]:
        (dense, sparse, ragged, text, none), y = made.batch(worker, 0)
        assert set(y.numpy()) == set(numbers) and none is None
        assert dense.dtype == sparse.dtype == tf.float32
        np.testing.assert_array_equal(dense, x[y])
        np.testing.assert_array_equal(tf.sparse.to_dense(sparse), x[y])
        assert ragged.to_list() == [[i] * (i % 3) for i in y.numpy()]
        assert text.numpy().tolist() == [w.encode() for w in words[y]]


def test_digests_of_large_arrays_tell_orders_apart(monkeypatch):
    x = np.random.default_rng(3).normal(size=(5000, 3))
    monkeypatch.setattr(digests, "BYTES", 1000)
    of = digests.digest
    assert of(x) == of(x.copy())
    others = [x[::-1], x[np.random.default_rng(4).permutation(5000)], x[1:]]
    others.append(x.astype(np.float32))
    assert len({of(a) for a in [x, *others]}) == 5


def test_an_empty_dataset_is_refused():
    empty = tf.data.Dataset.range(0).batch(2)
    with pytest.raises(ValueError, match="dataset of worker 2 is empty"):
        sources.DatasetSource([empty], first=2)


def test_an_empty_dataset_of_unknown_length_is_refused():
    empty = tf.data.Dataset.range(4).filter(lambda i: i > 9).batch(2)
    full = tf.data.Dataset.range(4).batch(2)
    with pytest.raises(ValueError, match="dataset of worker 1 is empty"):
        sources.DatasetSource([full, empty])


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        (([1.0, 2.0], [1, 0]), "something that is no array"),
        (np.zeros(4), "of type ndarray"),
        ((np.zeros((4, 2)), np.zeros(4)), "one shape and type on all workers"),
    ],
)
def test_shards_of_another_form_are_refused(shard, message):
    good = (np.zeros((4, 3)), np.zeros(4))
    with pytest.raises(ValueError, match=message):
        sources.ArraySource([good, shard], 2)


@pytest.mark.parametrize("seed", [-1, 2**31, 1.5, None, True])
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed=.*expected a whole number"):
        source([4], seed=seed)
