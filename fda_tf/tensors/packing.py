"""Tensors of any type as int32 words, which collectives can gather."""

import tensorflow as tf


def to_words(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of a tensor as int32 [n], padded to whole words.

    Example:
      >>> to_words(tf.constant([1, 0, 0, 0, 2], tf.int8)).numpy().tolist()
      [1, 2]
    """
    flat = tf.reshape(tensor, [-1])
    per_word = 4 // tensor.dtype.size
    if per_word == 1:
        return tf.bitcast(flat, tf.int32)
    padded = tf.pad(flat, [[0, -flat.shape[0] % per_word]])
    return tf.bitcast(tf.reshape(padded, [-1, per_word]), tf.int32)


def from_words(words: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns the tensor of which `to_words` made the words.

    Args:
      words: int32 [n].
      like: a tensor of its static shape and type.

    Example:
      >>> words = tf.constant([1, 2])
      >>> from_words(words, tf.zeros([5], tf.int8)).numpy().tolist()
      [1, 0, 0, 0, 2]
    """
    size = like.shape.num_elements()
    flat = tf.reshape(tf.bitcast(words, like.dtype), [-1])[:size]
    return tf.reshape(flat, like.shape)
