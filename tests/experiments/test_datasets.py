"""The loader: what it finds, in which order, and what it refuses."""

import os
import pickle
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from experiments import datasets

SHARED = os.environ.get("FDA_TF_DATA_DIR")
PIECES = {
    "x_train": np.arange(24, dtype=np.uint8).reshape(6, 2, 2),
    "y_train": np.array([0, 1, 2, 0, 1, 2], np.uint8),
    "x_test": np.zeros((3, 2, 2), np.uint8),
    "y_test": np.array([2, 1, 0], np.uint8),
}


@pytest.fixture
def offline(monkeypatch):
    """No TFDS, and a Keras whose download fails."""

    def unreachable():
        raise OSError("URL fetch failure\nand more")

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for name in datasets.KERAS:
        monkeypatch.setattr(
            getattr(keras.datasets, name), "load_data", unreachable
        )


def saved(folder, name="tiny", **changes):
    arrays = {**PIECES, **changes}
    np.savez(
        folder / f"{name}.npz",
        **{key: value for key, value in arrays.items() if value is not None},
    )
    return folder


def nearest_centroid_accuracy(data):
    """Test accuracy of the class whose mean training image is nearest."""
    train = data.x_train.reshape(len(data.x_train), -1) / np.float32(255)
    test = data.x_test.reshape(len(data.x_test), -1) / np.float32(255)
    centroids = np.stack(
        [
            train[data.y_train == k].mean(0)
            for k in range(data.y_train.max() + 1)
        ]
    )
    nearness = 2 * test @ centroids.T - np.sum(centroids**2, axis=1)
    return np.mean(nearness.argmax(axis=1) == data.y_test)


# What is found


def test_the_shipped_set_needs_nothing(offline):
    data = datasets.load("mnist5000")
    assert data.x_train.shape == (4000, 28, 28)
    assert data.x_test.shape == (1000, 28, 28)
    assert data.x_train.dtype == data.x_test.dtype == np.uint8
    assert np.bincount(data.y_train).tolist() == [400] * 10
    assert np.bincount(data.y_test).tolist() == [100] * 10
    assert data.clients is None
    assert nearest_centroid_accuracy(data) == pytest.approx(0.804, abs=2e-3)


def test_the_shipped_set_is_shuffled_and_its_parts_are_disjoint():
    data = datasets.load("mnist5000")
    # Ten contiguous pieces of an unsorted set all have about 40 of each label.
    for piece in np.array_split(data.y_train, 10):
        assert np.bincount(piece, minlength=10).min() >= 20
    train, test = (
        {image.tobytes() for image in images}
        for images in (data.x_train, data.x_test)
    )
    assert len(train) == 4000 and len(test) == 1000 and not train & test


@pytest.mark.skipif(not SHARED, reason="FDA_TF_DATA_DIR is not set")
@pytest.mark.parametrize(
    "name, accuracy",
    [("mnist", 0.8203), ("fashion_mnist", 0.6768), ("femnist100", 0.5395)],
)
def test_nearest_centroid_accuracy_of_the_full_sets(name, accuracy):
    if not (Path(SHARED) / f"{name}.npz").exists():
        pytest.skip(f"FDA_TF_DATA_DIR has no {name}.npz")
    data = datasets.load(name, SHARED)
    assert nearest_centroid_accuracy(data) == pytest.approx(accuracy, abs=1e-4)
    assert (data.clients is not None) == (name == "femnist100")


def test_folder_gives_plain_arrays_with_int64_labels(tmp_path):
    data = datasets.load("tiny", saved(tmp_path))
    np.testing.assert_array_equal(data.x_train, PIECES["x_train"])
    np.testing.assert_array_equal(data.y_test, PIECES["y_test"])
    assert data.x_train.dtype == np.uint8
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert data.clients is None


def test_clients_and_labels_in_a_column_are_read(tmp_path):
    clients = np.array([9, 9, 4, 4, 4, 1], np.uint16)
    column = PIECES["y_train"][:, None]
    folder = saved(tmp_path, client_train=clients, y_train=column)
    data = datasets.load("tiny", folder)
    assert data.clients.dtype == np.int64
    assert data.clients.tolist() == clients.tolist()
    assert data.y_train.shape == (6,)


def test_text_is_a_sample_too(tmp_path):
    texts = {"x_train": np.array(list("abcdef")), "x_test": np.array(["x"] * 3)}
    data = datasets.load("tiny", saved(tmp_path, **texts))
    assert data.x_train.tolist() == list("abcdef")


def test_folder_comes_before_the_shipped_set(tmp_path):
    data = datasets.load("mnist5000", saved(tmp_path, name="mnist5000"))
    assert len(data.x_train) == 6


def test_folder_without_the_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no mnist5000.npz; its .* none. Le"):
        datasets.load("mnist5000", tmp_path)
    saved(tmp_path, name="sst2")
    saved(tmp_path, name="mnist")
    with pytest.raises(ValueError, match="files: mnist.npz, sst2.npz. Leave"):
        datasets.load("mnist5000", tmp_path)


def test_where_the_data_came_from(offline, monkeypatch, tmp_path):
    assert datasets.load("mnist5000").source == "shipped"
    data = datasets.load("tiny", saved(tmp_path))
    assert data.source == str(tmp_path / "tiny.npz")
    images = PIECES["x_train"][..., None]
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake_tfds(images))
    assert datasets.load("mnist").source == "TFDS' mnist"


def fake_tfds(images):
    """A stand-in with the two functions that the loader calls."""

    def load(name, split, batch_size, as_supervised, download):
        assert (split, batch_size) == (["train", "test"], -1)
        assert as_supervised and not download
        if name != "mnist":
            raise AssertionError(f"Dataset {name}: could not find data")
        return [(images, PIECES["y_train"]), (images[:3], PIECES["y_test"])]

    return types.SimpleNamespace(load=load, as_numpy=lambda parts: parts)


def test_tfds_comes_before_keras(offline, monkeypatch):
    images = PIECES["x_train"][..., None]
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake_tfds(images))
    data = datasets.load("mnist")
    assert data.x_train.shape == (6, 2, 2)
    assert data.x_test.shape == (3, 2, 2)


def test_a_set_that_tfds_prepared_is_read_from_its_files(tmp_path):
    import tensorflow_datasets as tfds

    shipped = datasets.load("mnist5000")

    class Digits300(tfds.core.GeneratorBasedBuilder):
        """A part of the shipped set, in its order."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(28, 28, 1))
            label = tfds.features.ClassLabel(num_classes=10)
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {"image": image, "label": label}
                ),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, _):
            return {
                "train": self._generate_examples(*shipped[:2], 200),
                "test": self._generate_examples(*shipped[2:4], 100),
            }

        def _generate_examples(self, images, labels, count):
            for i in range(count):
                yield i, {"image": images[i][..., None], "label": labels[i]}

    Digits300(data_dir=tmp_path).download_and_prepare()
    assert list(tmp_path.glob("digits300/1.0.0/*.tfrecord*"))
    tfds.core.add_data_dir(tmp_path)
    data = datasets.load("digits300")
    assert data.source == "TFDS' digits300"
    np.testing.assert_array_equal(data.x_train, shipped.x_train[:200])
    np.testing.assert_array_equal(data.y_train, shipped.y_train[:200])
    np.testing.assert_array_equal(data.x_test, shipped.x_test[:100])
    np.testing.assert_array_equal(data.y_test, shipped.y_test[:100])


def test_tfds_without_the_set_gives_way_to_keras(offline, monkeypatch):
    images = np.zeros((6, 2, 2, 3), np.uint8)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake_tfds(images))
    column = PIECES["y_train"][:, None]
    parts = (images, column), (images[:3], column[:3])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: parts)
    data = datasets.load("cifar10")
    assert data.x_train.shape == (6, 2, 2, 3)
    assert data.y_test.tolist() == [0, 1, 2]


# What is refused


def test_absent_set_lists_all_that_was_tried(offline):
    with pytest.raises(ValueError) as refused:
        datasets.load("mnist")
    message = str(refused.value)
    for part in (
        "'mnist', which was not found",
        "data_dir (none was given)",
        f"{datasets.SHIPPED / 'mnist.npz'} (no such file)",
        "TFDS (tensorflow-datasets is not installed)",
        "Keras (URL fetch failure)",
        "the set that ships, mnist5000",
    ):
        assert part in message


def test_unknown_name_lists_what_keras_has(offline):
    with pytest.raises(ValueError, match="none was given.*it has mnist, fash"):
        datasets.load("MNIST")


def test_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="'.*nowhere', which is no folder"):
        datasets.load("mnist5000", tmp_path / "nowhere")


class Compression:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_pickled_arrays_are_not_loaded(tmp_path):
    mark = tmp_path / "unpickled"
    folder = saved(tmp_path, x_train=np.array([Compression(mark)] * 6, object))
    with pytest.raises(ValueError, match="tiny.npz.*pickled objects are never"):
        datasets.load("tiny", folder)
    assert not mark.exists()


def test_file_that_is_a_pickle_is_not_loaded(tmp_path):
    mark = tmp_path / "unpickled"
    (tmp_path / "tiny.npz").write_bytes(pickle.dumps(Compression(mark)))
    with pytest.raises(ValueError, match="tiny.npz.*pickled objects are never"):
        datasets.load("tiny", tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file(tmp_path, kept):
    whole = (datasets.SHIPPED / "mnist5000.npz").read_bytes()
    path = tmp_path / "mnist5000.npz"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match="mnist5000.npz, which cannot be read"):
        datasets.load("mnist5000", tmp_path)


def test_changed_byte(tmp_path):
    whole = bytearray((datasets.SHIPPED / "mnist5000.npz").read_bytes())
    whole[300_000] ^= 0x10
    (tmp_path / "mnist5000.npz").write_bytes(whole)
    with pytest.raises(ValueError, match="mnist5000.npz, which cannot be read"):
        datasets.load("mnist5000", tmp_path)


def test_single_array_under_the_name_of_an_npz(tmp_path):
    with open(tmp_path / "tiny.npz", "wb") as file:
        np.save(file, PIECES["x_train"])
    with pytest.raises(ValueError, match="tiny.npz, which cannot be read"):
        datasets.load("tiny", tmp_path)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(y_test=None, x_test=None), "without x_test, y_test"),
        (dict(y_train=PIECES["y_train"][:5]), r"x_train of shape \(6, 2, 2\)"),
        (dict(x_test=PIECES["x_test"][:0], y_test=PIECES["y_test"][:0]), "one"),
        (dict(y_train=np.zeros(6)), "type float64; expected"),
        (dict(y_train=np.zeros((6, 2), int)), r"y_train of shape \(6, 2\)"),
        (dict(x_train=np.float32(0)), r"x_train of shape \(\)"),
        (dict(x_test=np.zeros((3, 4))), r"shape \(2, 2\) to train and \(4,\)"),
        (dict(y_test=np.array([0, -1, 2])), "from -1 to 2 in y_test"),
        (dict(client_train=np.zeros(5, int)), r"client_train of shape \(5,\)"),
        (dict(client_train=np.zeros(6)), "client_train.*type float64"),
    ],
)
def test_arrays_that_do_not_fit_together(tmp_path, changes, words):
    with pytest.raises(ValueError, match=f"tiny.npz.*{words}"):
        datasets.load("tiny", saved(tmp_path, **changes))


def test_labels_out_of_the_range_of_the_name(tmp_path):
    labels = np.array([0, 1, 2, 10, 1, 2])
    folder = saved(tmp_path, name="mnist", y_train=labels)
    with pytest.raises(ValueError, match="0 to 10 in y_train; expected 0 to 9"):
        datasets.load("mnist", folder)


def test_labels_out_of_the_range_of_the_task(tmp_path):
    assert len(datasets.load("tiny", saved(tmp_path), classes=3).y_train) == 6
    with pytest.raises(ValueError, match="0 to 2 in y_train; expected 0 to 1"):
        datasets.load("tiny", saved(tmp_path), classes=2)
