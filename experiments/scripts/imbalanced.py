"""Few are fraud: counts as metrics, class weights, validation data."""

import keras
import numpy as np

import fda_tf
from experiments.scripts import common

layers = keras.layers


def class_weight(y):
    """Returns what each class weighs: as much as the other, in all."""
    few = int(y.sum())
    return {0: len(y) / (2 * (len(y) - few)), 1: len(y) / (2 * few)}


def build():
    """Returns the compiled model."""
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(32, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        "binary_crossentropy",
        metrics=[
            keras.metrics.FalseNegatives(name="fn"),
            keras.metrics.FalsePositives(name="fp"),
            keras.metrics.TrueNegatives(name="tn"),
            keras.metrics.TruePositives(name="tp"),
            keras.metrics.Precision(name="precision"),
            keras.metrics.Recall(name="recall"),
        ],
    )
    return model


if __name__ == "__main__":
    fda_tf.connect()
    keras.utils.set_random_seed(0)
    x, y = common.payments(8000, seed=0)
    test = common.payments(3000, seed=1)

    model = build()
    fda = fda_tf.FDA(theta="auto")
    history = model.fit(
        fda_tf.shard((x, y), batch_size=50),
        epochs=10,
        validation_data=test,
        class_weight=class_weight(y),
        callbacks=[fda],
    )

    fraud = model.predict(test[0], verbose=0) > 0.5
    rates = [(fraud == test[1])[test[1] == c].mean() for c in (0, 1)]
    score = float(np.mean(rates))
    print("balanced test accuracy:", score)
