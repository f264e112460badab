"""A GAN of digits: two models, two optimizers, a train_step of its own."""

import keras
import numpy as np
import tensorflow as tf

import fda_tf
from experiments.scripts import common

LATENT = 16
layers = keras.layers


class GAN(keras.Model):
    """A generator, and a discriminator that it deceives."""

    def __init__(self, discriminator, generator, **kwargs):
        super().__init__(**kwargs)
        self.discriminator, self.generator = discriminator, generator
        self.seed_generator = keras.random.SeedGenerator(1337)

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer
        self.loss_fn = loss_fn
        self.d_loss_metric = keras.metrics.Mean(name="d_loss")
        self.g_loss_metric = keras.metrics.Mean(name="g_loss")

    @property
    def metrics(self):
        return [self.d_loss_metric, self.g_loss_metric]

    def noise(self, n):
        return keras.random.normal((n, LATENT), seed=self.seed_generator)

    def train_step(self, real):
        n = tf.shape(real)[0]
        both = tf.concat([self.generator(self.noise(n)), real], axis=0)
        labels = tf.concat([tf.ones((n, 1)), tf.zeros((n, 1))], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(both))
        weights = self.discriminator.trainable_weights
        grads = tape.gradient(d_loss, weights)
        self.d_optimizer.apply(grads, weights)

        with tf.GradientTape() as tape:
            fake = self.discriminator(self.generator(self.noise(n)))
            g_loss = self.loss_fn(tf.zeros((n, 1)), fake)
        weights = self.generator.trainable_weights
        grads = tape.gradient(g_loss, weights)
        self.g_optimizer.apply(grads, weights)

        self.d_loss_metric.update_state(d_loss)
        self.g_loss_metric.update_state(g_loss)
        return {
            "d_loss": self.d_loss_metric.result(),
            "g_loss": self.g_loss_metric.result(),
        }


def build():
    """Returns the compiled model."""
    discriminator = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Conv2D(16, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(1, activation="sigmoid"),
        ],
        name="discriminator",
    )
    generator = keras.Sequential(
        [
            keras.Input((LATENT,)),
            layers.Dense(7 * 7 * 16),
            layers.Reshape((7, 7, 16)),
            layers.LeakyReLU(0.2),
            layers.Conv2DTranspose(16, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Conv2DTranspose(8, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Conv2D(1, 5, padding="same", activation="sigmoid"),
        ],
        name="generator",
    )
    gan = GAN(discriminator, generator)
    gan.compile(
        d_optimizer=keras.optimizers.Adam(5e-4, beta_1=0.5),
        g_optimizer=keras.optimizers.Adam(5e-4, beta_1=0.5),
        loss_fn=keras.losses.BinaryCrossentropy(),
    )
    return gan


if __name__ == "__main__":
    process_group = fda_tf.connect()
    keras.utils.set_random_seed(0)
    (x, _), (x_test, _) = common.digits()

    model = build()
    fda = fda_tf.FDA(theta="auto")
    history = model.fit(
        fda_tf.shard((x,), batch_size=40 // process_group.count),
        epochs=8,
        callbacks=[fda],
    )

    noise = np.random.default_rng(0).normal(size=(1000, LATENT))
    images = model.generator(noise.astype("float32")).numpy()
    score = float(np.abs(images.mean(0) - x_test.mean(0)).mean())
    print("mean image, drawn and true, are apart by", score)
