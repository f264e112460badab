"""What the fit of a cluster and the simulation are both run on."""

import keras
import numpy as np
import small

import fda_tf

BATCH, EPOCHS = 8, 4
SAMPLES = 240
FEW = ("linear", "sketch", "rich")  # for the larger clusters

threshold = fda_tf.VarianceThreshold


class Subclassed(keras.Model):
    """A model with a call of its own."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="tanh")
        self.last = keras.layers.Dense(small.CLASSES)

    def call(self, x):
        return self.last(self.hidden(x))


class OwnStep(keras.Model):
    """A model with a train_step of its own, and logs that no metric keeps."""

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=logits)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"own_loss": loss, "twice": 2 * loss}


def _linear(optimizer=None, **compiling):
    def build(seed):
        model = small.linear_model(small.start(seed))
        made = optimizer() if optimizer else keras.optimizers.SGD(small.RATE)
        return _compile(model, made, **compiling)

    return build


def _compile(model, optimizer, metrics=("accuracy",), **compiling):
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=metrics and list(metrics),
        **{"jit_compile": False} | compiling,
    )
    return model


def _subclassed(seed):
    keras.utils.set_random_seed(seed)
    return _compile(Subclassed(), keras.optimizers.Adam(0.01))


def _own_step(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((small.INPUTS,))
    outputs = keras.layers.Dense(small.CLASSES)(inputs)
    return _compile(OwnStep(inputs, outputs), keras.optimizers.SGD(0.3), None)


def _functional(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((small.INPUTS,))
    wide = keras.layers.Dense(8, activation="relu")(inputs)
    both = keras.layers.Concatenate()([inputs, wide])
    outputs = keras.layers.Dense(small.CLASSES)(both)
    return _compile(keras.Model(inputs, outputs), keras.optimizers.SGD(0.1))


def _mixed(seed):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((small.INPUTS,)),
        keras.layers.Dense(8, activation="relu", dtype="mixed_bfloat16"),
        keras.layers.Dense(small.CLASSES),
    ]
    return _compile(keras.Sequential(layers), keras.optimizers.SGD(0.3))


def _schedule():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.4, 10, 0.8)
    return keras.optimizers.SGD(schedule)


def _weighted(shard):
    x, y = shard
    return x, y, np.where(y == 0, 2.0, 0.5).astype(np.float32)


def cases():
    """Returns name -> (build(seed), options of the policy, of the shard)."""

    def run(build, sync, change=lambda shard: shard, **options):
        return build, {"sync": sync} | options, change

    decay = keras.optimizers.schedules.ExponentialDecay(0.6, 20, 0.5)
    adam = keras.optimizers.Adam
    return {
        "naive": run(_linear(), threshold(0.5, "naive")),
        "linear": run(_linear(), threshold(0.2, "linear")),
        "sketch": run(_linear(), threshold(0.2, "sketch")),
        "exact": run(_linear(), threshold(0.2, "exact")),
        "max": run(_linear(), threshold(0.6, "max")),
        "cap in steps": run(
            _linear(), threshold(0.4, "naive", fda_tf.Every(steps=9))
        ),
        "cap in epochs": run(
            _linear(),
            # At an epoch's end there is no check.
            threshold(0.5, "naive", fda_tf.Every(epochs=1), check_every=4),
        ),
        "theta schedule": run(_linear(), threshold(decay, "naive")),
        "every step": run(_linear(), fda_tf.Every(steps=1)),
        "local SGD": run(_linear(), fda_tf.Every(steps=7)),
        "FedAvg": run(_linear(), fda_tf.Every(epochs=2)),
        "server": run(
            _linear(),
            threshold(0.2, "linear"),
            server_optimizer=adam(0.05),
        ),
        "executions of 32": run(
            _linear(steps_per_execution=32), threshold(0.2, "linear")
        ),
        "executions of 4": run(
            _linear(steps_per_execution=4), threshold(0.2, "linear")
        ),
        "XLA": run(_linear(jit_compile=True), threshold(0.2, "linear")),
        "clipping": run(
            _linear(lambda: keras.optimizers.SGD(0.3, clipnorm=0.2)),
            threshold(0.05, "linear"),
        ),
        "schedule": run(_linear(_schedule), threshold(0.1, "linear")),
        "sample weights": run(
            _linear(), threshold(0.2, "linear"), change=_weighted
        ),
        "functional": run(_functional, threshold(0.02, "linear")),
        "subclassed": run(_subclassed, threshold(0.05, "linear")),
        "own train_step": run(_own_step, threshold(0.2, "linear")),
        "mixed_bfloat16": run(_mixed, threshold(0.2, "linear")),
        "rich": run(small.rich_model, threshold(0.05, "linear")),
        "local statistics": run(
            small.rich_model, threshold(0.05, "linear"), statistics="local"
        ),
    }
