"""Each worker's part of the data for `model.fit`, an epoch an iteration."""

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

from fda_tf import data
from fda_tf.keras_fit.sharding import shard


class Workers:
    """One of `count` workers, who knows what the others would answer."""

    def __init__(self, index=0, count=3, sizes=None):
        self.index, self.count, self.sizes = index, count, sizes

    def gather(self, size):
        sizes = np.array(self.sizes)
        sizes[self.index] = size
        return sizes


def numbered(n):
    """Returns n samples that are their own numbers."""
    return np.arange(n), np.arange(n)


def samples(n):
    """Returns the same as a dataset."""
    return tf.data.Dataset.range(n).map(lambda i: (i, i))


def unknown(n):
    """Returns the same as a dataset that does not know its size."""
    return samples(n).filter(lambda i, _: i >= 0)


def drawn(made, epochs=1):
    """Returns the samples of the next epochs, [steps, batch]."""
    batches = [x.numpy() for _ in range(epochs) for x, _ in made]
    assert {len(batch) for batch in batches} == {len(batches[0])}
    return np.stack(batches)


def all_drawn(given, batch, epochs, **settings):
    """Returns what each of 3 workers draws, [3, steps, batch]."""
    return [
        drawn(shard(given, batch, replicas=Workers(k), **settings), epochs)
        for k in range(3)
    ]


def passes(batches, size):
    """Returns the whole passes over a part, in order of sample."""
    flat = batches.ravel()
    return np.sort(flat[: len(flat) // size * size].reshape(-1, size))


@pytest.mark.parametrize("given", [numbered(26), samples(26)])
def test_equal_parts_are_disjoint_and_an_epoch_has_each_sample_once(given):
    # 26 samples on 3 workers: 8 each, so two batches of 4 and 2 left out.
    parts = []
    for batches in all_drawn(given, 4, epochs=3):
        assert batches.shape == (6, 4)
        epochs = passes(batches, 8)
        assert (epochs == epochs[0]).all()
        parts.extend(epochs[0])
    assert len(set(parts)) == 24


@pytest.mark.parametrize("given", [numbered(26), samples(26)])
def test_unequal_parts_cover_everything_and_their_passes_run_on(given):
    # Of 26 samples, 9, 9 and 8; ceil(26 / 12) = 3 steps for all of them.
    parts = []
    for batches, size in zip(
        all_drawn(given, 4, epochs=6, equal=False), [9, 9, 8], strict=True
    ):
        assert batches.shape == (18, 4)  # 72 samples: 8, 8 and 9 passes
        each = passes(batches, size)
        assert (each == each[0]).all()
        parts.extend(each[0])
    assert sorted(parts) == list(range(26))


def test_workers_own_arrays_may_be_of_any_length():
    sizes = [5, 16, 1]  # 22 samples: ceil(22 / 12) = 2 steps
    for k, size in enumerate(sizes):
        made = shard(
            numbered(size), 4, mine=True, replicas=Workers(k, 3, sizes)
        )
        each = passes(drawn(made, epochs=10), size)
        assert len(made) == 2 and len(each) == 80 // size
        np.testing.assert_array_equal(each, [np.arange(size)] * len(each))


def test_batches_are_those_of_the_simulation():
    sizes = [7, 12, 5]
    owned = [(np.arange(n) + 100 * n, np.arange(n)) for n in sizes]
    source = data.ArraySource(owned, 4, seed=9)
    for k in range(3):
        workers = Workers(k, 3, sizes)
        made = shard(owned[k], 4, seed=9, mine=True, replicas=workers)
        expected = [source.batch(k, step)[0] for step in range(4)]
        np.testing.assert_array_equal(drawn(made, epochs=2), expected)


@pytest.mark.parametrize("given", [numbered(120), samples(120)])
def test_order_is_a_function_of_seed_worker_and_epoch(given):
    first, second = drawn(shard(given, 8, seed=3), 2).reshape(2, -1)
    tf.random.set_seed(5)  # must not matter
    same = drawn(shard(given, 8, seed=3)).ravel()
    tf.compat.v1.set_random_seed(None)
    np.testing.assert_array_equal(first, same)
    other = drawn(shard(given, 8, seed=4)).ravel()
    orders = [first, second, other, np.arange(120)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert np.mean(a == b) < 0.2


def test_another_seed_deals_other_parts():
    def part(seed):
        made = shard(numbered(240), 8, seed=seed, replicas=Workers())
        return set(drawn(made).ravel())

    # Of 80 samples about a third, 26.7 +- 3.4, are in both parts.
    assert len(part(0) & part(1)) < 45


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (numbered(22), {}),
        (samples(22), {"shuffle_buffer": 5}),
        (unknown(22), {"steps_per_epoch": 6}),
        (samples(22).repeat(), {"steps_per_epoch": 6}),
    ],
)
def test_a_run_that_goes_on_midway_equals_one_that_never_stopped(
    given, settings
):
    whole = drawn(shard(given, 4, **settings), epochs=4)
    for start in [1, 8]:
        made = shard(given, 4, **settings)
        made.position = start
        rest = drawn(made, epochs=4 - start // 6)
        np.testing.assert_array_equal(rest, whole[start:])
        assert made.position == 24


def test_live_iterators_have_an_epoch_each_and_unused_ones_none():
    whole = drawn(shard(numbered(24), 4), epochs=2)
    made = shard(numbered(24), 4)
    iter(made), iter(made)
    assert made.position == 0
    one, two = iter(made), iter(made)
    assert one.shard is made
    both = [(next(one)[0], next(two)[0]) for _ in range(6)]
    np.testing.assert_array_equal(
        np.swapaxes(both, 0, 1), whole.reshape(2, 6, 4)
    )
    assert next(one, None) is None and made.position == 12


def test_nothing_is_traced_twice():
    traces = []
    made = shard(samples(24).map(lambda *s: (traces.append(1), s)[1]), 4)
    mapped = made.map(lambda *batch: (traces.append(2), batch)[1])
    drawn(mapped, epochs=3)
    assert traces == [1, 2]
    assert made.position == 18 and len(mapped) == 6


class Recorder(keras.Model):
    """A model whose training writes down what it sees."""

    def __init__(self, steps, batch):
        super().__init__()
        self.seen = tf.Variable(tf.zeros([steps, batch], tf.int64))
        self.weights_seen = tf.Variable(0.0)
        self.step = tf.Variable(0)

    def train_step(self, batch):
        x, _, weight = keras.utils.unpack_x_y_sample_weight(batch)
        self.seen.scatter_nd_update([[self.step]], [x])
        if weight is not None:
            self.weights_seen.assign_add(tf.reduce_sum(weight))
        self.step.assign_add(1)
        return {"loss": 0.0}


@pytest.mark.parametrize("class_weight", [None, {0: 2.0, 1: 0.5}])
@pytest.mark.parametrize("at_once", [1, 4])
def test_fit_sees_every_batch_once_and_in_order(at_once, class_weight):
    given = np.arange(40), np.arange(40) % 2
    expected = drawn(shard(given, 4), epochs=3)
    model = Recorder(steps=31, batch=4)
    model.compile(steps_per_execution=at_once)
    made = shard(given, 4)
    model.fit(made, epochs=2, class_weight=class_weight, verbose=0)
    model.fit(made, epochs=1, class_weight=class_weight, verbose=0)
    assert int(model.step) == made.position == 30  # 10 steps an epoch
    np.testing.assert_array_equal(model.seen[:30], expected)
    # Of 120 samples half have weight 2 and half 0.5.
    assert float(model.weights_seen) == (150 if class_weight else 0)


def test_fit_and_evaluate_on_shards():
    x, y = small.data(96)
    model = small.linear_model()
    expected = model.evaluate(x, y, verbose=0)
    held_out = shard((x, y, np.ones(96, np.float32)), 8)
    assert held_out.element_spec[0].shape == (8, small.INPUTS)
    for _ in range(2):
        seen = model.evaluate(held_out, verbose=0)
        np.testing.assert_allclose(seen, expected, rtol=1e-5)
    made = shard((x, y), 8)
    past = model.fit(made, epochs=3, validation_data=held_out, verbose=0)
    assert int(model.optimizer.iterations) == made.position == 36
    assert past.history["val_loss"][-1] < expected[0]


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (numbered(2), {}, "3 workers and 2 samples; expected at least one"),
        (samples(2), {}, "3 workers and 2 samples; expected at least one"),
        (unknown(2), {}, "3 workers and 2 samples; expected at least"),
        (numbered(0), {}, "shard of worker 1 is empty"),
        ((np.arange(4), np.arange(5)), {}, "have lengths .*equal lengths"),
        (np.arange(9), {}, "of type ndarray; expected .x, y"),
        (([1, 2], [3, 4]), {}, "something that is no array"),
        (numbered(9), {"batch_size": 0}, "batch_size=0.*at least 1"),
        (numbered(9), {"seed": -1}, "seed=-1.*expected a whole number"),
        (samples(9), {"shuffle_buffer": 0}, "shuffle_buffer=0.*at least 1"),
        (numbered(9), {"steps_per_epoch": 0}, "steps_per_epoch=0.*at least"),
        (samples(9).repeat(), {}, "infinite size.*steps_per_epoch="),
        (unknown(9), {}, "unknown or infinite.*assert_cardinality"),
    ],
)
def test_bad_input_is_refused_in_words(given, settings, message):
    with pytest.raises(ValueError, match=message):
        shard(given, **settings, replicas=Workers(1))


@pytest.mark.parametrize("given", [numbered, samples])
def test_an_empty_part_is_refused_on_all_workers(given):
    with pytest.raises(ValueError, match="empty|and 0 samples"):
        shard(given(0), mine=True, replicas=Workers(1, 3, [4, 0, 4]))
    with pytest.raises(ValueError, match=r"data of workers \[1\] were refused"):
        shard(given(4), mine=True, replicas=Workers(0, 3, [4, 0, 4]))


@pytest.mark.parametrize("position", [-1, 1.5, None, True])
def test_an_impossible_position_is_refused(position):
    made = shard(numbered(8), 4)
    with pytest.raises(ValueError, match="position=.*expected a whole number"):
        made.position = position
