"""A model of some digits learns others by LoRA: only small matrices travel."""

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
    """Returns the compiled model that is trained first."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(5),
        ]
    )
    return compiled(model, 1e-3)


def enable_lora(model):
    """Returns the model with LoRA on its two wide layers, compiled anew."""
    for layer in model.layers[1:3]:
        layer.enable_lora(rank=4)
    return compiled(model, 3e-3)


if __name__ == "__main__":
    process_group = fda_tf.connect()
    keras.utils.set_random_seed(0)
    old, _ = common.digits(OLD)
    new, test = common.digits(NEW)

    fda = fda_tf.FDA(theta="auto")
    model = build()
    data = fda_tf.shard(old, batch_size=40 // process_group.count)
    model.fit(data, epochs=4, callbacks=[fda])

    model = enable_lora(model)
    data = fda_tf.shard(new, batch_size=40 // process_group.count, seed=1)
    history = model.fit(data, epochs=6, validation_data=test, callbacks=[fda])

    logits = model.predict(test[0], verbose=0)
    score = float((logits.argmax(1) == test[1]).mean())
    print("test accuracy on the new digits:", score)
