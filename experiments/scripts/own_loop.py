"""A training loop from scratch, with the average by fda_tf.Trainer."""

import keras
import tensorflow as tf

import fda_tf
from experiments.scripts import common

layers = keras.layers
EPOCHS = 6


def build():
    """Returns the compiled model."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def make_step(model):
    """Returns one step of training, as one writes it."""
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        grads = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(grads, model.trainable_variables)
        return loss

    return step


if __name__ == "__main__":
    process_group = fda_tf.connect()
    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = common.digits()

    model = build()
    data = fda_tf.shard((x, y), batch_size=40 // process_group.count)
    sync = fda_tf.VarianceThreshold(theta="auto", monitor="sketch")
    trainer = fda_tf.Trainer(
        model, data.element_spec, sync, steps_per_epoch=len(data)
    )
    step = make_step(model)
    for epoch in range(EPOCHS):
        for batch in data:
            loss = step(*batch)
            trainer.after_step()
        print("epoch", epoch + 1, "last loss here:", float(loss))
    trainer.finish()

    logits = model.predict(x_test, verbose=0)
    score = float((logits.argmax(1) == y_test).mean())
    print("test accuracy:", score)
