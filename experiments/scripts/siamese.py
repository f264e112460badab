"""Are two digits the same? A siamese network with two inputs."""

import keras
import numpy as np
import tensorflow as tf

import fda_tf
from experiments.scripts import common

layers = keras.layers


def pairs(x, y, seed):
    """Returns [left, right] and whether each pair is of one digit."""
    random = np.random.default_rng(seed)
    left = random.permutation(len(y))
    right = random.permutation(len(y))
    for i in range(0, len(y), 2):  # every other pair is of one digit
        right[i] = random.choice(np.flatnonzero(y == y[left[i]]))
    same = (y[left] == y[right]).astype("float32")[:, None]
    return [x[left], x[right]], same


def contrastive_loss(same, distance, margin=1.0):
    """Returns the loss that draws equals together and pushes others apart."""
    apart = tf.maximum(margin - distance, 0)
    return tf.reduce_mean(same * distance**2 + (1 - same) * apart**2)


def build():
    """Returns the compiled model."""
    embedding = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.BatchNormalization(),
            layers.Conv2D(4, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dense(10, activation="tanh"),
        ]
    )
    left, right = keras.Input((28, 28, 1)), keras.Input((28, 28, 1))
    distance = layers.Lambda(
        lambda two: tf.sqrt(
            tf.reduce_sum((two[0] - two[1]) ** 2, axis=1, keepdims=True) + 1e-7
        )
    )([embedding(left), embedding(right)])
    model = keras.Model([left, right], distance)
    model.compile(
        keras.optimizers.Adam(1e-3),
        contrastive_loss,
        metrics=[keras.metrics.MeanAbsoluteError(name="error")],
    )
    return model


if __name__ == "__main__":
    process_group = fda_tf.connect()
    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = common.digits()
    train, test = pairs(x, y, seed=0), pairs(x_test, y_test, seed=1)

    model = build()
    fda = fda_tf.FDA(theta=fda_tf.thetas.TargetInterval(steps=25))
    history = model.fit(
        fda_tf.shard(train, batch_size=40 // process_group.count),
        epochs=8,
        validation_data=test,
        callbacks=[fda],
    )

    near = model.predict(test[0], verbose=0) < 0.5
    score = float((near == test[1]).mean())
    print("test pairs told rightly:", score)
