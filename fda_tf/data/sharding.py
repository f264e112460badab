"""A worker's own part of the data, as `model.fit` takes it."""

from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from fda_tf import validate
from fda_tf.data import arrays, pieces, shard_dataset
from fda_tf.data.digests import digest
from fda_tf.data.shard_dataset import Shard, shard_of
from fda_tf.processes import agreement
from fda_tf.processes.process_group import ProcessGroup, current_process_group

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
        pieces.check_workers(workers, self.samples)
        order = np.random.default_rng(seed).permutation(self.samples)
        if equal:
            order = order[: self.samples - self.samples % workers]
        piece = np.sort(pieces.cut(order, workers)[worker])
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
        pieces.check_workers(1, self._seen(1))

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
        pieces.check_workers(workers, self._seen(workers))
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


def shard(
    data: Any,
    batch_size: int | None = 32,
    *,
    seed: int = 0,
    equal: bool = True,
    mine: bool = False,
    validation_split: float | None = None,
    steps_per_epoch: int | None = None,
    shuffle_buffer: int = 10_000,
    process_group: ProcessGroup | None = None,
) -> Shard | tuple[Shard, Any]:
    """Returns this worker's part of the data, shuffled, for `model.fit`.

    Every worker calls it, with the same data in the same order and the same
    settings: they are compared by a digest of the data, and the first
    elements of a dataset. Batches are always full: shuffled passes over the
    worker's samples run on from batch to batch and from epoch to epoch, and
    pass p is shuffled by (seed, worker, p). An epoch is n / (B K) steps,
    rounded up, on all workers: with shards of unlike sizes, small ones go on
    to their next pass and large ones finish theirs in the next epoch.

    Arrays are what `fit` takes: NumPy, tensors (ragged and sparse ones, too),
    pandas, strings; batches have the structure and the dtypes that `fit`
    would give them (floats are `keras.config.floatx()`, lists tuples). They
    are dealt as a function of the seed: the parts are random and disjoint.

    A `tf.data.Dataset` is one of samples, not shuffled and the same at each
    reading: worker k takes samples k, k + K, ... and shuffles them with a
    buffer. One of unknown size is read from its beginning at every epoch, up
    to where the last one ended, which takes longer each time:
    `dataset.apply(tf.data.experimental.assert_cardinality(n))` mends that. Of
    a dataset that is batched already, with batch_size=None, worker k takes
    batches k, k + K, ..., and shuffles whole batches. Without that it is
    refused, if the shapes of its elements begin with None; batches whose
    shapes do not tell are taken for samples.

    Args:
        data: (x,), (x, y) or (x, y, sample_weight), (nested structures of)
            arrays [n, ...], or a `tf.data.Dataset` of such samples.
        batch_size: B, samples; None for a dataset of batches.
        seed: of the split and of the shuffles.
        equal: whether each worker has floor(n / K) samples, which leaves out
            up to K - 1 of them, or all are dealt and some workers have one
            more. A dataset of unknown size is always dealt whole.
        mine: whether data are this worker's own already, loaded apart and of
            any length, and not those of all workers; only their structure and
            types are then compared, and the lengths gathered.
        validation_split: the last fraction of the data, which is set apart
            before anything is shuffled, as `fit` does.
        steps_per_epoch: steps, if not n / (B K) rounded up.
        shuffle_buffer: samples that are shuffled at a time, of a dataset.
        process_group: the workers; by default those that `connect()` joined.

    Returns:
        A dataset whose every iteration is one epoch. With `validation_split`,
        that and what to give `fit` as `validation_data`: the whole fraction,
        on every worker (of its own data, with mine=True).

    Raises:
        ValueError: on every worker, if one has fewer samples than workers,
            arrays of unlike lengths, no sample, a batch size below 1, an
            impossible seed or fraction, batches for samples, a dataset of
            unknown size and no `steps_per_epoch`; or other data or settings
            than worker 0.
        RuntimeError: if there is a job and `connect()` was not called.

    Example:
        >>> x = np.arange(6)
        >>> epoch = shard((x, x % 2), batch_size=4)  # alone: all of it
        >>> len(epoch), [len(x) for x, y in epoch]
        (2, [4, 4])
        >>> epoch.position
        2
        >>> epoch.position = 1  # as of a run that was stopped after one step
        >>> len(list(epoch)), epoch.position
        (1, 2)
        >>> epoch, held_out = shard((x, x % 2), 2, validation_split=0.3)
        >>> len(epoch), held_out
        (2, (array([4, 5]), array([0, 1])))
    """
    shard_dataset.do_not_warn(Shard)
    process_group = (
        current_process_group() if process_group is None else process_group
    )
    settings = {
        "batch_size": batch_size,
        "seed": seed,
        "equal": equal,
        "mine": mine,
        "validation_split": validation_split,
        "steps_per_epoch": steps_per_epoch,
        "shuffle_buffer": shuffle_buffer,
    }
    with process_group.lost_worker_in_words():
        try:
            given = _read(data, **settings)
        except Exception as error:  # the other workers must hear of it
            agreement.tell(process_group, error)
            raise
        _compare(given, process_group, settings)
        own, total = given.own, None
        if mine:
            sizes = process_group.gather(np.int64(given.samples or 0))
            total = int(sizes.sum()) if sizes.all() else None
        else:
            own, total = given.part(
                process_group.index, process_group.count, seed, equal
            )
    at_once = (batch_size or 1) * process_group.count
    steps = steps_per_epoch or _steps(total, at_once)
    made = shard_of(
        own, batch_size, seed, process_group.index, steps, shuffle_buffer
    )
    return made if validation_split is None else (made, given.validation)


def _read(
    data: Any,
    batch_size: Any,
    seed: Any,
    validation_split: Any,
    steps_per_epoch: Any,
    shuffle_buffer: Any,
    **_: bool,
) -> GivenArrays | GivenDataset:
    """Returns what was given.

    Raises:
      ValueError: for data and settings that cannot work.
    """
    if tf.is_tensor(batch_size) or hasattr(batch_size, "__iter__"):
        raise ValueError(
            f"shard received a {type(batch_size).__name__} as batch_size. "
            "Give x and y in one tuple: shard((x, y), batch_size=32)."
        )
    validate.seed("seed", seed)
    validate.count("shuffle_buffer", shuffle_buffer, "samples")
    if steps_per_epoch is not None:
        validate.count("steps_per_epoch", steps_per_epoch, "steps")
    if validation_split is not None:
        validate.real(
            "validation_split", validation_split, 0.0, "a fraction, or None"
        )
    batches = isinstance(data, tf.data.Dataset) and batch_size is None
    if not batches:
        validate.count("batch_size", batch_size, "samples")
    if isinstance(data, tf.data.Dataset):
        return GivenDataset(data, validation_split, batch_size)
    return GivenArrays(data, validation_split)


def _compare(given: Any, workers: Any, settings: dict[str, Any]) -> None:
    """Returns when all workers gave the same.

    Raises:
      ValueError: on every worker, for what differs.
    """
    if workers.count == 1:
        return
    content = {} if settings["mine"] else given.content()
    plain = {name: np.asarray(v).tolist() for name, v in settings.items()}
    agreement.agree_on(
        workers,
        {"place": "fda_tf.shard"} | plain | given.form() | content,
        ADVICE,
    )
    if not settings["mine"]:
        given.compare(workers)


def _steps(samples: int | None, at_once: int) -> int:
    """Returns the steps of an epoch, the last of which may run over it."""
    if samples is None:
        raise unknown_size("an epoch's length")
    return -(-samples // at_once)
