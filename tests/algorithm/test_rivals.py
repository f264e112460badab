"""The rivals that need more than a clock: FedProx and AdaComm."""

import math

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from reference import gradient
from runs import BATCH, WORKERS, simulate

import fda_tf
from fda_tf.algorithm.policies import Clock
from fda_tf.data import sources
from fda_tf.workers.local_model import Worker

MU = 0.7


def prox_model(optimizer="sgd", mu=MU):
    if optimizer == "sgd":
        optimizer = keras.optimizers.SGD(small.RATE)
    return small.linear_model(
        optimizer=fda_tf.optimizers.FedProx(optimizer, mu)
    )


def test_fedprox_is_as_by_hand():
    steps, every = 12, 4
    run = simulate(fda_tf.Every(steps=every), prox_model, steps=steps)
    source = sources.ArraySource(small.shards(WORKERS), BATCH)
    w0 = small.start().astype(np.float64)
    models = [w0] * WORKERS
    for t in range(steps):
        for k, w in enumerate(models):
            x, y = (a.numpy() for a in source.batch(k, t))
            g = gradient(w, x.astype(np.float64), y) + MU * (w - w0)
            models[k] = w - small.RATE * g
        if (t + 1) % every == 0:
            w0 = np.mean(models, axis=0)
            models = [w0] * WORKERS
    np.testing.assert_allclose(small.flat(run.model), w0.ravel(), atol=1e-5)


def test_without_mu_it_is_the_inner_optimizer():
    sync = fda_tf.VarianceThreshold(0.01, "linear")
    runs = [
        simulate(sync, lambda b=build: small.linear_model(optimizer=b()))
        for build in (
            lambda: keras.optimizers.Adam(0.02, clipnorm=0.5),
            lambda: fda_tf.optimizers.FedProx(
                keras.optimizers.Adam(0.02, clipnorm=0.5), 0
            ),
        )
    ]
    assert len(runs[0].syncs) > 3 and runs[0].syncs == runs[1].syncs
    np.testing.assert_allclose(*(small.flat(r.model) for r in runs), atol=1e-6)


def test_it_is_held_nearer_the_more_mu():
    drifts = []
    for mu in (0.0, 1.0, 3.0):
        run = simulate(
            fda_tf.VarianceThreshold(1e9, "naive"),
            lambda m=mu: prox_model(mu=m),
            steps=30,
        )
        drifts.append(run.variance[-1])
    assert drifts[0] > 2 * drifts[1] > 4 * drifts[2] > 0


def test_what_is_saved_goes_on_with_its_w0(tmp_path):
    """A run stopped in mid-round, and gone on with, is one never stopped."""
    sync = fda_tf.Every(steps=8)
    whole = simulate(sync, prox_model, steps=20)
    checkpoint = fda_tf.Checkpoint(tmp_path, every=1)
    simulate(sync, prox_model, steps=13, checkpoint=checkpoint)
    again = simulate(sync, prox_model, steps=20, checkpoint=checkpoint)
    assert np.array_equal(small.flat(whole.model), small.flat(again.model))


def test_a_model_with_it_is_saved_and_loaded(tmp_path):
    model = prox_model(keras.optimizers.Adam(0.02))
    model.optimizer.learning_rate = 0.5
    x, y = small.data(16)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.mu == MU
    inner = loaded.optimizer.inner_optimizer
    assert isinstance(inner, keras.optimizers.Adam)
    assert float(loaded.optimizer.learning_rate) == 0.5
    assert int(loaded.optimizer.iterations) == 1


def test_half_precision_scales_outside_it():
    model = prox_model()
    model.compile(
        keras.optimizers.LossScaleOptimizer(
            fda_tf.optimizers.FedProx(keras.optimizers.SGD(0.1), MU),
            initial_scale=1.0,
        ),
        model.loss,
    )
    worker = Worker(model, _spec())
    worker.hold([tf.fill([39], 2.0)])
    held = model.optimizer.inner_optimizer.anchors
    assert all(bool(tf.reduce_all(v == 2.0)) for v in held)


def _spec():
    return (
        tf.TensorSpec([4, small.INPUTS], tf.float32),
        tf.TensorSpec([4], tf.int32),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fda_tf.optimizers.FedProx("sgd", -1),
            "mu=-1: expected a number of at",
        ),
        (
            lambda: fda_tf.optimizers.FedProx(fda_tf.optimizers.FedProx("sgd")),
            "expected the optimizer inside it",
        ),
        (
            lambda: fda_tf.Algorithm(
                server_optimizer=fda_tf.optimizers.FedProx("sgd")
            ),
            "is a FedProx, which is for the workers' own steps",
        ),
        (
            lambda: fda_tf.policies.AdaComm(0, 10),
            "AdaComm: first=0: expected a whole",
        ),
        (
            lambda: fda_tf.policies.AdaComm(4, 1.5),
            "AdaComm: every=1.5: expected a",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_adacomm_by_hand():
    policy = fda_tf.policies.AdaComm(first=16, every=50)
    policy.build()
    seen = []
    # (step, loss): the first is F_0 = 8
    course = [(16, 8.0), (32, 6.0), (64, 4.5), (100, 4.5), (130, 4.5), (180, 1)]
    for step, loss in course:
        policy.synchronised(Clock(step, 16, None), tf.constant(float(loss)))
        seen.append(int(policy.interval))
    # At 64: ceil(sqrt(4.5 / 8) 16) = 12. At 130, 12 is not less: 6. At 180,
    # ceil(sqrt(1 / 8) 16) = 6 is not less: 3.
    assert seen == [16, 16, 12, 12, 6, 3]


@pytest.mark.parametrize("evaluate_every", [None, 5])
def test_adacomm_reads_the_training_loss(evaluate_every):
    """Its rounds are those that the losses of NumPy's run ask for.

    Evaluations, which set Keras' own metrics to 0, are nothing to it.
    """
    first, every, steps = 12, 24, 96
    policy = fda_tf.policies.AdaComm(first, every)
    options = {}
    if evaluate_every:
        options = {
            "validation_data": small.data(seed=5),
            "evaluate_every": evaluate_every,
        }
    run = simulate(policy, steps=steps, **options)
    source = sources.ArraySource(small.shards(WORKERS), BATCH)
    w0 = small.start().astype(np.float64)
    models, losses, loss0, h, changed, begun = (
        [w0] * WORKERS,
        [],
        None,
        first,
        0,
        0,
    )
    ends = []
    for t in range(steps):
        for k, w in enumerate(models):
            x, y = (a.numpy() for a in source.batch(k, t))
            losses.append(_loss(w, x, y))
            models[k] = w - small.RATE * gradient(w, x.astype(np.float64), y)
        if t + 1 - begun >= h:
            w0 = np.mean(models, axis=0)
            models, begun = [w0] * WORKERS, t + 1
            loss, losses = np.mean(losses), []
            loss0 = loss0 or loss
            ends.append(t + 1)
            if t + 1 - changed >= every:
                wanted = math.ceil(math.sqrt(loss / loss0) * first)
                h, changed = (wanted if wanted < h else -(-h // 2)), t + 1
    got = [s.step for s in run.syncs if s.cause == "interval"]
    assert got == ends
    gaps = np.diff([0, *ends])
    assert gaps[0] == first and gaps[-1] < first / 2
    assert int(policy.interval) == h
    # One more exchange of two floats at each synchronisation.
    assert run.rows[-1]["state_bytes"] == len(ends) * WORKERS * 8


def _loss(w, x, y):
    x = np.hstack([x, np.ones((len(x), 1), x.dtype)])
    logits = x @ w
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y])


def test_adacomm_goes_on_where_it_was(tmp_path):
    whole = simulate(fda_tf.policies.AdaComm(8, 16), steps=60)
    checkpoint = fda_tf.Checkpoint(tmp_path, every=1)
    simulate(fda_tf.policies.AdaComm(8, 16), steps=29, checkpoint=checkpoint)
    again = simulate(
        fda_tf.policies.AdaComm(8, 16), steps=60, checkpoint=checkpoint
    )
    assert [s.step for s in whole.syncs] == [s.step for s in again.syncs]
    assert np.array_equal(small.flat(whole.model), small.flat(again.model))


def test_a_model_without_a_loss_metric_is_refused():
    class NoLoss(keras.Model):
        @property
        def metrics(self):
            return []

    def build():
        inputs = keras.Input((small.INPUTS,))
        outputs = keras.layers.Dense(small.CLASSES)(inputs)
        return small.compile_model(NoLoss(inputs, outputs))

    with pytest.raises(ValueError, match='has no metric "loss"'):
        simulate(fda_tf.policies.AdaComm(8, 16), build)
