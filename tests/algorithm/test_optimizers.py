"""Optimizers inside others, and those that a model holds besides its own."""

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from reference import gradient
from runs import BATCH, WORKERS, simulate

import fda_tf
from fda_tf.algorithm import optimizers
from fda_tf.data import sources
from fda_tf.workers import description
from fda_tf.workers.local_model import Worker

O = keras.optimizers  # noqa: E741
STEPS, MU = 12, 0.7


class TwoOptimizers(keras.Model):
    """Its bias has an optimizer of its own, as a GAN's discriminator has."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        kernel, bias = self.trainable_variables
        of_kernel, of_bias = tape.gradient(loss, [kernel, bias])
        self.optimizer.apply([of_kernel], [kernel])
        self.held["bias"][0].apply([of_bias], [bias])
        return {"loss": loss}


def two_optimizers(first, second):
    """Returns a compiled model that starts as `small.linear_model`."""
    x = keras.Input((small.INPUTS,))
    model = TwoOptimizers(x, keras.layers.Dense(small.CLASSES)(x))
    model.held = {"bias": [second]}
    w = small.start()
    model.set_weights([w[:-1], w[-1]])
    return small.compile_model(model, first)


def multi(kernel, bias):
    """Returns one optimizer, which gives each variable to one of two."""
    return O.MultiOptimizer(lambda v: bias if "bias" in v.path else kernel)


def with_average(**options):
    return O.SGD(0.1, use_ema=True, **options)


class Wrapper(O.SGD):
    """An optimizer of a user, who keeps others in a list."""

    def __init__(self, *others):
        super().__init__(0.1)
        self.others = list(others)

    def apply(self, grads, variables=None):
        self.others[0].apply(grads, variables)

    @property
    def variables(self):
        return self.others[0].variables


AVERAGES = {
    "scaled": lambda: O.LossScaleOptimizer(with_average()),
    "in FedProx": lambda: fda_tf.optimizers.FedProx(with_average()),
    "one of many": lambda: O.MultiOptimizer(
        O.OptimizerMap(O.SGD(0.1), {".*bias": with_average()})
    ),
    "chosen when built": lambda: multi(O.SGD(0.1), with_average()),
    "scaled, one of many": lambda: O.LossScaleOptimizer(
        multi(with_average(ema_overwrite_frequency=3), O.SGD(0.1))
    ),
    "in a list": lambda: Wrapper(with_average()),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_a_moving_average_is_found_wherever_it_is(name):
    with pytest.raises(ValueError, match=r"Received SGD\(use_ema=True\)"):
        simulate(
            fda_tf.Every(steps=1),
            lambda: small.linear_model(optimizer=AVERAGES[name]()),
        )


def test_so_is_that_of_an_optimizer_that_the_model_holds_besides():
    with pytest.raises(ValueError, match=r"Received SGD\(use_ema=True\)"):
        simulate(
            fda_tf.Every(steps=1),
            lambda: two_optimizers(O.SGD(0.1), with_average()),
        )


def test_one_that_no_step_uses_is_left_alone():
    def build():
        model = small.linear_model()
        model.before = with_average()  # such as a teacher was trained with
        return model

    assert simulate(fda_tf.Every(steps=1), build, steps=3).syncs


def proximal():
    """Returns runs that must all be one: FedProx, inside and beside others."""

    def prox():
        return fda_tf.optimizers.FedProx(O.SGD(small.RATE), MU)

    return {
        "one of many": lambda: small.linear_model(
            optimizer=multi(prox(), prox())
        ),
        "many in one": lambda: small.linear_model(
            optimizer=fda_tf.optimizers.FedProx(
                multi(O.SGD(small.RATE), O.SGD(small.RATE)), MU
            )
        ),
        "held besides": lambda: two_optimizers(prox(), prox()),
    }


@pytest.mark.parametrize("name", proximal())
def test_fedprox_is_held_near_w0_wherever_it_is(name):
    sync = fda_tf.Every(steps=4)
    expected = simulate(
        sync,
        lambda: small.linear_model(
            optimizer=fda_tf.optimizers.FedProx(O.SGD(small.RATE), MU)
        ),
        steps=STEPS,
    )
    run = simulate(sync, proximal()[name], steps=STEPS)
    np.testing.assert_allclose(
        small.flat(run.model), small.flat(expected.model), atol=1e-6
    )


def test_a_fedprox_deep_inside_another_is_refused():
    with pytest.raises(ValueError, match="expected the optimizer inside it"):
        fda_tf.optimizers.FedProx(
            O.LossScaleOptimizer(fda_tf.optimizers.FedProx("sgd"))
        )


def described(*optimizers):
    """Returns what is compared of two optimizers over the workers."""
    model = two_optimizers(*optimizers)
    spec = (
        tf.TensorSpec([None, small.INPUTS], tf.float32),
        tf.TensorSpec([None], tf.int32),
    )
    return description.describe(Worker(model, spec))


def test_settings_of_all_optimizers_are_compared():
    one = described(O.SGD(0.1), O.Adam(0.1, beta_1=0.5))
    other = described(O.SGD(0.1), O.Adam(0.1, beta_1=0.6))
    unlike = [name for name in one if one[name] != other[name]]
    assert "optimizer 1 (Adam)" in unlike and "optimizer" not in unlike


def test_a_run_goes_on_with_other_rates_of_all_optimizers(tmp_path):
    def run(rate, steps):
        return simulate(
            fda_tf.Every(steps=2),
            lambda: two_optimizers(O.SGD(rate), multi(O.SGD(0.1), O.SGD(rate))),
            steps=steps,
            checkpoint=fda_tf.Checkpoint(tmp_path, every=3),
        )

    run(0.1, 3)
    assert run(0.2, 6).rows[-1]["step"] == 6  # it would be refused


def test_accumulated_gradients_are_a_workers_own():
    # Two steps' gradients make a worker's one step, as by hand; what a
    # synchronisation finds accumulated is kept.
    run = simulate(
        fda_tf.Every(steps=3),
        lambda: small.linear_model(
            optimizer=O.SGD(small.RATE, gradient_accumulation_steps=2)
        ),
        steps=STEPS,
    )
    source = sources.ArraySource(small.shards(WORKERS), BATCH)
    models = [small.start().astype(np.float64)] * WORKERS
    kept = [0.0] * WORKERS
    for t in range(STEPS):
        for k in range(WORKERS):
            x, y = (a.numpy() for a in source.batch(k, t))
            kept[k] = kept[k] + gradient(models[k], x.astype(np.float64), y)
            if t % 2:
                models[k] = models[k] - small.RATE * kept[k] / 2
                kept[k] = 0.0
        if t % 3 == 2:
            models = [np.mean(models, axis=0)] * WORKERS
    np.testing.assert_allclose(
        small.flat(run.model), models[0].ravel(), atol=1e-5
    )


def test_a_loss_scale_that_fits_changes_nothing():
    sync = fda_tf.VarianceThreshold(0.1, "linear")
    plain, scaled = (
        simulate(sync, lambda b=b: small.linear_model(optimizer=b()))
        for b in (
            lambda: O.SGD(small.RATE),
            lambda: O.LossScaleOptimizer(
                O.SGD(small.RATE), initial_scale=1024.0, dynamic_growth_steps=9
            ),
        )
    )
    assert len(plain.syncs) > 2 and plain.syncs == scaled.syncs
    np.testing.assert_array_equal(
        small.flat(plain.model), small.flat(scaled.model)
    )


def test_the_model_among_the_slots_of_schedule_free_is_a_workers_own():
    # The model has y = (1 - b) z + b x; z is a slot. y is averaged, z is not.
    rate, b = 0.1, 1.0

    def build():
        model = small.linear_model(optimizer=O.ScheduleFreeAdamW(rate, b))
        # Built in the trace, as fit does it, Keras leaves z at 0.
        model.optimizer.build(model.trainable_variables)
        return model

    run = simulate(fda_tf.Every(steps=3), build, steps=STEPS)
    source = sources.ArraySource(small.shards(WORKERS), BATCH)
    y = [small.start().astype(np.float64)] * WORKERS
    z, v = list(y), [0.0] * WORKERS
    for t in range(STEPS):
        for k in range(WORKERS):
            inputs, labels = (a.numpy() for a in source.batch(k, t))
            g = gradient(y[k], inputs.astype(np.float64), labels)
            v[k] = 0.999 * v[k] + 0.001 * g**2
            x = (y[k] - (1 - b) * z[k]) / b
            z[k] = z[k] - rate * g / (
                np.sqrt(v[k] / (1 - 0.999 ** (t + 1))) + 1e-8
            )
            x = x + (z[k] - x) / (t + 1)
            y[k] = (1 - b) * z[k] + b * x
        if t % 3 == 2:
            y = [np.mean(y, axis=0)] * WORKERS
    np.testing.assert_allclose(small.flat(run.model), y[0].ravel(), atol=1e-4)


def test_nested_ends_where_optimizers_hold_each_other():
    one, other = Wrapper(O.SGD(0.1)), Wrapper()
    one.others.append(other)
    other.others.append(one)
    assert [type(o) for o in optimizers.nested(one)] == [
        Wrapper,
        O.SGD,
        Wrapper,
    ]
