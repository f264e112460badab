"""Fixtures that the tests share."""

import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def data_dir():
    """The folder with the real data sets; the test is skipped without it."""
    folder = os.environ.get("FDA_TF_DATA_DIR")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("needs real data: set FDA_TF_DATA_DIR to its folder")
    return pathlib.Path(folder)
