"""What travels at a synchronisation: closed forms, bounds, what it sends."""

import keras
import ml_dtypes
import numpy as np
import pytest
import small
import tensorflow as tf
from runs import BATCH, WORKERS, simulate

import fda_tf
from fda_tf.algorithm import compression
from fda_tf.algorithm.compression import BFloat16, Float32, Int8, TopK
from fda_tf.data import sources
from fda_tf.workers import byte_meter

ALL = [Float32(), BFloat16(), Int8(), Int8(feedback=True), TopK(0.1)]
SIZES = [1, 255, 256, 1000]


class Half(Float32):
    """Half of the drift."""

    def encode(self, drift, seed):
        return [drift / 2]


def drift(size=1000, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=size) ** 3).astype(np.float32)


def travel(compression, u, seed=(1, 2)):
    """Returns a drift as the receiver reads it."""
    sent = compression.encode(tf.constant(u), tf.constant(seed))
    return compression.decode(sent, len(u)).numpy()


def scales(u):
    """Returns the scale of each number, as Int8 has it, by NumPy."""
    blocks = [u[i : i + 256] for i in range(0, len(u), 256)]
    parts = [np.full(len(b), np.abs(b).max() / 127) for b in blocks]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_is_rounded_to_nearest(size):
    u = drift(size)
    expected = u.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(travel(BFloat16(), u), expected)


@pytest.mark.parametrize("size", SIZES)
def test_int8_with_feedback_is_within_half_a_scale(size):
    u = drift(size)
    got, s = travel(Int8(feedback=True), u), scales(u)
    assert np.all(np.abs(got - u) <= 0.5001 * s)
    np.testing.assert_allclose(got, np.round(u / s) * s, rtol=1e-6)


def test_stochastic_rounding_is_unbiased_and_within_a_scale():
    u, draws = drift(512), 4000
    s = scales(u)
    got = np.stack([travel(Int8(), u, (3, k)) for k in range(draws)])
    error = got - u
    assert np.all(np.abs(error) <= 1.0001 * s)
    # Each error lies in an interval of length s: its spread is at most s / 2.
    assert np.all(np.abs(error.mean(0)) < 5 * s / 2 / draws**0.5)
    share = u / s - np.floor(u / s)
    spread = s * np.sqrt(share * (1 - share))
    np.testing.assert_allclose(error.std(0), spread, atol=0.05 * s.max())


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 100), (1.0, 1000)])
def test_topk_sends_the_largest(fraction, count):
    u = drift()
    got = travel(TopK(fraction), u)
    largest = np.argsort(-np.abs(u))[:count]
    expected = np.zeros_like(u)
    expected[largest] = u[largest]
    np.testing.assert_array_equal(got, expected)


def test_topk_sends_one_at_least():
    assert travel(TopK(1e-6), drift()).nonzero()[0].size == 1


@pytest.mark.parametrize("compression", ALL, ids=repr)
def test_a_drift_of_zeros_stays_one(compression):
    assert not travel(compression, np.zeros(300, np.float32)).any()


@pytest.mark.parametrize(
    "compression", [Int8(feedback=True), TopK(0.05)], ids=repr
)
def test_feedback_sends_everything_in_the_end(compression):
    """The sum of what is read is that of the drifts, but for one residual."""
    left, total, read = np.zeros(1000, np.float32), 0.0, 0.0
    for t in range(60):
        u = drift(seed=t % 3)
        got = travel(compression, u + left)
        left, total, read = u + left - got, total + u, read + got
    np.testing.assert_allclose(read + left, total, rtol=1e-4, atol=1e-3)
    assert np.linalg.norm(left) < 0.5 * np.linalg.norm(total)
    if isinstance(compression, Int8):
        assert np.all(np.abs(left) <= 0.51 * scales(left + got))


def replay(compression, steps, clients_per_round=None):
    """Returns local SGD with H = 1 by NumPy; only the compression is ours."""
    from reference import gradient

    source = sources.ArraySource(small.shards(WORKERS), BATCH)
    w0 = small.start().astype(np.float64)
    left = [np.zeros(w0.size, np.float32)] * WORKERS
    for t in range(steps):
        read = []
        for k in range(WORKERS):
            x, y = (a.numpy() for a in source.batch(k, t))
            step = small.RATE * gradient(w0, x.astype(np.float64), y)
            u = (-step).ravel().astype(np.float32) + left[k]
            read.append(travel(compression, u, (t + 1, k)))
            if compression.feedback:
                left[k] = u - read[-1]
        w0 = w0 + np.mean(read, axis=0).reshape(w0.shape)
    return w0.ravel()


@pytest.mark.parametrize("compression", [*ALL, Half()], ids=repr)
def test_the_loop_averages_what_is_read(compression):
    run = simulate(fda_tf.Every(steps=1), compression=compression, steps=12)
    # bfloat16 is summed in itself: three more roundings.
    near = 1e-2 if isinstance(compression, BFloat16) else 2e-4
    np.testing.assert_allclose(
        small.flat(run.model), replay(compression, 12), atol=near
    )


def test_bytes_are_those_of_the_tensors():
    weights = small.start().size  # 39
    words = {
        None: weights,
        "bfloat16": weights / 2,
        "int8": 10 + 1,  # 39 bytes in whole words, and one scale
        "topk": 2 * 1,  # 1 % of 39 is none; one is sent, with its place
    }
    for name, count in words.items():
        row = simulate(fda_tf.Every(steps=1), compression=name, steps=10).rows[
            -1
        ]
        ring = name in (None, "bfloat16")
        back = count if ring else weights  # a server's answer is dense
        up, down = (10 * WORKERS * 4 * n for n in (count, back))
        assert row["model_bytes"] == up + down
        times = 2 * (WORKERS - 1) if ring else WORKERS * (WORKERS - 1)
        calls = 4 * times
        assert row["wire_bytes"] == 10 * (times * 4 * count + calls)


def test_a_gather_counts_what_everyone_receives():
    meter = byte_meter.Meter(5)
    meter.gather("model", [tf.zeros(3, tf.int32)], [tf.zeros(100)])
    assert meter.paid("model") == 5 * 12
    assert int(meter.both_ways("model")) == 5 * (12 + 400)
    assert meter.on_wire("model") == 5 * 4 * 12


@pytest.mark.parametrize("compression", ALL, ids=repr)
def test_a_bad_drift_is_not_lost_in_whole_numbers(compression):
    shards = small.shards(WORKERS)
    shards[2] = (np.full_like(shards[2][0], np.nan), shards[2][1])
    with pytest.raises(FloatingPointError, match="worker 2 is NaN"):
        fda_tf.simulate(
            small.linear_model,
            shards,
            fda_tf.Algorithm(fda_tf.Every(steps=2), compression=compression),
            steps=4,
            batch_size=BATCH,
        )


@pytest.mark.parametrize("make", [
    lambda: None,
    lambda: keras.optimizers.SGD(0.5, momentum=0.9),
])  # fmt: skip
def test_one_worker_alone_compresses_nothing(make):
    run, plain = (
        simulate(
            fda_tf.Every(steps=3),
            workers=1,
            server_optimizer=make(),
            compression=compression,
        )
        for compression in ("topk", None)
    )
    np.testing.assert_array_equal(
        small.flat(run.model), small.flat(plain.model)
    )
    assert run.rows[-1]["wire_bytes"] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(0), "fraction=0: expected a number above 0, at most 1"),
        (lambda: TopK(1.5), "fraction=1.5: expected a number above 0"),
        (lambda: TopK(float("nan")), "fraction=nan"),
        (lambda: Int8(feedback=2), "feedback=2: expected True or False"),
        (
            lambda: compression.get("int4"),
            "Unknown compression 'int4'. Known: bfloat16",
        ),
        (
            lambda: simulate(fda_tf.Every(steps=1), compression=8),
            "Unknown compression 8. Known: bfloat16, int8, topk",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
