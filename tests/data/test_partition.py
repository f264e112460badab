"""Splits: hand values on tiny sets, properties on larger ones."""

import numpy as np
import pytest

from fda_tf.data import partition

LABELS = np.random.default_rng(7).integers(0, 10, 1003)
CLIENTS = np.random.default_rng(8).integers(100, 140, 1003)
EQUAL = ("iid", "sorted:0.6", "sorted:0.37", "sorted:1", "label:0", "label:0,8")


def listed(pieces):
    return [piece.tolist() for piece in pieces]


def unevenness(pieces, labels):
    """Mean over workers of the total variation from the whole set's labels."""
    classes = labels.max() + 1
    whole = np.bincount(labels, minlength=classes) / len(labels)
    return np.mean(
        [
            np.abs(
                np.bincount(labels[piece], minlength=classes) / len(piece)
                - whole
            ).sum()
            / 2
            for piece in pieces
        ]
    )


# Hand values


def test_iid_is_contiguous_and_the_first_workers_have_the_odd_samples():
    assert listed(partition.iid(8, 3)) == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_sorted_sorts_the_first_part_only_and_stably():
    labels = [2, 1, 0, 1, 2, 0, 0, 2, 1, 0]
    # The first six in order of label: 2 5 | 1 3 | 0 4; the rest: 6 | 7 | 8 9.
    assert listed(partition.sorted_fraction(labels, 3, 0.6)) == [
        [2, 5, 6],
        [1, 3, 7],
        [0, 4, 8, 9],
    ]


def test_sorted_whole_is_a_sort_by_label():
    pieces = partition.sorted_fraction([1, 0, 1, 0], 2, 1)
    assert listed(pieces) == [[1, 3], [0, 2]]


def test_label_comes_first_and_the_rest_keeps_its_order():
    labels = [3, 8, 3, 8, 0, 8]
    assert listed(partition.labels_first(labels, 2, 8)) == [
        [1, 3, 5],
        [0, 2, 4],
    ]


def test_several_labels_come_first_in_the_order_of_the_set():
    labels = [3, 8, 3, 0, 0, 8]
    assert listed(partition.labels_first(labels, 3, [0, 8])) == [
        [1, 3],
        [4, 5],
        [0, 2],
    ]


def test_shards_hold_whole_runs_of_the_set_sorted_by_label():
    labels = [1, 0, 1, 0, 3, 2, 3, 2]
    runs = [{1, 3}, {0, 2}, {5, 7}, {4, 6}]
    for piece in partition.shards(labels, 2, 2, seed=3):
        assert sum(run <= set(piece.tolist()) for run in runs) == 2


def test_natural_keeps_clients_whole_in_ascending_order():
    clients = [
        5,
        1,
        5,
        9,
        1,
        7,
        3,
    ]  # 1 3 | 5 | 7 9 by floor(j 3 / 5): 0 0 1 1 2
    assert listed(partition.natural(clients, 3)) == [
        [1, 4, 6],
        [0, 2, 5],
        [3],
    ]


def test_dirichlet_of_a_huge_alpha_deals_every_label_evenly():
    labels = np.repeat([0, 1, 2], 40)
    for piece in partition.dirichlet(labels, 4, 1e9, seed=1):
        assert np.bincount(labels[piece]).tolist() == [10, 10, 10]


def test_dirichlet_fills_empty_workers_from_the_largest():
    # At this alpha one worker takes all six samples of the only label; then
    # each of the others is given its last one, in order of worker number.
    pieces = listed(partition.dirichlet([4] * 6, 4, 1e-4, seed=0))
    owner = max(range(4), key=lambda k: len(pieces[k]))
    assert pieces.pop(owner) == [0, 1, 2]
    assert pieces == [[5], [4], [3]]


# Properties


@pytest.mark.parametrize("workers", [1, 2, 7, 40])
@pytest.mark.parametrize("spec", [*partition.SPECS, "sorted:1", "dirichlet:9"])
def test_pieces_are_disjoint_non_empty_and_cover_the_set(spec, workers):
    pieces = partition.split(spec, LABELS, workers, seed=1, clients=CLIENTS)
    assert len(pieces) == workers
    assert all(piece.dtype == np.int64 and piece.size for piece in pieces)
    together = np.sort(np.concatenate(pieces))
    np.testing.assert_array_equal(together, np.arange(len(LABELS)))


@pytest.mark.parametrize("workers", [1, 3, 5, 10, 60, 999, 1003])
@pytest.mark.parametrize("spec", EQUAL)
def test_equal_splits_differ_by_one_sample_at_most(spec, workers):
    sizes = [len(p) for p in partition.split(spec, LABELS, workers)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "spec", ["dirichlet:0.01", "sizes:0.01", "shards:1", "natural"]
)
def test_as_many_workers_as_samples_leaves_none_empty(spec):
    pieces = partition.split(spec, LABELS[:30], 30, clients=np.arange(30))
    assert [len(piece) for piece in pieces] == [1] * 30


@pytest.mark.parametrize("spec", partition.SPECS)
def test_same_seed_same_pieces(spec):
    first, second = (
        listed(partition.split(spec, LABELS, 6, seed=4, clients=CLIENTS))
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("spec", ["dirichlet:0.3", "sizes:1", "shards:2"])
def test_another_seed_deals_otherwise(spec):
    one, two = (listed(partition.split(spec, LABELS, 6, s)) for s in (1, 2))
    assert one != two


@pytest.mark.parametrize("seed", range(5))
def test_dirichlet_is_the_more_uneven_the_smaller_alpha(seed):
    uneven = [
        unevenness(partition.dirichlet(LABELS, 8, alpha, seed), LABELS)
        for alpha in (0.05, 0.5, 5, 500)
    ]
    assert uneven == sorted(uneven, reverse=True)
    assert uneven[0] > 0.5 and uneven[-1] < 0.05


def test_dirichlet_shares_have_the_distribution_s_mean_and_variance():
    alpha, workers, labels = 0.5, 4, np.zeros(2000, int)
    shares = np.array(
        [
            [len(p) for p in partition.dirichlet(labels, workers, alpha, seed)]
            for seed in range(400)
        ]
    ) / len(labels)
    # Var p = (1/K)(1 - 1/K) / (K alpha + 1) = 0.0625; bounds of five sigmas.
    assert shares.mean(0) == pytest.approx(np.full(workers, 0.25), abs=0.0625)
    assert shares.var() == pytest.approx(0.0625, rel=0.12)


def test_sizes_have_the_distribution_s_variance_and_labels_stay_even():
    alpha, workers, n = 2.0, 5, 10_000
    labels = np.arange(n) % 10
    deals = [partition.sizes(n, workers, alpha, seed) for seed in range(200)]
    shares = np.array([[len(p) for p in pieces] for pieces in deals]) / n
    # Var p = (1/K)(1 - 1/K) / (K alpha + 1), of 200 x 5 draws.
    assert shares.var() == pytest.approx(0.16 / 11, rel=0.2)
    big = max((p for pieces in deals[:5] for p in pieces), key=len)
    counts = np.bincount(labels[big])
    # Hypergeometric: within five standard deviations of an even share.
    assert np.abs(counts - len(big) / 10).max() < 5 * np.sqrt(len(big) * 0.09)


def test_sizes_are_the_more_uneven_the_smaller_alpha():
    spreads = [
        np.mean(
            [
                np.std([len(p) for p in partition.sizes(1003, 8, alpha, seed)])
                for seed in range(20)
            ]
        )
        for alpha in (0.1, 1, 10, 1000)
    ]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 0.05 * 1003 / 8


def test_shards_give_few_labels_to_each_worker():
    labels = np.repeat(np.arange(10), 100)
    for piece in partition.shards(labels, 10, 2, seed=5):
        assert len(piece) == 100
        assert len(np.unique(labels[piece])) <= 2


def test_labels_go_to_few_workers():
    pieces = partition.labels_first(LABELS, 20, 0)
    holders = sum((LABELS[piece] == 0).any() for piece in pieces)
    assert holders == -(-np.sum(LABELS == 0) // len(pieces[0]))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, list])
def test_labels_may_be_of_any_integer_type(kind):
    labels = LABELS.tolist() if kind is list else LABELS.astype(kind)
    for spec in ("sorted:0.6", "label:0,8", "dirichlet:0.3", "shards:2"):
        expected = partition.split(spec, LABELS, 5)
        assert listed(partition.split(spec, labels, 5)) == listed(expected)


# Bad input


@pytest.mark.parametrize(
    "spec", ["", "random", "IID", "iid:3", "natural:2", None, 3, ["iid"]]
)
def test_unknown_split_lists_the_known(spec):
    with pytest.raises(ValueError, match="expected one like iid, sorted:0.6"):
        partition.split(spec, LABELS, 5, clients=CLIENTS)


@pytest.mark.parametrize(
    "spec",
    ["sorted", "sorted:", "sorted:x", "label", "label:0,", "label:1.5"]
    + ["dirichlet", "dirichlet:a", "sizes", "shards", "shards:2.5"],
)
def test_value_that_cannot_be_read_is_named(spec):
    text = spec.partition(":")[2].split(",")[-1]
    with pytest.raises(ValueError, match=f"'{spec}', where '{text}' is no"):
        partition.split(spec, LABELS, 5)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, np.nan, np.inf])
def test_fraction_outside_its_range(fraction):
    with pytest.raises(ValueError, match="more than 0 and at most 1"):
        partition.split(f"sorted:{fraction}", LABELS, 5)


@pytest.mark.parametrize("kind", ["dirichlet", "sizes"])
@pytest.mark.parametrize("alpha", [0, -1, np.nan, np.inf])
def test_alpha_not_positive(kind, alpha):
    with pytest.raises(ValueError, match="finite number above 0"):
        partition.split(f"{kind}:{alpha}", LABELS, 5)


def test_label_that_is_absent_lists_those_present():
    with pytest.raises(ValueError, match=r"\[1, 7\].*present, \[0, 1, 2\]"):
        partition.split("label:1,7", [0, 1, 2, 1], 2)


@pytest.mark.parametrize("count", [0, -1, 3])
def test_number_of_shards_that_cannot_be(count):
    with pytest.raises(ValueError, match="expected 1 to 2 of 10 samples"):
        partition.split(f"shards:{count}", LABELS[:10], 5)


@pytest.mark.parametrize("clients", [None, [1, 2, 3]])
def test_natural_wants_the_client_of_each_sample(clients):
    with pytest.raises(ValueError, match="client of each of the 4 samples"):
        partition.split("natural", [0, 1, 0, 1], 2, clients=clients)


def test_natural_with_fewer_clients_than_workers():
    with pytest.raises(ValueError, match="3 workers and samples of 2 clients"):
        partition.natural([1, 1, 2, 2], 3)


@pytest.mark.parametrize("spec", partition.SPECS)
@pytest.mark.parametrize("workers", [0, -1, 2.5])
def test_number_of_workers_that_cannot_be(spec, workers):
    with pytest.raises(ValueError, match="an integer of 1 or more"):
        partition.split(spec, LABELS, workers, clients=CLIENTS)


@pytest.mark.parametrize("spec", partition.SPECS)
@pytest.mark.parametrize("n", [0, 4])
def test_more_workers_than_samples(spec, n):
    labels = np.array([0, 8, 0, 8])[:n]
    with pytest.raises(ValueError, match=f"5 workers and {n} samples"):
        partition.split(spec, labels, 5, clients=labels)


@pytest.mark.parametrize(
    "labels", [[0.5, 1.0], [[0], [1]], ["a", "b"], 3, [True, False]]
)
def test_labels_that_are_not_one_integer_per_sample(labels):
    with pytest.raises(ValueError, match="one integer per sample"):
        partition.split("iid", labels, 1)
