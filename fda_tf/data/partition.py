"""Who trains on what: n samples cut into K disjoint, non-empty pieces.

Every function returns a list of K int64 arrays of sample numbers and needs
NumPy alone: the same call gives the same pieces on every machine. `split`
chooses among them by a short text, as the experiments' `--split` does.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fda_tf.data import pieces
from fda_tf.data.pieces import Pieces

SPECS = pieces.SPECS


def iid(n: int, workers: int) -> Pieces:
    """Cuts the set, in its own order, in K contiguous pieces of equal size.

    Worker k has the samples from about k n / K to (k + 1) n / K. The set is
    not shuffled (the paper does not): a set that comes sorted stays sorted.

    Args:
        n: number of samples.
        workers: K, number of pieces; at most n.

    Returns:
        K int64 arrays whose sizes differ by at most 1.

    Raises:
        ValueError: K is below 1 or above n.

    Example:
        >>> [piece.tolist() for piece in iid(5, workers=2)]
        [[0, 1, 2], [3, 4]]

    Source: Theologitis et al., EDBT 2025, the IID setting.
    """
    pieces.check_workers(workers, n)
    return pieces.cut(np.arange(n), workers)


def sorted_fraction(labels: ArrayLike, workers: int, fraction: float) -> Pieces:
    """Sorts the first part of the set by label, and deals both parts.

    The first round(fraction n) samples are sorted by label (stably) and cut
    in K contiguous pieces; the rest is cut in K contiguous pieces in its own
    order. Each worker has one piece of each, the sorted one first.

    Args:
        labels: integers [n].
        workers: K, number of pieces; at most n.
        fraction: part of the set that is sorted, in (0, 1].

    Returns:
        K int64 arrays whose sizes differ by at most 1.

    Raises:
        ValueError: a fraction outside (0, 1], or K is below 1 or above n.

    Example:
        >>> pieces = sorted_fraction([1, 0, 1, 0, 2, 3], 2, fraction=0.67)
        >>> [piece.tolist() for piece in pieces]
        [[1, 3, 4], [0, 2, 5]]

    Source: Theologitis et al., EDBT 2025, the setting "Non-IID: 60 %".
    """
    labels = pieces.check_labels(labels, workers)
    if not 0 < fraction <= 1:
        raise ValueError(
            f"Received a sorted fraction of {fraction}; expected more than 0 "
            "and at most 1. Give 0.6 to sort the first 60 % of the set."
        )
    count = round(fraction * len(labels))
    by_label = pieces.cut(np.argsort(labels[:count], kind="stable"), workers)
    # Longer pieces go to the first workers here and to the last ones there: so
    # the wholes differ by one sample at most.
    rest = pieces.cut(np.arange(count, len(labels)), workers, longer_last=True)
    return [np.concatenate(pair) for pair in zip(by_label, rest, strict=True)]


def labels_first(
    labels: ArrayLike, workers: int, which: int | Sequence[int]
) -> Pieces:
    """Deals all samples of one label, or of several, to the first workers.

    The samples of these labels come first and the others follow, both in
    the set's own order; the whole is cut in K contiguous pieces.

    Args:
        labels: integers [n].
        workers: K, number of pieces; at most n.
        which: the label or the labels that few workers are to hold.

    Returns:
        K int64 arrays whose sizes differ by at most 1.

    Raises:
        ValueError: a label that no sample has, or K is below 1 or above n.

    Example:
        >>> pieces = labels_first([1, 0, 2, 0, 1, 2], workers=3, which=0)
        >>> [piece.tolist() for piece in pieces]
        [[1, 3], [0, 2], [4, 5]]

    Source: Theologitis et al., EDBT 2025, the settings "Label 0", "Label 8".
    """
    labels = pieces.check_labels(labels, workers)
    which = np.atleast_1d(which)
    if not which.size or not np.isin(which, labels).all():
        raise ValueError(
            f"Received {which.tolist()} as labels to deal first; expected one "
            f"or more of those present, {np.unique(labels).tolist()}."
        )
    others = ~np.isin(labels, which)
    return pieces.cut(np.argsort(others, kind="stable"), workers)


def dirichlet(
    labels: ArrayLike, workers: int, alpha: float, seed: int = 0
) -> Pieces:
    """Deals each label in random shares, the more uneven the smaller alpha.

    For each label, shares p ~ Dirichlet(alpha, ..., alpha) over the K workers
    are drawn, and its shuffled samples are cut at n_label x cumsum(p), rounded.
    A worker left with nothing then takes, in order of worker number, the last
    sample of the worker that has most (the first of these when several do).

    Args:
        labels: integers [n].
        workers: K, number of pieces; at most n.
        alpha: concentration, above 0; 0.1 is very uneven, 100 nearly even.
        seed: of the shares and of the shuffles.

    Returns:
        K int64 arrays in ascending order, of unequal sizes, none empty.

    Raises:
        ValueError: alpha not positive and finite, or K is below 1 or above n.

    Example:
        >>> labels = [0, 0, 0, 0, 1, 1, 1, 1]
        >>> pieces = dirichlet(labels, workers=2, alpha=1e6)
        >>> [sorted(labels[i] for i in piece) for piece in pieces]
        [[0, 0, 1, 1], [0, 0, 1, 1]]

    Source: Yurochkin et al., ICML 2019, section 4.
    """
    labels = pieces.check_labels(labels, workers)
    if not 0 < alpha < np.inf:
        raise ValueError(
            f"Received a Dirichlet concentration of {alpha}; expected a finite "
            "number above 0. Give a large one (100) for nearly even pieces."
        )
    rng = np.random.default_rng(seed)
    owner = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(workers, alpha))
        cuts = np.rint(np.cumsum(shares[:-1]) * len(members))
        places = np.arange(len(members))
        owner[members] = np.searchsorted(cuts, places, side="right")
    pieces.fill_empty(owner, workers)
    return pieces.by_owner(owner, workers)


def sizes(n: int, workers: int, alpha: float, seed: int = 0) -> Pieces:
    """Deals the shuffled set in pieces of random sizes: much data, or little.

    Shares p ~ Dirichlet(alpha, ..., alpha) over the K workers are drawn, and
    the set is dealt by them whatever the labels, as `dirichlet` deals each.

    Args:
        n: number of samples.
        workers: K, number of pieces; at most n.
        alpha: concentration, above 0; 0.1 is very uneven, 100 nearly even.
        seed: of the shares and of the shuffle.

    Returns:
        K int64 arrays in ascending order, of unequal sizes, none empty.

    Raises:
        ValueError: alpha not positive and finite, or K is below 1 or above n.

    Example:
        >>> sorted(len(piece) for piece in sizes(100, workers=3, alpha=0.5))
        [1, 43, 56]
    """
    return dirichlet(np.zeros(n, np.int64), workers, alpha, seed)


def shards(
    labels: ArrayLike, workers: int, per_worker: int, seed: int = 0
) -> Pieces:
    """Sorts by label, cuts into K x per_worker shards and deals at random.

    The shards differ by one sample at most. When they are shorter than a
    label's samples, a worker has few more than per_worker labels.

    Args:
        labels: integers [n].
        workers: K, number of pieces.
        per_worker: shards that each worker gets; K x per_worker is at most n.
        seed: of the dealing.

    Returns:
        K int64 arrays in ascending order; sizes differ by at most per_worker.

    Raises:
        ValueError: per_worker is below 1, more shards than samples, or K < 1.

    Example:
        >>> pieces = shards([0, 1, 0, 1, 2, 2, 3, 3], workers=2, per_worker=2)
        >>> sorted(piece.tolist() for piece in pieces)
        [[0, 2, 4, 5], [1, 3, 6, 7]]

    Source: McMahan et al., AISTATS 2017, section 3.
    """
    labels = pieces.check_labels(labels, workers)
    if not 1 <= per_worker <= len(labels) // workers:
        raise ValueError(
            f"Received {per_worker} shards for each of {workers} workers; "
            f"expected 1 to {len(labels) // workers} of {len(labels)} samples."
        )
    count = workers * per_worker
    by_label = pieces.cut(np.argsort(labels, kind="stable"), count)
    hands = np.random.default_rng(seed).permutation(count)
    return [
        np.sort(np.concatenate([by_label[shard] for shard in hand]))
        for hand in hands.reshape(workers, per_worker)
    ]


def natural(clients: ArrayLike, workers: int) -> Pieces:
    """Keeps every client's samples together, as they were collected.

    Of C clients in ascending order, client j goes to worker floor(j K / C):
    each worker has floor(C / K) clients or one more, whatever their samples.

    Args:
        clients: integers [n], the client that each sample comes from.
        workers: K, number of pieces; at most C.

    Returns:
        K int64 arrays in ascending order, of unequal sizes.

    Raises:
        ValueError: K is below 1 or above the number of clients.

    Example:
        >>> pieces = natural([7, 3, 3, 9, 7, 9], workers=2)
        >>> [piece.tolist() for piece in pieces]
        [[0, 1, 2, 4], [3, 5]]
    """
    clients = pieces.check_labels(clients, workers, "client ids")
    ids, client = np.unique(clients, return_inverse=True)
    if workers > len(ids):
        raise ValueError(
            f"Received {workers} workers and samples of {len(ids)} clients; "
            "expected at least one client per worker. Give fewer workers."
        )
    return pieces.by_owner(client * workers // len(ids), workers)


def split(
    spec: str,
    labels: ArrayLike,
    workers: int,
    seed: int = 0,
    clients: ArrayLike | None = None,
) -> Pieces:
    """Cuts a set as a short text says, for instance `sorted:0.6`.

    `iid`, `sorted:FRACTION`, `label:LABEL[,LABEL...]`, `dirichlet:ALPHA`,
    `sizes:ALPHA`, `shards:PER_WORKER` and `natural` call the functions of
    this module.

    Args:
        spec: the kind of split and its value; `SPECS` has an example of each.
        labels: integers [n].
        workers: K, number of pieces; at most n.
        seed: of the random kinds (dirichlet, sizes and shards).
        clients: integers [n], the client of each sample; natural needs it.

    Returns:
        K int64 arrays of sample numbers, disjoint, none empty, covering all.

    Raises:
        ValueError: a text that cannot be read, or what its function refuses.

    Example:
        >>> [piece.tolist() for piece in split("label:2", [1, 2, 1, 2], 2)]
        [[1, 3], [0, 2]]
    """
    labels = pieces.check_labels(labels, workers)
    kind, colon, text = str(spec).partition(":")
    match kind:
        case "iid" if not colon:
            return iid(len(labels), workers)
        case "sorted":
            return sorted_fraction(
                labels, workers, pieces.read(float, text, spec)
            )
        case "label":
            which = [pieces.read(int, label, spec) for label in text.split(",")]
            return labels_first(labels, workers, which)
        case "dirichlet":
            return dirichlet(
                labels, workers, pieces.read(float, text, spec), seed
            )
        case "sizes":
            return sizes(
                len(labels), workers, pieces.read(float, text, spec), seed
            )
        case "shards":
            return shards(labels, workers, pieces.read(int, text, spec), seed)
        case "natural" if not colon:
            pieces.check_clients(clients, len(labels))
            return natural(clients, workers)
    raise ValueError(
        f"Received the split {spec!r}; expected one like {', '.join(SPECS)}."
    )
