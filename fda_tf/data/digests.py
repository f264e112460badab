"""Short digests of data, by which workers tell whether theirs are the same."""

import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

BYTES = 4 << 20  # of an array, that a digest reads at most


def digest(data: Any) -> str:
    """Returns a digest of an array, or of a nested structure of such.

    An array counts by its dtype, its shape and its bytes: all of them up to 4
    MB, else those of its first and last rows and of some drawn at random, the
    same ones in every process. So a change of few rows of a large array may
    not show; another order of them does.

    Args:
      data: arrays, tensors of any kind, numbers or words.

    Example:
      >>> digest((np.arange(3), None)) == digest((np.arange(3), None))
      True
      >>> digest(np.arange(3)) == digest(np.arange(3)[::-1])
      False
    """
    total = hashlib.sha256()
    for leaf in tf.nest.flatten(data, expand_composites=True):
        total.update(_bytes(np.asarray(leaf)))
    return total.hexdigest()[:16]


def _bytes(array: np.ndarray) -> bytes:
    head = f"{array.dtype}{array.shape}".encode()
    if array.nbytes > BYTES and array.ndim:
        rows = max(1, BYTES * len(array) // array.nbytes)
        drawn = np.random.default_rng(0).integers(len(array), size=rows)
        array = array[np.sort([0, *drawn, len(array) - 1])]
    if array.dtype == object:  # of words
        words = [str(value).encode() for value in array.flat]
        return b"\0".join([head, *words])
    return head + array.tobytes()


_GOLDEN = np.array([0x9E3779B97F4A7C15], np.uint64)
_WORDS_AT_ONCE = 1 << 22


class Digest:
    """Tells the same samples, and whether they come in the same order.

    Two digests of unlike data are equal with a chance of about 2^-33.

    Attributes:
      samples: how many were added.

    Example:
      >>> one, other = Digest(), Digest()
      >>> one.add(np.array([1.0, 2.0, 3.0]))
      >>> other.add(np.array([3.0, 1.0])), other.add(np.array([2.0]))
      (None, None)
      >>> one.as_set() == other.as_set(), one.in_order() == other.in_order()
      (True, False)
    """

    def __init__(self):
        self.samples = 0
        self._set = np.zeros(1, np.uint64)
        self._order = np.zeros(1, np.uint64)
        self._form: str | None = None

    def add(self, batch: Any) -> None:
        """Adds a batch: nested arrays or tensors with a row a sample."""
        leaves = [
            _plain(leaf)
            for leaf in tf.nest.flatten(batch, expand_composites=True)
            if leaf is not None
        ]
        if len({len(leaf) for leaf in leaves}) > 1:  # such as of sparse tensors
            leaves = [leaf[None] for leaf in leaves]
        elif self._form is None:
            self._form = str([(a.dtype.str, a.shape[1:]) for a in leaves])
        rows = np.zeros(len(leaves[0]), np.uint64)
        for leaf in leaves:
            rows = _mixed(rows * _GOLDEN + _rows(leaf))
        places = np.arange(1, len(rows) + 1, dtype=np.uint64)
        places = places + np.uint64(self.samples)
        self._set = self._set + rows.sum(keepdims=True, dtype=np.uint64)
        ordered = _mixed(rows + places * _GOLDEN)
        self._order = self._order + ordered.sum(keepdims=True, dtype=np.uint64)
        self.samples += len(rows)

    def as_set(self) -> str:
        """Returns what is equal for the same samples in any order."""
        return f"{self._form} {self.samples} {self._set[0]:x}"

    def in_order(self) -> str:
        """Returns what is equal for the same samples in the same order."""
        return f"{self._form} {self.samples} {self._order[0]:x}"


def _plain(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array[None] if array.ndim == 0 else array


def _rows(array: np.ndarray) -> np.ndarray:
    """Returns a hash of each row, uint64: the weighted sum of its words."""
    if array.dtype.kind in "OUS":
        words = _text_words(array)
    else:
        array = np.ascontiguousarray(array).reshape(len(array), -1)
        octets = array.view(np.uint8)
        octets = np.pad(octets, [(0, 0), (0, -octets.shape[1] % 4)])
        words = octets.view(np.uint32)
    width = words.shape[1]
    random = np.random.default_rng(width)
    weights = random.integers(0, 2**64, width, np.uint64)
    some = max(1, _WORDS_AT_ONCE // max(1, width))
    return np.concatenate(
        [
            words[i : i + some].astype(np.uint64) @ weights
            for i in range(0, len(words), some)
        ]
        or [np.zeros(0, np.uint64)]
    )


def _text_words(array: np.ndarray) -> np.ndarray:
    """Returns two words for each text, or whatever else objects are."""
    digests = [
        hashlib.blake2b(
            each if isinstance(each, bytes) else str(each).encode(),
            digest_size=8,
        ).digest()
        for each in array.ravel().tolist()
    ]
    words = np.frombuffer(b"".join(digests), np.uint32)
    return words.reshape(len(array), -1)


def _mixed(words: np.ndarray) -> np.ndarray:
    """Returns well mixed words, uint64, one for each: splitmix64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
