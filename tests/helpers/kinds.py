"""Kinds of models that stock `fit` takes, besides the ordinary one."""

import keras
import numpy as np
import small
import tensorflow as tf

import fda_tf

BATCH, EPOCHS = 8, 2
Trainer = next(c for c in keras.Model.__mro__ if c.__name__.endswith("Trainer"))


def _apply(model, optimizer, tape, loss, weights):
    optimizer.apply_gradients(
        zip(tape.gradient(loss, weights), weights, strict=True)
    )


class Autoencoder(keras.Model):
    """A variational one: noise in train_step, and no call()."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.layers.Dense(4)
        self.decoder = keras.layers.Dense(small.INPUTS)
        self.seeds = keras.random.SeedGenerator(5)
        self.error = keras.metrics.Mean(name="error")

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            z = self.encoder(x)
            z += 0.1 * keras.random.normal(tf.shape(z), seed=self.seeds)
            loss = tf.reduce_mean(tf.square(self.decoder(z) - x))
        _apply(self, self.optimizer, tape, loss, self.trainable_weights)
        self.error.update_state(loss)
        return {"error": self.error.result()}


class Gan(keras.Model):
    """Two models with an optimizer each, and no call()."""

    def __init__(self):
        super().__init__()
        self.maker = keras.layers.Dense(small.INPUTS)
        self.judge = keras.layers.Dense(1)

    def compile(self, *optimizers, **options):
        super().compile(optimizer=None, **options)
        self.optimizers = optimizers

    def train_step(self, data):
        x, _ = data
        noise = tf.reverse(x, [1])[:, :3]
        with tf.GradientTape() as tape:
            true, made = self.judge(x), self.judge(self.maker(noise))
            judged = tf.reduce_mean(tf.square(true - 1) + tf.square(made))
        _apply(self, self.optimizers[0], tape, judged, self.judge.weights)
        with tf.GradientTape() as tape:
            made = self.judge(self.maker(noise))
            fooled = tf.reduce_mean(tf.square(made - 1))
        _apply(self, self.optimizers[1], tape, fooled, self.maker.weights)
        return {"judged": judged, "fooled": fooled}


class Student(keras.Model):
    """Learns from a frozen teacher, and has no call()."""

    def __init__(self):
        super().__init__()
        self.student = keras.layers.Dense(small.CLASSES)
        self.teacher = keras.layers.Dense(small.CLASSES, trainable=False)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            logits, truth = self.student(x), self.teacher(x)
            loss = self.compute_loss(y=y, y_pred=logits)
            loss += tf.reduce_mean(tf.square(logits - truth))
        _apply(self, self.optimizer, tape, loss, self.trainable_weights)
        return self.compute_metrics(x, y, logits)


class Pairs(keras.Model):
    """Takes pairs of samples, where call() takes samples."""

    def train_step(self, data):
        pairs, _ = data
        with tf.GradientTape() as tape:
            a, b = self(pairs[:, 0], training=True), self(pairs[:, 1])
            loss = self.compute_loss(
                y=tf.range(tf.shape(a)[0]),
                y_pred=tf.matmul(a, b, transpose_b=True),
            )
        _apply(self, self.optimizer, tape, loss, self.trainable_weights)
        return {"own": loss}


class LayerModel(Trainer, keras.layers.Dense):
    """A layer that fits, and no keras.Model."""

    def __init__(self):
        keras.layers.Dense.__init__(self, small.CLASSES)
        Trainer.__init__(self)


class Weightless(keras.Model):
    """Has statistics and a loss, and nothing to train."""

    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization(center=False, scale=False)

    def call(self, x, training=False):
        self.add_loss(tf.reduce_mean(tf.square(x)))
        return self.norm(x, training=training)[:, : small.CLASSES]


class WithNumpy(keras.Sequential):
    """Cannot be traced."""

    def train_step(self, data):
        x, y = data
        mean = float(np.mean(x.numpy()))
        return {**super().train_step((x - mean, y)), "mean": mean}


def _layers():
    return [
        keras.Input((small.INPUTS,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(small.CLASSES),
    ]


def _pairs():
    inputs = keras.Input((small.INPUTS,))
    return Pairs(inputs, keras.layers.Dense(4)(inputs))


def _in_pairs(shard):
    x, y = shard
    return np.stack([x, np.roll(x, 1, axis=1)], 1), y


def _builder(made, optimizers=1, metrics=None, **compiling):
    def build(seed=1):
        keras.utils.set_random_seed(seed)
        model = made()
        model.compile(
            *(keras.optimizers.Adam(0.01) for _ in range(optimizers)),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=metrics,
            **{"jit_compile": False} | compiling,
        )
        return model

    return build


ACCURACY = ["accuracy"]


def _same(shard):
    return shard


# name -> (build(seed), change of a shard, options of fit, steps they make)
CASES = {
    "no call": (_builder(Autoencoder), _same, {}, 30),
    "two optimizers": (_builder(Gan, optimizers=2), _same, {}, 30),
    "a frozen teacher": (
        _builder(Student, metrics=ACCURACY),
        _same,
        {},
        30,
    ),
    "pairs": (_builder(_pairs), _in_pairs, {}, 30),
    "no weights": (_builder(Weightless), _same, {}, 30),
    "eager": (
        _builder(
            lambda: keras.Sequential(_layers()),
            run_eagerly=True,
            steps_per_execution=4,
        ),
        _same,
        {},
        30,
    ),
    "eager, NumPy": (
        _builder(lambda: WithNumpy(_layers()), run_eagerly=True),
        _same,
        {},
        30,
    ),
    # A layer that fits. Of 15 batches: 6, 6, and the 3 that are left.
    "5 steps, 2 at once": (
        _builder(LayerModel, steps_per_execution=2),
        _same,
        {"epochs": 4, "steps_per_epoch": 5},
        21,
    ),
}
CAP = fda_tf.Every(steps=12)
POLICY = {"theta": 0.02, "monitor": "linear", "max_interval": CAP}


def sync():
    """Returns what `FDA(**POLICY)` synchronises by."""
    return fda_tf.VarianceThreshold(**POLICY)
