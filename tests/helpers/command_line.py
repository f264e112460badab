"""The command line as the tests call it."""

import csv

import numpy as np
from absl import flags
from absl.testing import flagsaver

from experiments import config, run

FLAGS = config.DEFAULTS | {"split": "iid"}
SMALL = (
    "--algorithm=synchronous,linear", "--workers=2", "--batch_size=10",
    "--steps=12", "--theta=0.05", "--target_accuracy=0.05",
)  # fmt: skip


def command(*arguments):
    """Runs the command line in this process; returns its exit code."""
    with flagsaver.flagsaver():
        flags.FLAGS(["run", *arguments])
        return run.main(["run"])


def plan(**changes):
    """The runs of FLAGS with some changes."""
    return config.plan(FLAGS | changes)


def read(path):
    """The rows of a CSV."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def npz(path, **changes):
    """Writes a data set of blank images."""
    arrays = {
        "x_train": np.zeros((20, 28, 28), np.uint8),
        "y_train": np.arange(20) % 10,
        "x_test": np.zeros((10, 28, 28), np.uint8),
        "y_test": np.arange(10),
    }
    np.savez(path, **(arrays | changes))


def run_folder(results_dir, algorithm):
    """The folder of an algorithm's only run."""
    (found,) = results_dir.glob(f"*-{algorithm}-*/")
    return found
