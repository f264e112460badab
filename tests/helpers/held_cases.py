"""Models that hold more than variables, and callbacks that compile them."""

import keras
import numpy as np
import small
import tensorflow as tf

layers = keras.layers


def words(data):
    """Returns (x, y) of words: a number's sign and its first digit."""
    x, y = data
    return np.array([f"{v:+.0f} {w:+.0f}" for v, w in x[:, :2]])[:, None], y


def on_top(inputs, features):
    """Returns a compiled classifier of features."""
    keras.utils.set_random_seed(1)
    outputs = layers.Dense(small.CLASSES)(features)
    return small.compile_model(keras.Model(inputs, outputs))


def normalized(data):
    """A model that knows the mean and the variance of data."""
    layer = layers.Normalization()
    layer.adapt(data[0])
    inputs = keras.Input((small.INPUTS,))
    return on_top(inputs, layer(inputs))


def first_normalized(data):
    """The same, adapted when the model was there already."""
    layer = layers.Normalization()
    inputs = keras.Input((small.INPUTS,))
    model = on_top(inputs, layer(inputs))
    layer.adapt(data[0])
    return model


def discretized(data):
    layer = layers.Discretization(num_bins=4)
    layer.adapt(data[0])
    inputs = keras.Input((small.INPUTS,))
    return on_top(inputs, layers.Rescaling(1.0)(layer(inputs)))


def looked_up(data):
    layer = layers.StringLookup()
    layer.adapt(data[0])
    inputs = keras.Input((1,), dtype="string")
    ids = layers.Lambda(lambda ids: ids % 40)(layer(inputs))
    return on_top(inputs, layers.Flatten()(layers.Embedding(40, 4)(ids)))


def vectorized(data):
    layer = layers.TextVectorization(
        max_tokens=9, output_sequence_length=2, standardize=None
    )
    layer.adapt(data[0])
    inputs = keras.Input((1,), dtype="string")
    return on_top(
        inputs, layers.Flatten()(layers.Embedding(9, 4)(layer(inputs)))
    )


class Centred(layers.Layer):
    """A layer of a user, that was given numbers."""

    def __init__(self, mean):
        super().__init__()
        self.mean = mean

    def call(self, x):
        return x - self.mean


def centred(make):
    def build(data):
        inputs = keras.Input((small.INPUTS,))
        return on_top(inputs, Centred(make(data[0].mean(0)))(inputs))

    return build


class Tokens(layers.Layer):
    """A layer of a user, that saves a file and an array."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def call(self, x):
        return x

    def save_own_variables(self, store):
        store["rows"] = np.array(self.rows)

    def load_own_variables(self, store):
        self.rows = store["rows"]


def tokens(data):
    inputs = keras.Input((small.INPUTS,))
    return on_top(inputs, Tokens(np.unique(data[1]))(inputs))


def weighted_loss(data):
    """A model whose loss weighs classes by how many there are here."""
    counts = np.bincount(data[1], minlength=small.CLASSES)
    weights = (1 / (1 + counts)).astype(np.float32)

    def loss(y, logits):
        each = keras.losses.sparse_categorical_crossentropy(
            y, logits, from_logits=True
        )
        return each * tf.gather(weights, tf.cast(tf.reshape(y, [-1]), tf.int32))

    model = small.linear_model()
    model.compile(keras.optimizers.SGD(small.RATE), loss)
    return model


class SecondOptimizer(keras.Model):
    """Has a second optimizer, which its step uses."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.second.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def second_optimizer(data):
    inputs = keras.Input((small.INPUTS,))
    model = SecondOptimizer(inputs, layers.Dense(small.CLASSES)(inputs))
    model.second = keras.optimizers.SGD(momentum=float(data[1].mean()) / 9)
    return small.compile_model(model)


UNLIKE = {
    "Normalization": normalized,
    "Normalization in a model": first_normalized,
    "Discretization": discretized,
    "StringLookup": looked_up,
    "TextVectorization": vectorized,
    "an array": centred(np.asarray),
    "a tensor": centred(lambda mean: tf.constant(mean)),
    "a number": centred(lambda mean: float(mean[0])),
    "saved by a layer": tokens,
    "an array in the loss": weighted_loss,
    "second optimizer": second_optimizer,
}
OF_WORDS = ("StringLookup", "TextVectorization")


def two_layers():
    """A model whose first layer is frozen."""
    return small.frozen_model()


def unfreeze(model):
    """Trains all of it from now on."""
    model.layers[0].trainable = True
    small.compile_model(model, keras.optimizers.Adam(0.01))


class Unfreeze(keras.callbacks.Callback):
    """Unfreezes and compiles a model before an epoch, or after a batch."""

    def __init__(self, epoch, after_a_batch=False):
        super().__init__()
        self.epoch, self.after_a_batch = epoch, after_a_batch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch and not self.after_a_batch:
            self.compile()

    def on_train_batch_end(self, batch, logs=None):
        if self.after_a_batch and batch == 2:
            self.compile()

    def compile(self):
        unfreeze(self.model)
        self.model.make_train_function()


class OwnEvaluate(keras.Model):
    """Evaluates by itself, and calls no callback."""

    @classmethod
    def made(cls):
        inputs = keras.Input((small.INPUTS,))
        outputs = layers.Dense(small.CLASSES)(inputs)
        return small.compile_model(cls(inputs, outputs))

    def evaluate(self, x=None, y=None, **options):
        return {"mine": float(np.mean(x))}
