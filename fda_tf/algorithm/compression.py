"""How drifts are compressed before they travel at a synchronisation.

A `Compression` says how a flat piece of a drift becomes tensors that are sent,
and how the receiver reads them. What it leaves out of a drift it may add to the
next one: error feedback, for which each worker keeps what was left out.
"""

import abc
import math

import tensorflow as tf

from fda_tf import validate
from fda_tf.algorithm.part import Part

BLOCK = 256  # numbers that share a scale


class Compression(Part, abc.ABC):
    """Abstract base: `encode` on the sender, `decode` on the receivers.

    Attributes:
      summable: whether the sum of what is sent reads as the sum: an
        all-reduce will do. Else every worker receives what each one sends.
      feedback: whether what is left out is added to the next drift.

    Example:
      One of one's own: the signs, and the mean size of a drift's numbers.

      >>> class Signs(Compression):
      ...     feedback = True
      ...     def encode(self, drift, seed):
      ...         signs = tf.cast(tf.sign(drift), tf.int8)
      ...         return [signs, tf.reduce_mean(tf.abs(drift))[None]]
      ...     def decode(self, sent, size):
      ...         return tf.cast(sent[0], tf.float32) * sent[1]
      >>> signs = Signs()
      >>> sent = signs.encode(tf.constant([3.0, -1.0]), [0, 0])
      >>> signs.decode(sent, 2).numpy().tolist()
      [2.0, -2.0]
    """

    summable = False
    feedback = False

    @abc.abstractmethod
    def encode(self, drift: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors to send, of static shapes.

        Args:
          drift: float32 [n].
          seed: int32 [2]: of random numbers; another one for each worker,
            piece of the drift and synchronisation.
        """

    @abc.abstractmethod
    def decode(self, sent: list[tf.Tensor], size: int) -> tf.Tensor:
        """Returns float32 [size], as the receiver reads it.

        Args:
          sent: what `encode` returned.
          size: n.
        """


class Float32(Compression):
    """The drift as it is: 4 bytes a weight; what None stands for."""

    summable = True

    def encode(self, drift, seed):
        return [drift]

    def decode(self, sent, size):
        return sent[0]


class BFloat16(Compression):
    """The drift in bfloat16, summed in it: 2 bytes a weight.

    Each rounding, of a drift or a partial sum, errs by at most 2^-8 of it.

    Example:
      >>> compression = BFloat16()
      >>> sent = compression.encode(tf.constant([1.001]), [0, 0])
      >>> float(compression.decode(sent, 1)[0])
      1.0
    """

    summable = True

    def encode(self, drift, seed):
        return [tf.cast(drift, tf.bfloat16)]

    def decode(self, sent, size):
        return tf.cast(sent[0], tf.float32)


class Int8(Compression):
    """The drift in 8 bits: 1 byte a weight, and 4 for each 256 of them.

    The numbers of a block of 256 are u = s q with s = max |u| / 127. With
    stochastic rounding, q = floor(u / s + x), x uniform in [0, 1): unbiased,
    |error| < s. With error feedback, q is the nearest: |error| <= s / 2, and
    it is added to the worker's next drift.

    A gather beats a float32 all-reduce on the wire below K = 8 workers.

    Args:
      feedback: error feedback in place of stochastic rounding.

    Example:
      >>> compression = Int8(feedback=True)
      >>> sent = compression.encode(tf.constant([127.0, -3.4]), [0, 0])
      >>> compression.decode(sent, 2).numpy().tolist()
      [127.0, -3.0]

    Source: Alistarh et al., QSGD, NeurIPS 2017; Seide et al., 1-Bit
    Stochastic Gradient Descent, Interspeech 2014 (error feedback).
    """

    def __init__(self, feedback: bool = False):
        if not isinstance(feedback, bool):
            raise ValueError(
                f"Int8: feedback={feedback!r}: expected True or False."
            )
        self.feedback = feedback

    def encode(self, drift, seed):
        size = drift.shape[0]
        blocks = -(-size // BLOCK)
        padded = tf.pad(drift, [[0, blocks * BLOCK - size]])
        rows = tf.reshape(padded, [blocks, BLOCK])
        scales = tf.reduce_max(tf.abs(rows), 1) / 127.0
        q = tf.math.divide_no_nan(rows, scales[:, None])
        if self.feedback:
            q = tf.round(q)
        else:
            q = tf.floor(q + tf.random.stateless_uniform(q.shape, seed))
        q = tf.clip_by_value(q, -127.0, 127.0)
        return [tf.reshape(tf.cast(q, tf.int8), [-1])[:size], scales]

    def decode(self, sent, size):
        q, scales = sent
        spread = tf.repeat(scales, BLOCK)[:size]
        return tf.cast(q, tf.float32) * spread


class TopK(Compression):
    """The largest numbers of the drift and where they are: 8 bytes each.

    What is left out is added to the worker's next drift (error feedback): in
    the end, everything is sent.

    A gather beats a float32 all-reduce on the wire while fraction x K < 1.

    Args:
      fraction: of the numbers that are sent, in (0, 1].

    Raises:
      ValueError: for a fraction outside (0, 1].

    Example:
      >>> compression = TopK(0.5)
      >>> sent = compression.encode(tf.constant([1.0, -3.0]), [0, 0])
      >>> compression.decode(sent, 2).numpy().tolist()
      [0.0, -3.0]

    Source: Stich et al., Sparsified SGD with Memory, NeurIPS 2018.
    """

    feedback = True

    def __init__(self, fraction: float = 0.01):
        what = "a number above 0, at most 1: the share of weights to send"
        self.fraction = validate.real("TopK: fraction", fraction, 1e-12, what)
        if self.fraction > 1:
            raise ValueError(f"TopK: fraction={fraction!r}: expected {what}.")

    def encode(self, drift, seed):
        count = max(1, math.floor(self.fraction * drift.shape[0]))
        _, places = tf.math.top_k(tf.abs(drift), count, sorted=False)
        return [places, tf.gather(drift, places)]

    def decode(self, sent, size):
        places, values = sent
        return tf.scatter_nd(places[:, None], values, [size])


COMPRESSIONS = {
    "bfloat16": BFloat16,
    "int8": Int8,
    "topk": TopK,
}


def get(compression: str | Compression | None) -> Compression | None:
    """Returns the compression of a name in `COMPRESSIONS`, or the one given.

    Args:
      compression: None for float32, as the weights are.

    Raises:
      ValueError: for a name that is not in `COMPRESSIONS`.

    Example:
      >>> get("topk")
      TopK(fraction=0.01)
    """
    if compression is None:
        return None
    return validate.part(
        *("compression", compression, COMPRESSIONS),
        "fda_tf.compression.Compression",
    )
