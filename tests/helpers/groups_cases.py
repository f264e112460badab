"""Models whose variables are not all weights, for fit and the simulation."""

import keras
import numpy as np
import small
import tensorflow as tf

import fda_tf

BATCH, EPOCHS, SAMPLES = 8, 2, 96
STEPS = EPOCHS * SAMPLES // 2 // BATCH  # of two workers
layers = keras.layers


class TwoOptimizers(keras.Model):
    """Two halves, each with an optimizer.

    The rate of the second is read by the step, and never written; so is a
    factor that the model does not have.
    """

    def __init__(self, factor=1.0):
        super().__init__()
        self.one, self.two = layers.Dense(small.CLASSES), layers.Dense(4)
        self.second = keras.optimizers.SGD(0.1)
        factor = tf.Variable(factor, trainable=False)
        self.factor = lambda: factor

    def call(self, x):
        return self.one(self.two(x))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
            loss = self.factor() * loss
        for part, optimizer in (
            (self.one, self.optimizer),
            (self.two, self.second),
        ):
            variables = part.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class Distilled(keras.Model):
    """A student that learns from a teacher that nobody froze."""

    def __init__(self, trainable=True, dtypes=("float32", "float32")):
        super().__init__()
        self.student = layers.Dense(small.CLASSES, dtype=dtypes[0])
        self.teacher = layers.Dense(
            small.CLASSES, dtype=dtypes[1], trainable=trainable
        )

    def call(self, x):
        return keras.ops.subtract(self.student(x), self.teacher(x))

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x)))
        variables = self.student.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class Marked(keras.Model):
    """Floats that a step updates, each of another kind."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(small.CLASSES)
        self.center = tf.Variable(tf.zeros([3]), trainable=False)
        self.first = self.add_weight(
            shape=(2,),
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
            name="first",
        )
        self.largest = self.add_weight(
            shape=(),
            initializer="zeros",
            overwrite_with_gradient=True,
            name="largest",
        )

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        variables = self.dense.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply(
            [*gradients, tf.reduce_max(x)], [*variables, self.largest]
        )
        self.center.assign(
            0.9 * self.center + 0.1 * tf.reduce_mean(x[:, :3], 0)
        )
        self.first.assign(self.first + tf.reduce_mean(x[:, :2], 0))
        return {"loss": loss}


class AlwaysTraining(keras.Model):
    """A BatchNorm that every call moves, that of a validation, too."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization(momentum=0.5)
        self.dense = layers.Dense(small.CLASSES)

    def call(self, x):
        return self.dense(self.norm(x, training=True))


def compile_model(model):
    """Compiles without metrics, which a train_step of one's own must keep."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(small.RATE), loss, jit_compile=False)
    return model


def compiled(make):
    """Returns build(seed) of a model that `make` makes of the seed."""

    def build(seed):
        keras.utils.set_random_seed(seed)
        return compile_model(make(seed))

    return build


def dense(**options):
    """Returns softmax regression with options of its layer."""
    layer = layers.Dense(small.CLASSES, **options)
    return keras.Sequential([keras.Input((small.INPUTS,)), layer])


def float8(seed):
    model = dense()
    model.quantize("float8")
    return model


def lora(seed):
    """Returns an int8 model that a LoRA of rank 2 trains."""
    wide = layers.Dense(6)
    model = keras.Sequential(
        [keras.Input((small.INPUTS,)), wide, layers.Dense(small.CLASSES)]
    )
    wide.enable_lora(2)
    wide.lora_kernel_b.assign(np.ones([2, 6], np.float32))
    wide.quantize("int8")
    return model


def cases():
    """Returns name -> (build(seed), options of the policy)."""
    often = {"sync": fda_tf.Every(steps=5)}
    server = keras.optimizers.SGD(0.7)
    unit = compiled(lambda seed: dense(kernel_constraint="unit_norm"))
    return {
        # Worker 0's factor is taken, 1.
        "two optimizers": (
            compiled(lambda seed: TwoOptimizers(float(seed))),
            often,
        ),
        "teacher": (compiled(lambda seed: Distilled()), often),
        "unit norm": (unit, often),
        "unit norm by a server": (unit, often | {"server_optimizer": server}),
        "float8": (compiled(float8), often),
        "marked": (compiled(lambda seed: Marked()), often),
        "lora": (compiled(lora), often),
    }
