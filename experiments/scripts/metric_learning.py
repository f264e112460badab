"""Metric learning: batches of pairs of digits from a PyDataset."""

import keras
import numpy as np
import tensorflow as tf

import fda_tf
from experiments.scripts import common

CLASSES = 10
layers = keras.layers


class AnchorPositivePairs(keras.utils.PyDataset):
    """Batches [2, classes, 28, 28, 1]: two images of each digit.

    Args:
      x: images.
      y: their labels.
      batches: of an epoch.
      seed: of the draw; a batch is a function of it and of its number.
    """

    def __init__(self, x, y, batches, seed, **kwargs):
        super().__init__(**kwargs)
        self.x, self.batches, self.seed = x, batches, seed
        self.of_class = [np.flatnonzero(y == c) for c in range(CLASSES)]

    def __len__(self):
        return self.batches

    def __getitem__(self, i):
        random = np.random.default_rng([self.seed, i])
        rows = [random.choice(c, 2, replace=False) for c in self.of_class]
        return self.x[np.array(rows).T]


class EmbeddingModel(keras.Model):
    """Of whose batches each is more than what call() takes."""

    def train_step(self, data):
        if isinstance(data, tuple):
            data = data[0]
        anchors, positives = data[0], data[1]
        with tf.GradientTape() as tape:
            similarities = tf.einsum(
                "ae,pe->ap",
                self(anchors, training=True),
                self(positives, training=True),
            )
            loss = self.compute_loss(
                y=tf.range(CLASSES), y_pred=similarities / 0.2
            )
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(tf.range(CLASSES), similarities)
        return {m.name: m.result() for m in self.metrics}


def build():
    """Returns the compiled model."""
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = layers.Dense(8)(layers.Flatten()(x))
    model = EmbeddingModel(image, layers.UnitNormalization()(x))
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )
    return model


if __name__ == "__main__":
    process_group = fda_tf.connect()
    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = common.digits()

    model = build()
    fda = fda_tf.FDA(theta="auto")
    history = model.fit(
        AnchorPositivePairs(
            x, y, 200 // process_group.count, process_group.index
        ),
        epochs=5,
        shuffle=False,
        callbacks=[fda],
    )

    there = model.predict(x_test, verbose=0)
    order = np.argsort(-there @ there.T, axis=1)[:, 1:11]
    score = float((y_test[order] == y_test[:, None]).mean())
    print("of the ten nearest are of the same digit:", score)
