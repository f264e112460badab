"""Fixtures that the tests share."""

import os
import pathlib

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def data_dir():
    """The folder with the real data sets; the test is skipped without it."""
    folder = os.environ.get("FDA_TF_DATA_DIR")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("needs real data: set FDA_TF_DATA_DIR to its folder")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def stopped(tmp_path_factory):
    """What two workers did whose runs were stopped, and went on."""
    from processes import run_resume_job

    names = ["SIGTERM", "train, SIGTERM", "own loop", "own step", "refusals"]
    names += ["one and two"]
    return run_resume_job(tmp_path_factory.mktemp("stopped"), names)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """60 images of two blots, to train on in a moment."""
    from command_line import npz

    folder = tmp_path_factory.mktemp("data")
    labels = np.arange(60) % 2
    images = np.zeros((60, 28, 28), np.uint8)
    images[labels == 0, 4:12, 4:12] = 255
    images[labels == 1, 16:24, 16:24] = 255
    npz(
        folder / "mnist5000.npz",
        x_train=images, y_train=labels, x_test=images, y_test=labels,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory, data):
    """Results of one real call of the command line."""
    from command_line import SMALL, command

    folder = tmp_path_factory.mktemp("results")
    code = command(
        *SMALL, "--nostop", f"--data_dir={data}", f"--results_dir={folder}",
        f"--summary={folder}/summary.jsonl",
    )  # fmt: skip
    assert code == 0
    return folder
