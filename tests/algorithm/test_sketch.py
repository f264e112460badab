"""The AMS sketch: its map, its tables, and the spread of its estimates."""

import numpy as np
import pytest
import tensorflow as tf

from experiments.bench import sketch as bench
from fda_tf.algorithm import sketch as sketch_module
from fda_tf.algorithm import sketch as sketch_tables
from fda_tf.algorithm.sketch import AMSSketch, squared_norm

EDGES = ["1", "2", "W-1", "W", "W+1", "W*W-1", "W*W", "W*W+1", "3*W*W+7"]
SEEDS = 400


def twin(vector, depth, width, seed):
    """The sketch by a cell and a sign for each coordinate, in float64."""
    tables = sketch_tables.draw(vector.size, depth, width, seed)
    places = tables.shifts.shape[1]
    block, column = np.divmod(np.arange(vector.size), width)
    group = block // places
    column_signs = np.cumprod(tables.flips[::-1], axis=0)[::-1]
    rows = []
    for r in range(depth):
        place = (block - tables.rotations[group, r]) % places
        cell = (column + tables.shifts[r, place]) % width
        sign = tables.signs[group, place, r] * column_signs[group, column]
        rows.append(np.bincount(cell, sign * vector.astype(float), width))
    return np.array(rows)


def gaussian(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size, np.float32)


def assert_is_twin(vector, depth, width, seed):
    found = AMSSketch(vector.size, depth, width, seed).sketch(vector)
    assert found.shape == (depth, width)
    assert found.dtype == tf.float32
    expected = twin(vector, depth, width, seed)
    scale = 1e-6 * np.linalg.norm(vector)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=scale)


@pytest.mark.parametrize("width", [2, 7, 250, 251])
@pytest.mark.parametrize("edge", EDGES)
def test_is_its_numpy_twin_at_every_edge(edge, width):
    size = eval(edge, {"W": width})
    assert_is_twin(gaussian(size), depth=3, width=width, seed=5)


@pytest.mark.parametrize("groups", [1, 2, 16, 17, 31, 32, 47])
@pytest.mark.parametrize("extra", [-9, 0])
def test_is_its_numpy_twin_for_any_number_of_groups(groups, extra):
    size = groups * 8 * 8 + extra  # the last group whole, or not, or its block
    assert_is_twin(gaussian(size), depth=3, width=8, seed=[1, 2])


@pytest.mark.parametrize("depth", [1, 3, 5, 7])
def test_is_its_numpy_twin_at_every_depth(depth):
    assert_is_twin(gaussian(1000), depth=depth, width=9, seed=0)


def test_is_its_numpy_twin_at_the_default_settings():
    assert_is_twin(gaussian(1_100_003), depth=5, width=250, seed=0)


@pytest.mark.parametrize("size", [61_706, 300_003])
def test_is_linear(size):
    ams = AMSSketch(size, seed=3)
    a, b = gaussian(size, 1), gaussian(size, 2)
    expected = 2.0 * ams.sketch(a) - 0.5 * ams.sketch(b)
    found = ams.sketch(2.0 * a - 0.5 * b)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("size", [1, 61_706, 300_003])
def test_of_zero_is_zero(size):
    cells = AMSSketch(size).sketch(tf.zeros([size]))
    assert not np.any(cells)
    assert squared_norm(cells) == 0.0


@pytest.mark.parametrize("place", [0, 249, 250, 62_500, 299_999, 300_002])
def test_of_one_coordinate_is_exact(place):
    vector = np.zeros(300_003, np.float32)
    vector[place] = 0.3
    cells = AMSSketch(vector.size, seed=1).sketch(vector).numpy()
    assert (np.count_nonzero(cells, axis=1) == 1).all()
    assert squared_norm(tf.constant(cells)) == np.square(np.float32(0.3))


@pytest.mark.parametrize("size", [61_706, 300_003])
def test_a_seed_determines_it(size):
    vector = gaussian(size)
    one, same, other = (
        AMSSketch(size, seed=seed).sketch(vector) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.mean(one.numpy() == other.numpy()) < 0.01


def test_tables_never_change():
    """Workers of unlike versions must draw alike, so no version may change."""
    tables = sketch_tables.draw(12, depth=1, width=2, seed=1)
    assert tables.shifts.tolist() == [[0, 1]]
    assert tables.rotations.ravel().tolist() == [1, 0, 0]
    assert tables.signs.ravel().tolist() == [1, -1, 1, -1, 1, 1]
    assert tables.flips.ravel().tolist() == [1, -1, 1, 1, 1, -1]


def test_not_a_number_stays_one():
    vector = gaussian(1000)
    vector[77] = np.nan
    assert np.isnan(squared_norm(AMSSketch(1000, width=10).sketch(vector)))


# The spread of the estimates.


@pytest.fixture(scope="module", params=[61_706, 300_003])
def errors(request):
    """Relative errors of the rows over seeds: [seeds, depth], by vector."""
    vectors = bench.named_vectors(request.param, width=250)
    return bench.row_errors(vectors, SEEDS)


def test_drift_is_one_of_a_model_that_learns():
    drift = bench.sgd_drift(61_706, np.random.default_rng(0))
    assert np.isfinite(drift).all()
    assert drift.shape == (61_706,)
    assert 0.5 < np.mean(drift != 0) <= 1


def test_rows_are_unbiased(errors):
    for name, error in errors.items():
        bound = 4 * np.sqrt(2 / 250 / error.size)
        assert abs(error.mean()) < bound, name


def test_rows_vary_as_an_ideal_sketch(errors):
    unit = np.sqrt(2 / 250)
    limits = dict.fromkeys(errors, 1.55) | {"gaussian": 1.1}
    found = {n: np.sqrt(np.mean(e**2)) / unit for n, e in errors.items()}
    assert {n: sd for n, sd in found.items() if sd > limits[n]} == {}
    # What the module's docstring proves, and the error of 2,000 rows.
    assert max(found.values()) < 1.1
    assert found["one_hot"] == 0.0


def test_rows_err_independently(errors):
    for name in ("gaussian", "constant", "period_w2", "drift"):
        correlations = np.corrcoef(errors[name].T)
        assert np.abs(np.triu(correlations, 1)).max() < 4 / np.sqrt(SEEDS), name


def test_median_is_within_three_epsilon(errors):
    epsilon = 1 / np.sqrt(250)
    for name, error in errors.items():
        near = np.abs(np.median(error, axis=1)) < 3 * epsilon
        assert near.mean() >= 0.985, name


@pytest.mark.parametrize("width", [2, 3, 10, 251])
def test_variance_is_ideal_for_other_widths(width):
    """Even and odd widths; half a width apart is the proof's special case."""
    size = min(40 * width**2, 3 * 251**2)
    half = np.where(np.arange(size) % width % max(1, width // 2), 0.0, 1.0)
    vectors = {
        "constant": np.ones(size, np.float32),
        "half": half.astype(np.float32),
        "spikes": (np.arange(size) % width**2 == 0).astype(np.float32),
    }
    for name, error in bench.row_errors(vectors, 200, 3, width).items():
        sd = np.sqrt(np.mean(error**2) * (width - 1) / 2)
        assert sd < 1.15, name


# The estimate.


def test_squared_norm_is_the_median_row():
    rows = [[3.0, 0.0, 1.0], [2.0, 2.0, 2.0], [0.0, 0.0, 1.0]]
    assert squared_norm(tf.constant(rows)) == 10.0


def test_squared_norm_adds_halves_onto_halves():
    small = 2.0**-12  # its square is lost when it is added to 1 alone
    row = tf.constant([[small, 1.0, small]])
    assert squared_norm(row) == 1.0 + 2.0**-23
    row = tf.constant([[1.0, small, small]])
    assert squared_norm(row) == 1.0


def test_squared_norm_of_a_wide_row_is_bit_equal_to_the_tree():
    rows = gaussian(5 * 250).reshape(5, 250)
    sums = np.pad(rows * rows, [[0, 0], [0, 6]])
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    expected = np.median(sums)
    assert squared_norm(tf.constant(rows)).numpy() == expected
    assert tf.function(squared_norm)(tf.constant(rows)).numpy() == expected


# In graphs.


@pytest.mark.parametrize("size", [1000, 64_000])
def test_runs_in_loops_and_branches_of_a_function(size):
    ams = AMSSketch(size, depth=3, width=20)
    vector = tf.constant(gaussian(size))
    traces = []

    @tf.function
    def repeat(vector, steps):
        traces.append(None)

        def body(i, total):
            cells = tf.cond(
                i % 2 == 0,
                lambda: ams.sketch(vector),
                lambda: tf.zeros([3, 20]),
            )
            return i + 1, total + cells

        zeros = (tf.constant(0), tf.zeros([3, 20]))
        return tf.while_loop(lambda i, _: i < steps, body, zeros)[1]

    expected = ams.sketch(vector)
    for steps in (1, 2):
        found = repeat(vector, tf.constant(steps))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert len(traces) == 1


def test_can_be_made_inside_a_function():
    vector = tf.constant(gaussian(1000))
    made = []

    @tf.function
    def sketch(vector):
        made.append(AMSSketch(1000, width=10))
        return made[-1].sketch(vector)

    found = sketch(vector)
    np.testing.assert_array_equal(found, made[0].sketch(vector))


def test_equal_shapes_share_one_trace():
    vector = tf.constant(gaussian(20_000))
    AMSSketch(20_000, width=50, seed=0).sketch(vector)
    functions = (sketch_module._add_groups, sketch_module._fold)
    before = [f.experimental_get_tracing_count() for f in functions]
    AMSSketch(20_000, width=50, seed=1).sketch(vector)
    after = [f.experimental_get_tracing_count() for f in functions]
    assert before == after


# Memory and errors.


def test_tables_grow_by_less_than_a_tenth_of_a_byte_a_parameter():
    small, large = AMSSketch(1_000_000), AMSSketch(9_000_000)
    growth = (large.table_bytes - small.table_bytes) / 8_000_000
    assert growth == pytest.approx((5 + 4) / 250, rel=0.05)
    assert AMSSketch(61_706).table_bytes < 20_000


@pytest.mark.slow
def test_two_hundred_million_coordinates():
    size = 200_000_000
    ams = AMSSketch(size)
    assert ams.table_bytes < 0.1 * size
    vector = tf.random.stateless_normal([size], [1, 2])
    estimate = squared_norm(ams.sketch(vector)) / tf.reduce_sum(vector**2)
    assert abs(float(estimate) - 1) < 3 / np.sqrt(250)
    one = tf.scatter_nd([[size - 1]], [0.3], [size])
    assert squared_norm(ams.sketch(one)) == np.square(np.float32(0.3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size=0. Expected at least 1"),
        ({"size": 9, "depth": 0}, "depth=0. Expected a positive odd number"),
        ({"size": 9, "depth": 4}, "depth=4. Expected a positive odd number"),
        ({"size": 9, "depth": -3}, "depth=-3. Expected a positive odd number"),
        ({"size": 9, "width": 1}, "width=1. Expected at least 2 cells"),
        ({"size": 9, "seed": -1}, "seed=-1. Expected integers from 0"),
        ({"size": 9, "seed": [0, 2**32]}, "Expected integers from 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AMSSketch(**settings)


@pytest.mark.parametrize(
    "vector", [tf.zeros([8]), tf.zeros([3, 3]), tf.zeros([9], tf.float64)]
)
def test_a_vector_of_another_kind_is_refused(vector):
    with pytest.raises(ValueError, match=r"Expected float32 \[9\]: flatten"):
        AMSSketch(9).sketch(vector)


@pytest.mark.parametrize("shape", [[5], [4, 10], [1, 5, 10]])
def test_squared_norm_refuses_what_is_no_sketch(shape):
    with pytest.raises(ValueError, match="with an odd depth"):
        squared_norm(tf.zeros(shape))


# The benchmark.


def test_bench_measures_a_row():
    row = bench.measure(3000, repeats=1, seeds=2)
    assert row["d"] == 3000
    assert row["scatter"]["bytes_per_param"] == 60.0
    assert set(row["row_sd"]) == set(bench.named_vectors(3000, 250))
    assert [r["form"] for r in bench.flat(row)] == ["sketch", "scatter"]


def test_bench_compares_with_an_unbiased_scatter():
    vector = tf.constant(gaussian(5000))
    cells = bench.scatter_sketch(5000)[0](vector)
    estimate = squared_norm(cells) / tf.reduce_sum(vector**2)
    assert abs(float(estimate) - 1) < 3 / np.sqrt(250)
