"""Three fits: a base, a new head on the frozen base, and all of it."""

import keras

import fda_tf
from experiments.scripts import common

layers = keras.layers
OLD, NEW = range(5), range(5, 10)


def compiled(model, rate):
    """Returns the model, compiled anew."""
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def build():
    """Returns (the base, the model of the old digits), compiled."""
    base = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
        ],
        name="base",
    )
    inputs = keras.Input((28, 28, 1))
    old = keras.Model(inputs, layers.Dense(len(OLD))(base(inputs)))
    return base, compiled(old, 3e-3)


def freeze(base):
    """Returns the model of the new digits, on the frozen base, compiled."""
    base.trainable = False
    inputs = keras.Input((28, 28, 1))
    x = base(inputs, training=False)  # BatchNorm stays as it is
    return compiled(keras.Model(inputs, layers.Dense(len(NEW))(x)), 3e-3)


def unfreeze(base, model):
    """Returns the model with all its weights to train, compiled."""
    base.trainable = True
    return compiled(model, 1e-3)


if __name__ == "__main__":
    process_group = fda_tf.connect()
    keras.utils.set_random_seed(0)
    old, _ = common.digits(OLD)
    new, test = common.digits(NEW)

    fda = fda_tf.FDA(theta="auto")
    base, model = build()
    data = fda_tf.shard(old, batch_size=40 // process_group.count)
    model.fit(data, epochs=4, callbacks=[fda])

    model = freeze(base)
    data = fda_tf.shard(new, batch_size=40 // process_group.count, seed=1)
    model.fit(data, epochs=4, validation_data=test, callbacks=[fda])

    model = unfreeze(base, model)
    data = fda_tf.shard(new, batch_size=40 // process_group.count, seed=2)
    history = model.fit(data, epochs=4, validation_data=test, callbacks=[fda])

    logits = model.predict(test[0], verbose=0)
    score = float((logits.argmax(1) == test[1]).mean())
    print("test accuracy on the new digits:", score)
