"""What `shard` is given, and the part of it that one worker takes."""

from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from fda_tf import _pieces, arrays
from fda_tf.digest import digest

WHOSE = "The data given to shard"
ADVICE = (
    "Call shard on every worker with the same data in the same order (load "
    "and shuffle them alike, by the same seed) and the same settings: it deals "
    "them out. Give data that each worker has loaded apart with mine=True."
)
LOOKED_AT = 4  # elements of a dataset


class GivenArrays:
    """Arrays, of all workers or of one.

    Args:
      data: (x,), (x, y) or (x, y, sample_weight).
      validation_split: the last fraction, that is not to train on; or None.

    Attributes:
      samples: n, that are to train on.
      validation: the rest, as arrays; None if there is none.

    Raises:
      ValueError: for what `fit` would not take, or no sample.
    """

    def __init__(self, data: Any, validation_split: float | None):
        whole = arrays.read(data, WHOSE)
        self.samples, self.validation = arrays.length(whole, WHOSE), None
        self.own = self._whole = whole
        if validation_split is not None:
            n = self.samples
            self.samples = arrays.split_at(n, validation_split)
            self.own = arrays.take(whole, slice(0, self.samples))
            self.validation = arrays.take(whole, slice(self.samples, n))

    def form(self) -> dict[str, Any]:
        """Returns what must be the same of each worker's own data, too."""
        forms = arrays.forms(self._whole)
        return {f"the type of {name}": form for name, form in forms.items()}

    def content(self) -> dict[str, Any]:
        """Returns what must be the same of data that are dealt out."""
        lengths = {"the number of samples": self.samples}
        return lengths | {
            f"the digest of {name}": digest(array)
            for name, array in arrays.named(self._whole).items()
        }

    def compare(self, workers: Any) -> None:
        """Does nothing: unlike arrays have been refused by their digests."""

    def part(
        self, worker: int, workers: int, seed: int, equal: bool
    ) -> tuple[Any, int]:
        """Returns one worker's arrays, and the samples of all workers."""
        _pieces.check_workers(workers, self.samples)
        order = np.random.default_rng(seed).permutation(self.samples)
        if equal:
            order = order[: self.samples - self.samples % workers]
        piece = np.sort(_pieces.cut(order, workers)[worker])
        return arrays.take(self.own, piece), len(order)


class GivenDataset:
    """A dataset of samples or of batches, of all workers or of one.

    Args:
      data: the dataset.
      validation_split: the last fraction, that is not to train on; or None.
      size: the samples of a batch; None if the elements are batches.

    Attributes:
      samples: elements that are to train on; None if their number is unknown
        or infinite.
      validation: batches of the rest; None if there is none.

    Raises:
      ValueError: for no element, and batches in the place of samples.
    """

    def __init__(
        self,
        data: tf.data.Dataset,
        validation_split: float | None,
        size: int | None,
    ):
        _check_elements(data.element_spec, size)
        n = int(data.cardinality())  # below 0: unknown or infinite
        self.samples = n if n >= 0 else None
        self.own, self.validation = data, None
        if validation_split is not None:
            if self.samples is None:
                raise unknown_size("validation_split")
            self.samples = arrays.split_at(n, validation_split)
            self.own = data.take(self.samples)
            rest = data.skip(self.samples)
            self.validation = rest if size is None else rest.batch(size)
        _pieces.check_workers(1, self._seen(1))

    def form(self) -> dict[str, Any]:
        """Returns what must be the same of each worker's own data, too."""
        return {"the elements of the dataset": repr(self.own.element_spec)}

    def content(self) -> dict[str, Any]:
        """Returns what must be the same of data that are dealt out."""
        return {"the number of samples": self.samples}

    def compare(self, workers: Any) -> None:
        """Warns on the chief if the first elements are not the same on all."""
        own = digest(list(self.own.take(LOOKED_AT)))
        everyone = workers.gather_json(own)
        unlike = [k for k, other in enumerate(everyone) if other != everyone[0]]
        if unlike and workers.is_chief:
            logging.warning(
                "The first elements of the dataset given to shard differ from "
                "worker 0's on workers %s. It must be the same at each reading "
                "on every worker: if a map does not draw at random, look for "
                "a layer in it, such as TextVectorization, that each worker "
                "has adapted on its own part, and for a shuffle without seed.",
                unlike,
            )

    def part(
        self, worker: int, workers: int, seed: int, equal: bool
    ) -> tuple[tf.data.Dataset, int | None]:
        """Returns one worker's elements, and the number of those of all."""
        _pieces.check_workers(workers, self._seen(workers))
        own, n = self.own.shard(workers, worker), self.samples
        if n is not None and equal:
            n -= n % workers
            own = own.take(n // workers)
        return own, n

    def _seen(self, least: int) -> int:
        """Returns the elements, as far as `least` if it is not known."""
        if self.samples is not None:
            return self.samples
        return sum(1 for _ in self.own.take(least))


def unknown_size(argument: str) -> ValueError:
    """Returns the error of a dataset whose size an argument needs."""
    return ValueError(
        "Received a dataset of unknown or infinite size; expected one whose "
        f"cardinality() is known, for {argument}. Tell the number n of its "
        "elements by dataset.apply(tf.data.experimental.assert_cardinality(n))"
        ", or give steps_per_epoch= and no validation_split=."
    )


def _check_elements(spec: Any, size: int | None) -> None:
    """Raises ValueError if the elements are batches, and samples expected."""
    leaves = [s for s in tf.nest.flatten(spec) if hasattr(s, "shape")]
    if size is None or not leaves or not all(map(_is_batch, leaves)):
        return
    raise ValueError(
        "Received a dataset that is batched already: all shapes of its "
        f"elements begin with None: {spec}. Give one of samples, without "
        "batch() or after unbatch(); or batch_size=None, with which worker k "
        "takes the batches k, k + K, ... as they are."
    )


def _is_batch(spec: Any) -> bool:
    if not spec.shape.rank or spec.shape[0] is not None:
        return False
    # One row of a ragged tensor has a length of its own, too.
    return not (isinstance(spec, tf.RaggedTensorSpec) and not spec.ragged_rank)
