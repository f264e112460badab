"""A variational autoencoder of digits: a train_step of its own, no call()."""

import keras
import tensorflow as tf

import fda_tf
from experiments.scripts import common

LATENT = 4
layers = keras.layers


class Sampling(layers.Layer):
    """Draws from the distribution that the encoder names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        mean, log_variance = inputs
        noise = keras.random.normal(tf.shape(mean), seed=self.seed_generator)
        return mean + tf.exp(0.5 * log_variance) * noise


class VAE(keras.Model):
    """Encoder and decoder, and the loss of both."""

    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder = encoder, decoder
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        self.kl_loss_tracker = keras.metrics.Mean(name="kl_loss")

    @property
    def metrics(self):
        return [self.total_loss_tracker, self.kl_loss_tracker]

    def train_step(self, data):
        with tf.GradientTape() as tape:
            mean, log_variance, z = self.encoder(data)
            reconstruction = self.decoder(z)
            total_loss = tf.reduce_mean(image_loss(data, reconstruction))
            kl_loss = -0.5 * tf.reduce_mean(
                tf.reduce_sum(
                    1 + log_variance - mean**2 - tf.exp(log_variance), axis=1
                )
            )
            total_loss += kl_loss
        weights = self.trainable_weights
        grads = tape.gradient(total_loss, weights)
        self.optimizer.apply_gradients(zip(grads, weights, strict=True))
        self.total_loss_tracker.update_state(total_loss)
        self.kl_loss_tracker.update_state(kl_loss)
        return {
            "loss": self.total_loss_tracker.result(),
            "kl_loss": self.kl_loss_tracker.result(),
        }


def image_loss(images, reconstruction):
    """Returns the cross-entropy of each image."""
    pixels = keras.losses.binary_crossentropy(images, reconstruction)
    return tf.reduce_sum(pixels, axis=(1, 2))


def build():
    """Returns the compiled model."""
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(8, 3, activation="relu", strides=2, padding="same")(image)
    x = layers.Conv2D(16, 3, activation="relu", strides=2, padding="same")(x)
    x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
    mean = layers.Dense(LATENT, name="mean")(x)
    log_variance = layers.Dense(LATENT, name="log_variance")(x)
    z = Sampling()([mean, log_variance])
    encoder = keras.Model(image, [mean, log_variance, z], name="encoder")

    latent = keras.Input((LATENT,))
    x = layers.Dense(7 * 7 * 16, activation="relu")(latent)
    x = layers.Reshape((7, 7, 16))(x)
    x = layers.Conv2DTranspose(
        8, 3, activation="relu", strides=2, padding="same"
    )(x)
    x = layers.Conv2DTranspose(
        1, 3, activation="sigmoid", strides=2, padding="same"
    )(x)
    decoder = keras.Model(latent, x, name="decoder")

    vae = VAE(encoder, decoder)
    vae.compile(optimizer=keras.optimizers.Adam(2e-3))
    return vae


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

    mean, _, _ = model.encoder(x_test)
    score = float(tf.reduce_mean(image_loss(x_test, model.decoder(mean))))
    print("cross-entropy of test images:", score)
