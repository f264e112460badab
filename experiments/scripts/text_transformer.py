"""A transformer that tells spam, on texts that a layer has made numbers."""

import keras
import tensorflow as tf

import fda_tf
from experiments.scripts import common

WORDS, LENGTH, WIDTH = 1000, 24, 16
layers = keras.layers


class TransformerBlock(layers.Layer):
    """Attention and a small network, each with dropout and a short cut."""

    def __init__(self, heads, hidden, rate=0.1):
        super().__init__()
        self.attention = layers.MultiHeadAttention(heads, WIDTH // heads)
        self.network = keras.Sequential(
            [layers.Dense(hidden, activation="relu"), layers.Dense(WIDTH)]
        )
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in "12"]
        self.dropouts = [layers.Dropout(rate) for _ in "12"]

    def call(self, inputs, training=None):
        seen = self.attention(inputs, inputs)
        seen = self.dropouts[0](seen, training=training)
        seen = self.norms[0](inputs + seen)
        out = self.dropouts[1](self.network(seen), training=training)
        return self.norms[1](seen + out)


class TokenAndPositionEmbedding(layers.Layer):
    """What a word is, and where."""

    def __init__(self):
        super().__init__()
        self.token = layers.Embedding(WORDS, WIDTH)
        self.position = layers.Embedding(LENGTH, WIDTH)

    def call(self, x):
        return self.token(x) + self.position(tf.range(LENGTH))


def vectorizer(texts):
    """Returns the layer that knows the words of all workers' texts."""
    layer = layers.TextVectorization(WORDS, output_sequence_length=LENGTH)
    layer.adapt(texts)
    return layer


def build():
    """Returns the compiled model."""
    inputs = keras.Input((LENGTH,), dtype="int64")
    x = TokenAndPositionEmbedding()(inputs)
    x = TransformerBlock(heads=2, hidden=32)(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(0.1)(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


if __name__ == "__main__":
    fda_tf.connect()
    keras.utils.set_random_seed(0)
    (texts, labels), (test_texts, test_labels) = common.messages()
    vectorize = vectorizer(texts)
    x = vectorize(texts).numpy()
    test = vectorize(test_texts).numpy(), test_labels

    model = build()
    fda = fda_tf.FDA(theta="auto")
    history = model.fit(
        fda_tf.shard((x, labels), batch_size=40),
        epochs=5,
        validation_data=test,
        callbacks=[fda],
    )

    spam = model.predict(test[0], verbose=0).argmax(1)
    score = float((spam == test[1]).mean())
    print("test accuracy:", score)
