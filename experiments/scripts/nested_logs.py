"""Two tasks at once, by a train_step whose logs are nested dicts."""

import keras
import tensorflow as tf

import fda_tf
from experiments.scripts import common

layers = keras.layers


class TwoTasks(keras.Model):
    """Which digit it is, and the image itself from few numbers."""

    def compile(self, optimizer):
        super().compile(optimizer=optimizer)
        self.digit_loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        )
        self.accuracy = keras.metrics.SparseCategoricalAccuracy()

    @property
    def metrics(self):
        return [self.accuracy]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            logits, image = self(x, training=True)
            digit = self.digit_loss(y, logits)
            pixels = tf.reduce_mean((x - image) ** 2)
            loss = digit + 10.0 * pixels
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        self.accuracy.update_state(y, logits)
        return {
            "loss": loss,
            "losses": {"digit": digit, "pixels": pixels},
            "metrics": {"digit": {"accuracy": self.accuracy.result()}},
        }


def build():
    """Returns the compiled model."""
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
    logits = layers.Dense(10)(x)
    x = layers.Dense(28 * 28, activation="sigmoid")(x)
    model = TwoTasks(image, [logits, layers.Reshape((28, 28, 1))(x)])
    model.compile(keras.optimizers.Adam(1e-3))
    return model


if __name__ == "__main__":
    process_group = fda_tf.connect()
    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = common.digits()

    model = build()
    fda = fda_tf.FDA(theta="auto")
    history = model.fit(
        fda_tf.shard((x, y), batch_size=40 // process_group.count),
        epochs=6,
        callbacks=[fda],
    )

    logits, _ = model.predict(x_test, verbose=0)
    score = float((logits.argmax(1) == y_test).mean())
    print("test accuracy:", score)
