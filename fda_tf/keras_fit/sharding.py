"""A worker's own part of the data, as `model.fit` takes it."""

from typing import Any

import numpy as np
import tensorflow as tf

from fda_tf import checks
from fda_tf import replicas as replicas_lib
from fda_tf.keras_fit import given as given_lib
from fda_tf.keras_fit import shuffled
from fda_tf.keras_fit.epochs import Shard, shard_of
from fda_tf.processes import agreement


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
    replicas: replicas_lib.Replicas | None = None,
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
        replicas: the workers; by default those that `connect()` joined.

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
    shuffled.do_not_warn(Shard)
    replicas = replicas_lib.current() if replicas is None else replicas
    settings = {
        "batch_size": batch_size,
        "seed": seed,
        "equal": equal,
        "mine": mine,
        "validation_split": validation_split,
        "steps_per_epoch": steps_per_epoch,
        "shuffle_buffer": shuffle_buffer,
    }
    with replicas.lost_worker_in_words():
        try:
            given = _read(data, **settings)
        except Exception as error:  # the other workers must hear of it
            agreement.tell(replicas, error)
            raise
        _compare(given, replicas, settings)
        own, total = given.own, None
        if mine:
            sizes = replicas.gather(np.int64(given.samples or 0))
            total = int(sizes.sum()) if sizes.all() else None
        else:
            own, total = given.part(replicas.index, replicas.count, seed, equal)
    at_once = (batch_size or 1) * replicas.count
    steps = steps_per_epoch or _steps(total, at_once)
    made = shard_of(
        own, batch_size, seed, replicas.index, steps, shuffle_buffer
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
) -> given_lib.GivenArrays | given_lib.GivenDataset:
    """Returns what was given.

    Raises:
      ValueError: for data and settings that cannot work.
    """
    if tf.is_tensor(batch_size) or hasattr(batch_size, "__iter__"):
        raise ValueError(
            f"shard received a {type(batch_size).__name__} as batch_size. "
            "Give x and y in one tuple: shard((x, y), batch_size=32)."
        )
    checks.seed("seed", seed)
    checks.count("shuffle_buffer", shuffle_buffer, "samples")
    if steps_per_epoch is not None:
        checks.count("steps_per_epoch", steps_per_epoch, "steps")
    if validation_split is not None:
        checks.real(
            "validation_split", validation_split, 0.0, "a fraction, or None"
        )
    batches = isinstance(data, tf.data.Dataset) and batch_size is None
    if not batches:
        checks.count("batch_size", batch_size, "samples")
    if isinstance(data, tf.data.Dataset):
        return given_lib.GivenDataset(data, validation_split, batch_size)
    return given_lib.GivenArrays(data, validation_split)


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
        given_lib.ADVICE,
    )
    if not settings["mine"]:
        given.compare(workers)


def _steps(samples: int | None, at_once: int) -> int:
    """Returns the steps of an epoch, the last of which may run over it."""
    if samples is None:
        raise given_lib.unknown_size("an epoch's length")
    return -(-samples // at_once)
