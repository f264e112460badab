"""Keras' own tests, which its wheel does not have, from its source archive."""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

import keras

PARTS = (
    "trainers",
    "callbacks",
    "models",
    "optimizers",
    "saving",
    "metrics",
    "layers/rnn",
    "layers/normalization",
    "layers/regularization",
)
FITS = re.compile(rb"fit\(|run_layer_test\(")
# As in Keras' own pyproject.toml.
SETTINGS = """[pytest]
filterwarnings =
    error
    ignore::DeprecationWarning
    ignore::ImportWarning
    ignore::RuntimeWarning
    ignore::PendingDeprecationWarning
    ignore::FutureWarning
    ignore::UserWarning
    ignore:Custom mask layers require a config
markers =
    requires_trainable_backend: one that trains
    multi_device: needs several devices
"""


def cache() -> pathlib.Path:
    """Returns the folder that keeps archives and results between runs.

    It is FDA_TF_CONFORMANCE_DIR, or in the user's cache.
    """
    default = pathlib.Path.home() / ".cache" / "fda_tf" / "conformance"
    folder = os.environ.get("FDA_TF_CONFORMANCE_DIR")
    return pathlib.Path(folder) if folder else default


def fetch() -> pathlib.Path:
    """Returns the source archive of the installed Keras, fetched if need be.

    Raises:
      OSError: if it cannot be had.
    """
    name = f"keras-{keras.__version__}.tar.gz"
    path = cache() / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet"]
        command += ["--no-deps", "--no-binary", "keras", "--dest", folder]
        command.append(f"keras=={keras.__version__}")
        done = subprocess.run(command, capture_output=True, text=True)
        got = pathlib.Path(folder) / name
        if not got.exists():
            raise OSError(f"pip cannot download {name}: {done.stderr[-500:]}")
        os.replace(got, path)
    return path


def unpack(folder: pathlib.Path) -> pathlib.Path:
    """Unpacks the tests alone, not what is installed; returns their folder.

    Args:
      folder: to put them in.
    """
    root = folder / f"keras-{keras.__version__}-tests"
    if (root / "pytest.ini").exists():
        return root
    with tarfile.open(fetch()) as archive:
        for member in archive.getmembers():
            path = pathlib.PurePosixPath(*member.name.split("/")[1:])
            inside = any(path.is_relative_to(f"keras/src/{p}") for p in PARTS)
            if not inside or not path.name.endswith("_test.py"):
                continue
            text = archive.extractfile(member).read()
            if FITS.search(text):  # others cannot differ
                target = root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(text)
    (root / "pytest.ini").write_text(SETTINGS)
    return root
