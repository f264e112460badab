"""Server optimizers on the pseudo-gradient, against their formulas."""

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

import fda_tf
from fda_tf.algorithm.optimizers import ServerStep, check_server_optimizer
from fda_tf.tensors import vectors
from fda_tf.tensors.vectors import Layout

SHAPES = [(2, 3), (3,)]
W0 = np.linspace(-1, 1, 9).astype(np.float32)


def rounds(optimizer, means):
    """Returns w_0 after a server has seen each of the workers' means."""
    names = ["dense/kernel", "dense/bias"]
    server = ServerStep(optimizer, Layout(SHAPES), names)
    w0 = small.as_tensors(W0)
    for mean in means:
        w0 = server.apply(w0, small.as_tensors(mean))
    return np.concatenate(w0)


def means(count=3):
    """Returns some means of the workers' models."""
    return np.random.default_rng(0).normal(size=(count, 9)).astype(np.float32)


def by_hand(update):
    """Returns w_0 after `update(w, gradient, round)` for each mean."""
    w = W0.astype(np.float64)
    for t, mean in enumerate(means(), start=1):
        w = update(w, w - mean, t)
    return w


def test_sgd_of_rate_one_is_plain_averaging():
    got = rounds(keras.optimizers.SGD(1.0), means(1))
    np.testing.assert_allclose(got, means(1)[0], atol=1e-6)
    plain = rounds(None, means(1))
    np.testing.assert_array_equal(plain, means(1)[0])


def test_fedavgm():
    v = np.zeros(9)

    def update(w, g, t):
        v[:] = 0.9 * v - 0.5 * g
        return w + v

    got = rounds(keras.optimizers.SGD(0.5, momentum=0.9), means())
    np.testing.assert_allclose(got, by_hand(update), rtol=1e-4, atol=1e-5)


def test_fedadam():
    m, v = np.zeros(9), np.zeros(9)

    def update(w, g, t):
        m[:] = 0.9 * m + 0.1 * g
        v[:] = 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)
        return w - 0.1 * step

    got = rounds(keras.optimizers.Adam(0.1), means())
    np.testing.assert_allclose(got, by_hand(update), rtol=1e-3, atol=1e-4)


def test_fedyogi():
    m, v = np.zeros(9), np.full(9, 1e-6)

    def update(w, g, t):
        m[:] = 0.9 * m + 0.1 * g
        v[:] = v - 0.01 * g**2 * np.sign(v - g**2)
        return w - 0.1 * m / (np.sqrt(v) + 1e-3)

    got = rounds(fda_tf.optimizers.Yogi(0.1), means())
    np.testing.assert_allclose(got, by_hand(update), rtol=1e-4, atol=1e-5)


def test_yogi_is_saved_and_loaded():
    yogi = fda_tf.optimizers.Yogi(0.3, beta_1=0.8, epsilon=0.01)
    config = keras.optimizers.serialize(yogi)
    again = keras.optimizers.deserialize(config)
    assert again.get_config() == yogi.get_config()


def test_the_schedule_counts_synchronisations():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [1], [1.0, 0.0]
    )
    got = rounds(keras.optimizers.SGD(schedule), means())
    # Rates 1, 1, 0: boundaries are inclusive in Keras.
    np.testing.assert_allclose(got, means()[1], atol=1e-6)


def test_weight_decay_excludes_by_name():
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    got = rounds(optimizer, [W0])  # the pseudo-gradient is 0
    np.testing.assert_allclose(got[:6], 0.5 * W0[:6], atol=1e-6)
    np.testing.assert_allclose(got[6:], W0[6:], atol=1e-6)


def test_a_server_optimizer_trains():
    run = fda_tf.simulate(
        small.linear_model,
        small.shards(4),
        fda_tf.Algorithm(
            fda_tf.Every(steps=5),
            server_optimizer=keras.optimizers.SGD(
                0.7, momentum=0.9, nesterov=True
            ),
        ),
        steps=60,
        batch_size=8,
        validation_data=small.data(),
    )
    assert run.rows[-1]["syncs"] == 12
    assert run.rows[-1]["val_accuracy"] > 0.7


@pytest.mark.parametrize(
    "server, norms",
    [
        (None, 1),
        (keras.optimizers.SGD(0.7), 2),
    ],
)
def test_a_plain_average_is_looked_through_once(monkeypatch, server, norms):
    # Each look is some passes over the whole model.
    looks, alike = [], vectors.squared_norm_alike
    monkeypatch.setattr(
        vectors, "squared_norm_alike", lambda v: looks.append(v) or alike(v)
    )
    fda_tf.simulate(
        small.linear_model,
        small.shards(2),
        fda_tf.Algorithm(fda_tf.Every(steps=9), server_optimizer=server),
        steps=1,
        batch_size=8,
    )
    in_graphs = [v for v in looks if tf.is_symbolic_tensor(v[0])]
    assert len(in_graphs) == 2 * norms  # in the loop, and at the end


def test_a_schedule_may_warm_up_from_zero():
    warm = keras.optimizers.schedules.CosineDecay(
        0.0, 10, warmup_target=1.0, warmup_steps=2
    )
    got = rounds(keras.optimizers.SGD(warm), means(1))
    np.testing.assert_array_equal(got, W0)  # the first rate is 0


def test_a_schedule_need_not_tell_its_settings():
    class Halves(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5

    got = rounds(keras.optimizers.SGD(Halves()), means(1))
    np.testing.assert_allclose(got, (W0 + means(1)[0]) / 2, atol=1e-6)


def test_a_server_shows_its_settings_and_no_made_up_name():
    def config():
        server = keras.optimizers.SGD(0.5, momentum=0.25)
        algorithm = fda_tf.Algorithm(server_optimizer=server)
        return algorithm.get_config()["server_optimizer"]

    one = config()
    assert one == config() and one["class_name"] == "SGD"
    assert one["config"]["learning_rate"] == 0.5
    assert one["config"]["momentum"] == 0.25


def test_impossible_servers_are_refused():
    with pytest.raises(ValueError, match="expected None or a keras.optimizers"):
        check_server_optimizer("adam")
    sgd, scaled = keras.optimizers.SGD, keras.optimizers.LossScaleOptimizer
    for still in (sgd(0.0), scaled(sgd(0.0))):
        with pytest.raises(ValueError, match="learning rate is 0"):
            check_server_optimizer(still)
    # It would divide by the scale: w_0 would all but stand still.
    with pytest.raises(ValueError, match="Give the optimizer inside it"):
        check_server_optimizer(scaled(sgd(1.0)))
    for frequency in (None, 5):
        average = {"use_ema": True, "ema_overwrite_frequency": frequency}
        with pytest.raises(ValueError, match="Leave use_ema and ema_over"):
            check_server_optimizer(sgd(1.0, **average))
    server = keras.optimizers.SGD(1.0)
    ServerStep(server, Layout(SHAPES), ["kernel", "bias"])
    with pytest.raises(ValueError, match="has been used before"):
        ServerStep(server, Layout(SHAPES), ["kernel", "bias"])
