"""Each worker's part of the data for `model.fit`, an epoch an iteration."""

import contextlib
import json

import keras
import numpy as np
import pandas as pd
import pytest
import small
import tensorflow as tf

import fda_tf
from fda_tf.data import arrays
from fda_tf.data import sources as data
from fda_tf.data.sharding import shard


class Workers:
    """One of `count` workers, who knows what the others would answer."""

    lost_worker_in_words = contextlib.nullcontext

    def __init__(self, index=0, count=3, sizes=None, others=None):
        self.index, self.count, self.sizes = index, count, sizes
        self.is_chief, self.others = index == 0, others or {}

    def gather(self, size):
        sizes = np.array(self.sizes)
        sizes[self.index] = size
        return sizes

    def gather_json(self, value):
        said = json.loads(json.dumps(value))
        if not isinstance(said, dict):
            return [said] * self.count
        return [
            said | self.others.get(k, {}) if k != self.index else said
            for k in range(self.count)
        ]


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
        drawn(shard(given, batch, process_group=Workers(k), **settings), epochs)
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
            numbered(size), 4, mine=True, process_group=Workers(k, 3, sizes)
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
        made = shard(owned[k], 4, seed=9, mine=True, process_group=workers)
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
        made = shard(numbered(240), 8, seed=seed, process_group=Workers())
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


class Listener(keras.Model):
    """A model that writes down what its train_step is given."""

    def train_step(self, data):
        def kind(t):
            name = "" if isinstance(t, tf.Tensor) else type(t).__name__
            return t if t is None else f"{name}{t.dtype}{t.shape[1:]}"

        self.heard = tf.nest.map_structure(kind, data)
        return {"loss": 0.0}


X, N = np.arange(12.0).reshape(4, 3), np.arange(4)
COLUMNS = pd.DataFrame({"a": X[:, 0], "b": X[:, 1].astype(np.float32)})
TEXT = np.array(["a", "b", "c", "d"], object)
ROWS = tf.ragged.constant([[1.0, 2], [3], [], [4]], tf.float64)
KINDS = {
    "float64": (X, N),
    "float16 and bool": (X.astype(np.float16), N > 1),
    "x alone": (X,),
    "a dict alone": ({"b": X, "a": N},),
    "a tuple alone": ((X, N),),
    "no targets": (X, None),
    "lists": ([X, [N, X]], [N, X]),
    "weights": (X, N, X[:, 0]),
    "tensors": (tf.constant(X), tf.constant(N)),
    "text": (TEXT, N),
    "a frame": (COLUMNS, N),
    "columns": (dict(COLUMNS), COLUMNS["a"]),
    "ragged": (ROWS, N),
    "sparse": (tf.sparse.from_dense(X), N),
    "none": ({"a": X, "b": None}, N),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_train_step_is_given_what_stock_fit_gives(kind):
    given, listener = KINDS[kind], Listener()
    listener.compile(jit_compile=False)
    named = dict(zip(arrays.NAMES, given, strict=False))
    listener.fit(**named, batch_size=2, verbose=0)
    expected = listener.heard
    made = shard(given, 2)
    listener.fit(made, verbose=0)
    assert listener.heard == expected
    # The same for `simulate` and `train`.
    listener.train_step(data.ArraySource([given], 2).batch(0, 0))
    assert listener.heard == expected


class Added(keras.layers.Layer):
    """Adds what is there."""

    def call(self, x, y=None):
        return x if y is None else x + y

    def compute_output_shape(self, x_shape):
        return x_shape


@pytest.mark.parametrize("dealt", [False, True])
def test_an_input_that_is_left_out_trains_as_in_stock_fit(dealt):
    x, y = small.data(40)

    def fit(*callbacks):
        keras.utils.set_random_seed(2)
        shapes = {"a": (small.INPUTS,), "b": (small.INPUTS,)}
        a, b = (
            keras.Input(shape, name=name, optional=name == "b")
            for name, shape in shapes.items()
        )
        out = keras.layers.Dense(small.CLASSES)(Added()(a, y=b))
        model = small.compile_model(keras.Model({"a": a, "b": b}, out))
        given = {"a": x, "b": None}, y
        given = (shard(given, 8),) if dealt else given
        model.fit(*given, verbose=0, shuffle=False, callbacks=callbacks)
        return small.flat(model)

    np.testing.assert_array_equal(fit(fda_tf.FDA(theta=1.0)), fit())


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        (TEXT[:, None], tf.TensorSpec([2, 1], tf.string)),
        (TEXT.astype(str), tf.TensorSpec([2], tf.string)),
        (pd.Series(TEXT), tf.TensorSpec([2, 1], tf.string)),
        (pd.Series(TEXT, dtype="category"), tf.TensorSpec([2, 1], tf.string)),
    ],
)
def test_strings_that_stock_fit_refuses_are_taken(given, spec):
    assert shard((given,), 2).element_spec == spec


@pytest.mark.parametrize("rows", [ROWS, tf.sparse.from_dense(X)])
def test_ragged_and_sparse_samples_are_dealt_as_others(rows):
    def dense(batch):
        if isinstance(batch, tf.RaggedTensor):
            return batch.to_tensor(shape=[None, 2]).numpy()
        return tf.sparse.to_dense(batch).numpy()

    dataset = tf.data.Dataset.from_tensor_slices((rows, N))
    for given in [(rows, N), dataset]:
        for k in range(2):
            made = shard(given, 3, equal=False, process_group=Workers(k, 2))
            assert len(made) == 1
            ((x, y),) = list(made)
            np.testing.assert_array_equal(dense(x), dense(rows)[y.numpy()])


def test_every_batch_of_a_batched_dataset_is_dealt_once():
    # 7 batches of 26 samples: 2 each, or 3, 2 and 2.
    for equal, sizes in [(True, [2, 2, 2]), (False, [3, 2, 2])]:
        seen = []
        for k, size in enumerate(sizes):
            settings = {"equal": equal, "process_group": Workers(k)}
            made = shard(samples(26).batch(4), None, **settings)
            assert len(made) == max(sizes)
            batches = [x.numpy().tolist() for x, _ in made][:size]
            assert sorted(batches)[0][0] == 4 * k
            seen.extend(batches)
        assert sorted(map(len, seen))[1:] == [4] * (len(seen) - 1)
        assert len({batch[0] for batch in seen}) == len(seen) == sum(sizes)


def test_a_run_over_batches_goes_on_midway():
    def draw(made):
        return [x.numpy().tolist() for _ in range(2) for x, _ in made]

    whole = draw(shard(samples(40).batch(4), None))
    made = shard(samples(40).batch(4), None)
    made.position = 3
    assert draw(made) == whole[3:]


@pytest.mark.parametrize("given", [numbered(26), samples(26)])
def test_the_last_fraction_is_set_apart_as_keras_does(given):
    settings = {"validation_split": 0.3, "equal": False}
    parts = []
    for k in range(3):
        made, held_out = shard(given, 4, process_group=Workers(k), **settings)
        parts.extend({*drawn(made, epochs=3).ravel().tolist()})
        if isinstance(given, tuple):
            assert held_out[0].tolist() == list(range(18, 26))
        else:  # Keras splits no datasets: in batches, for fit
            batches = [x.numpy().tolist() for x, _ in held_out]
            assert batches == [[18, 19, 20, 21], [22, 23, 24, 25]]
    assert sorted(parts) == list(range(18))


def test_batches_that_look_like_samples_are_refused_by_the_model():
    x, y = small.data(40)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(4, True)
    with pytest.raises(ValueError, match=r"incompatible.*\(8, 4, 12\)"):
        fda = fda_tf.FDA(theta=1.0)
        small.linear_model().fit(shard(batches, 8), callbacks=[fda])


def test_labels_in_another_place_are_not_printed():
    with pytest.raises(ValueError) as caught:
        shard(X, np.array([77] * 4))
    assert "shard((x, y), batch_size=32)" in str(caught.value)
    assert "77" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (numbered(2), {}, "3 workers and 2 samples; expected at least one"),
        (samples(2), {}, "3 workers and 2 samples; expected at least one"),
        (unknown(2), {}, "3 workers and 2 samples; expected at least"),
        (numbered(0), {}, "The data given to shard is empty"),
        (
            (np.arange(4), np.arange(5)),
            {},
            "has arrays of the lengths .*equal lengths",
        ),
        (np.arange(9), {}, "of type ndarray; expected .x,., .x, y"),
        (([1, 2], [3, 4]), {}, "something that is no array"),
        (numbered(9), {"batch_size": 0}, "batch_size=0.*at least 1"),
        (numbered(9), {"seed": -1}, "seed=-1.*expected a whole number"),
        (samples(9), {"shuffle_buffer": 0}, "shuffle_buffer=0.*at least 1"),
        (numbered(9), {"steps_per_epoch": 0}, "steps_per_epoch=0.*at least"),
        (samples(9).repeat(), {}, "infinite size.*steps_per_epoch="),
        (unknown(9), {}, "unknown or infinite.*assert_cardinality"),
        (
            unknown(9),
            {"steps_per_epoch": 1, "validation_split": 0.5},
            "unknown or infinite.*for validation_split",
        ),
        (numbered(9), {"validation_split": 1.0}, "between 0 and 1"),
        (numbered(4), {"validation_split": 0.9}, "at least one sample to"),
        (samples(9).batch(2), {}, "batched already.*batch_size=None"),
        (numbered(9), {"batch_size": None}, "batch_size=None: expected"),
        ((np.array([1, "a", 2], object),), {}, "element 0 is a int.*alone"),
        ((pd.date_range("2020", periods=4),), {}, "dtype datetime64"),
        ((X, N, X, N), {}, "a tuple of 4 parts; expected"),
    ],
)
def test_bad_input_is_refused_in_words(given, settings, message):
    with pytest.raises(ValueError, match=message):
        shard(given, **settings, process_group=Workers(1))


@pytest.mark.parametrize("given", [numbered, samples])
def test_an_empty_part_is_refused_on_all_workers(given):
    with pytest.raises(ValueError, match="empty|and 0 samples"):
        shard(given(0), mine=True, process_group=Workers(1, 3, [4, 0, 4]))
    told = Workers(0, 3, [4, 0, 4], {1: {"error": "ValueError: mine"}})
    with pytest.raises(ValueError, match="Worker 1 cannot start: .*mine"):
        shard(given(4), mine=True, process_group=told)


@pytest.mark.parametrize("position", [-1, 1.5, None, True])
def test_an_impossible_position_is_refused(position):
    made = shard(numbered(8), 4)
    with pytest.raises(ValueError, match="position=.*expected a whole number"):
        made.position = position
