"""Data of every kind that stock fit takes, and a model for them."""

import keras
import numpy as np
import small
import tensorflow as tf

SAMPLES, BATCH = 42, 4
WORDS = np.array(["red", "green", "blue"], object)


def every_kind():
    """Returns (x, [y, y]) of floats, strings, ragged, sparse and no arrays."""
    import pandas as pd

    x, y = small.data(SAMPLES)
    random = np.random.default_rng(5)
    rows = [random.integers(1, 9, size=n % 4).tolist() for n in range(SAMPLES)]
    holes = np.where(random.random(x.shape) < 0.7, 0, x)
    columns = pd.DataFrame({"age": x[:, 0].astype(float), "word": WORDS[y]})
    inputs = dict(columns) | {
        "words": tf.ragged.constant(rows, tf.int32),
        "row": tf.sparse.from_dense(holes),
        "pair": [x.astype(np.float64), x.astype(np.float16)],
        "extra": None,
    }
    return inputs, [y, y.astype(np.int64)]


class EveryKind(keras.Model):
    """Takes that apart, and refuses what stock fit would not give."""

    def __init__(self):
        super().__init__()
        self.lookup = keras.layers.StringLookup(vocabulary=list(WORDS))
        self.last = keras.layers.Dense(small.CLASSES)
        self.other = keras.layers.Dense(small.CLASSES)

    def call(self, x):
        assert x["extra"] is None and isinstance(x["pair"], tuple)
        assert isinstance(x["words"], tf.RaggedTensor)
        row = tf.sparse.to_dense(x["row"])
        row = tf.ensure_shape(row, [None, small.INPUTS])
        dense = [x["age"], *x["pair"], row]
        assert {part.dtype for part in dense} == {tf.float32}
        word = tf.one_hot(self.lookup(x["word"])[:, 0], 4)
        words = tf.cast(tf.reduce_sum(x["words"], 1)[:, None], tf.float32)
        all_of_it = tf.concat([*dense, word, words / 9], 1)
        return self.last(all_of_it), self.other(all_of_it)


def build(seed=1):
    """Returns that model, compiled."""
    keras.utils.set_random_seed(seed)
    model = EveryKind()
    losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True)] * 2
    model.compile(keras.optimizers.SGD(0.1), losses, jit_compile=False)
    return model


def pieces(samples, workers=2):
    """Returns the samples of each worker, as shard deals them by seed 0."""
    order = np.random.default_rng(0).permutation(samples)
    order = order[: samples - samples % workers]
    return [np.sort(piece) for piece in np.array_split(order, workers)]
