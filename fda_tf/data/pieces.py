"""Checks and cuts that the partitions share; NumPy only."""

import numpy as np
from numpy.typing import ArrayLike

Pieces = list[np.ndarray]

SPECS = (
    "iid",
    "sorted:0.6",
    "label:0",
    "label:0,8",
    "dirichlet:0.3",
    "sizes:1",
    "shards:2",
    "natural",
)


def read(kind: type, text: str, spec: str) -> int | float:
    """Returns the number in a split's text."""
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"Received the split {spec!r}, where {text!r} is no {kind.__name__}"
            f"; expected one like {', '.join(SPECS)}."
        ) from None


def check_workers(workers: int, n: int) -> None:
    """Refuses a K that is no integer of 1 to n."""
    if not isinstance(workers, int | np.integer) or workers < 1:
        raise ValueError(
            f"Received {workers!r} workers; expected an integer of 1 or more."
        )
    if workers > n:
        raise ValueError(
            f"Received {workers} workers and {n} samples; expected at least "
            "one sample per worker. Give fewer workers or more samples."
        )


def check_labels(
    labels: ArrayLike, workers: int, what: str = "labels"
) -> np.ndarray:
    """Returns the labels as an array [n] of integers, with 1 <= K <= n."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise ValueError(
            f"Received {what} of shape {labels.shape} and type {labels.dtype};"
            " expected one integer per sample, in an array of one dimension."
        )
    check_workers(workers, len(labels))
    return labels


def check_clients(clients: ArrayLike | None, n: int) -> None:
    """Refuses client ids that are not there, or not one for each sample."""
    if clients is None or len(clients) != n:
        raise ValueError(
            "Received the split 'natural' without the client of each of the "
            f"{n} samples; expected `clients`, one integer per sample. Choose "
            "another split for a set that has none."
        )


def cut(order: np.ndarray, pieces: int, *, longer_last: bool = False) -> Pieces:
    """Cuts an order [n] in contiguous int64 pieces, the longer ones first."""
    order = order.astype(np.int64)
    if longer_last:
        return [part[::-1] for part in cut(order[::-1], pieces)][::-1]
    return np.array_split(order, pieces)


def by_owner(owner: np.ndarray, workers: int) -> Pieces:
    """Turns the worker of each sample [n] into K ascending arrays."""
    sizes = np.bincount(owner, minlength=workers)
    order = np.argsort(owner, kind="stable").astype(np.int64)
    return np.split(order, np.cumsum(sizes)[:-1])


def fill_empty(owner: np.ndarray, workers: int) -> None:
    """Gives each empty worker the last sample of the largest; in place."""
    sizes = np.bincount(owner, minlength=workers)
    for empty in np.flatnonzero(sizes == 0):
        richest = sizes.argmax()
        owner[np.flatnonzero(owner == richest)[-1]] = empty
        sizes[richest] -= 1
        sizes[empty] += 1
