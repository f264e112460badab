"""Data sets by name, from a folder, the project, TFDS or Keras."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

CLASSES = {
    "mnist5000": 10, "mnist": 10, "fashion_mnist": 10, "cifar10": 10,
    "cifar10_20k": 10, "cifar100": 100, "femnist100": 62, "sst2": 2,
    "sms_spam": 2,
}  # fmt: skip
KERAS = ("mnist", "fashion_mnist", "cifar10", "cifar100")
SHIPPED = Path(__file__).parent / "data"

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_CLIENTS = "client_train"
_KNOWN = (*_REQUIRED, _CLIENTS)


class Dataset(NamedTuple):
    """A training and a test set, as they are stored (images not scaled)."""

    x_train: np.ndarray  # [n, ...]; images are uint8 of 0 to 255
    y_train: np.ndarray  # int64 [n], labels from 0
    x_test: np.ndarray  # [m, ...], a sample like those of x_train
    y_test: np.ndarray  # int64 [m]
    clients: np.ndarray | None = None  # int64 [n], who collected each sample
    source: str = ""  # the file, "shipped", or a name such as "Keras' mnist"


class _AbsentError(Exception):
    """A source does not have the set; the message names it and says why."""


def load(
    name: str, data_dir: str | Path | None = None, classes: int | None = None
) -> Dataset:
    """Finds a data set by its name, in the first source that has it.

    A given folder is the only source. Without one they are, in this order:
    NAME.npz that ships with the project (mnist5000), TFDS when it is installed
    and has prepared the set on this machine, and Keras' cache or download.

    Args:
        name: of the set, such as `mnist5000` or `mnist`.
        data_dir: folder with NAME.npz, made of the arrays x_train, y_train,
            x_test, y_test and, for a natural split, client_train.
        classes: number of labels, which are then below it; None stands for
            what `CLASSES` says of this name, or for no upper limit.

    Returns:
        The arrays, with labels and clients as int64, and where they are from.

    Raises:
        ValueError: no source has the set (lists all that was tried), the
            folder is none or lacks the file, or the set is corrupt, pickled,
            incomplete or has arrays that do not fit together.
    """
    classes = CLASSES.get(name) if classes is None else classes
    if data_dir is not None:
        return _checked(*_from_folder(name, Path(data_dir)), classes)
    tried = ["data_dir (none was given)"]
    for source in (_from_project, _from_tfds, _from_keras):
        try:
            where, arrays = source(name)
        except _AbsentError as reason:
            tried.append(str(reason))
        else:
            return _checked(where, arrays, classes)
    raise ValueError(
        f"Received the data set {name!r}, which was not found. Tried: "
        f"{'; '.join(tried)}. Give as data_dir a folder with {name}.npz (arrays"
        f" {', '.join(_REQUIRED)}), or take the set that ships, mnist5000."
    )


def _from_folder(name, folder):
    if not folder.is_dir():
        raise ValueError(
            f"Received data_dir {str(folder)!r}, which is no folder; expected"
            f" a folder with {name}.npz. Leave it out to use other sources."
        )
    try:
        return _from_npz(folder / f"{name}.npz")
    except _AbsentError:
        there = ", ".join(sorted(path.name for path in folder.glob("*.npz")))
        raise ValueError(
            f"Received data_dir {str(folder)!r}, which has no {name}.npz; "
            f"its .npz files: {there or 'none'}. Leave it out to use what "
            "ships with the project, the caches of TFDS and Keras, or a "
            "download."
        ) from None


def _from_project(name):
    return "shipped", _from_npz(SHIPPED / f"{name}.npz")[1]


def _from_npz(path):
    if not path.exists():
        raise _AbsentError(f"{path} (no such file)")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files if key in _KNOWN}
            names = list(file.files)
    # Damaged bytes raise whatever zipfile, zlib and NumPy come upon first.
    except Exception as error:
        raise ValueError(
            f"Received {path}, which cannot be read ({_brief(error)}); "
            "expected an .npz file of plain arrays (pickled objects are never "
            "loaded). Copy it again, or write it with numpy.savez_compressed."
        ) from error
    missing = [key for key in _REQUIRED if key not in names]
    if missing:
        raise ValueError(
            f"Received {path} without {', '.join(missing)}; expected the "
            f"arrays {', '.join(_REQUIRED)}. Found: {names}."
        )
    return str(path), found


def _from_tfds(name):
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise _AbsentError(
            "TFDS (tensorflow-datasets is not installed)"
        ) from None
    options = {"batch_size": -1, "as_supervised": True, "download": False}
    try:
        parts = tfds.load(name, split=["train", "test"], **options)
    # TFDS has its own errors for unknown names, splits and unprepared sets.
    except Exception as error:
        raise _AbsentError(f"TFDS ({_brief(error)})") from error
    (x_train, y_train), (x_test, y_test) = tfds.as_numpy(parts)
    if x_train.ndim == 4 and x_train.shape[-1] == 1:  # as Keras stores MNIST
        x_train, x_test = x_train[..., 0], x_test[..., 0]
    arrays = x_train, y_train, x_test, y_test
    return f"TFDS' {name}", dict(zip(_REQUIRED, arrays, strict=True))


def _from_keras(name):
    if name not in KERAS:
        raise _AbsentError(f"Keras (it has {', '.join(KERAS)})")
    import keras

    try:
        train, test = getattr(keras.datasets, name).load_data()
    # A failed download raises errors of urllib, of ssl, or a plain Exception.
    except Exception as error:
        raise _AbsentError(f"Keras ({_brief(error)})") from error
    return f"Keras' {name}", dict(zip(_REQUIRED, (*train, *test), strict=True))


def _brief(error):
    """First sentence of an error (NumPy's second one advises to unpickle)."""
    words = str(error).strip() or type(error).__name__
    return words.splitlines()[0].split(". ")[0].rstrip(".")


def _checked(where, arrays, classes):
    y_train, y_test = (
        _labels(arrays, part, where, classes) for part in ("train", "test")
    )
    x_train, x_test = arrays["x_train"], arrays["x_test"]
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"Received {where} with samples of shape {x_train.shape[1:]} to "
            f"train and {x_test.shape[1:]} to test; expected the same."
        )
    clients, n = arrays.get(_CLIENTS), len(x_train)
    if clients is not None:
        if clients.shape != (n,) or clients.dtype.kind not in "iu":
            raise ValueError(
                f"Received {where} with {_CLIENTS} of shape {clients.shape} "
                f"and type {clients.dtype}; expected an integer for each of "
                f"the {n} training samples."
            )
        clients = clients.astype(np.int64)
    return Dataset(x_train, y_train, x_test, y_test, clients, where)


def _labels(arrays, part, where, classes):
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if y.ndim == 2 and y.shape[1] == 1:  # as Keras stores CIFAR
        y = y[:, 0]
    if y.dtype.kind not in "iu" or not y.size or x.shape[:1] != y.shape:
        raise ValueError(
            f"Received {where} with x_{part} of shape {x.shape} and y_{part} "
            f"of shape {y.shape} and type {y.dtype}; expected one or more "
            "samples and an integer label for each."
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or (classes is not None and high >= classes):
        limit = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise ValueError(
            f"Received {where} with labels from {low} to {high} in y_{part}; "
            f"expected {limit}. Number the classes from 0, or choose a task "
            "with as many classes."
        )
    return y.astype(np.int64)
