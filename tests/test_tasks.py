"""The tasks are the models they say, and take the data they name."""

import keras
import numpy as np
import pytest

from experiments import datasets
from experiments.tasks import TASKS

PARAMETERS = {
    "lenet5_mnist5000": 61_706,
    "lenet5_mnist": 61_706,
    "vgg16star_mnist": 2_592_202,
    # 3x3 kernels and biases, then 5x5 (6x6) positions of 16 channels.
    "cnn_fashion": 80 + 1168 + (400 + 1) * 64 + 65 * 10,
    "cnn_cifar10": 224 + 1168 + (576 + 1) * 64 + 65 * 10,
    "cnn_femnist": 80 + 1168 + (400 + 1) * 64 + 65 * 62,
    "text_sst2": 4000 * 32 + (3 * 32 + 1) * 32 + 33 * 2,
}
SLOWER = ("lenet5_mnist", "vgg16star_mnist")  # the paper's rate
# Layer names and output shapes, as in the paper's section 4.1.
LENET5 = [
    ("Conv2D", (28, 28, 6)),
    ("AveragePooling2D", (14, 14, 6)),
    ("Conv2D", (10, 10, 16)),
    ("AveragePooling2D", (5, 5, 16)),
    ("Flatten", (400,)),
    ("Dense", (120,)),
    ("Dense", (84,)),
    ("Dense", (10,)),
]
VGG16STAR = [
    ("Conv2D", (28, 28, 64)),
    ("Conv2D", (28, 28, 64)),
    ("MaxPooling2D", (14, 14, 64)),
    ("Conv2D", (14, 14, 128)),
    ("Conv2D", (14, 14, 128)),
    ("MaxPooling2D", (7, 7, 128)),
    ("Conv2D", (7, 7, 256)),
    ("Conv2D", (7, 7, 256)),
    ("MaxPooling2D", (3, 3, 256)),
    ("Flatten", (2304,)),
    ("Dense", (512,)),
    ("Dropout", (512,)),
    ("Dense", (512,)),
    ("Dropout", (512,)),
    ("Dense", (10,)),
]


@pytest.mark.parametrize("name", TASKS)
def test_parameters(name):
    assert TASKS[name].build(seed=0).count_params() == PARAMETERS[name]


@pytest.mark.parametrize(
    "name, layers",
    [("lenet5_mnist", LENET5), ("vgg16star_mnist", VGG16STAR)],
)
def test_layers(name, layers):
    model = TASKS[name].model()
    found = [(type(v).__name__, v.output.shape[1:]) for v in model.layers]
    assert found == layers
    for layer in model.layers:
        if layer.weights:
            kernel = layer.kernel_initializer
            assert isinstance(kernel, keras.initializers.GlorotUniform)


@pytest.mark.parametrize("name", TASKS)
def test_compiled_with_adam(name):
    model = TASKS[name].build(seed=0)
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    rate = 1e-3 if name in SLOWER else 2e-3
    assert float(model.optimizer.learning_rate) == pytest.approx(rate)
    assert model.optimizer.epsilon == 1e-7
    assert not model.jit_compile


def test_seed_makes_the_weights():
    task = TASKS["lenet5_mnist"]
    first, same, other = (task.build(seed) for seed in (1, 1, 2))
    for a, b, c in zip(first.weights, same.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        if a.ndim > 1:  # biases are 0
            assert np.abs(np.asarray(a) - np.asarray(c)).max() > 0


def test_own_optimizer():
    model = TASKS["lenet5_mnist"].build(0, lambda: keras.optimizers.SGD(0.25))
    assert isinstance(model.optimizer, keras.optimizers.SGD)


@pytest.mark.parametrize("name", TASKS)
def test_names_a_known_dataset(name):
    task = TASKS[name]
    assert name == task.name
    assert datasets.CLASSES[task.dataset] == task.classes


def test_images_are_scaled():
    task = TASKS["lenet5_mnist"]
    images = np.full((2, 28, 28), 255, np.uint8)
    images[0] = 51
    scaled = task.scaled(images)
    assert scaled.shape == (2, 28, 28, 1) and scaled.dtype == np.float32
    assert scaled[0].max() == np.float32(0.2) and scaled[1].min() == 1
    np.testing.assert_array_equal(scaled, task.scaled(images[..., None]))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 32, 32, 3), np.uint8),
        np.zeros((2, 28, 27), np.uint8),
        np.zeros((2, 28, 28), np.float32),
    ],
)
def test_refuses_other_images(images):
    with pytest.raises(ValueError, match="uint8 images of shape"):
        TASKS["lenet5_mnist"].scaled(images)


@pytest.mark.parametrize("name", TASKS)
def test_predicts_the_classes(name):
    task = TASKS[name]
    samples = np.zeros((3, *task.input_shape), np.float32)
    chances = task.build(0)(samples).numpy()
    assert chances.shape == (3, task.classes)
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)


def test_texts_become_the_numbers_of_known_words():
    train = np.array(["good film", "a good , good plot"])
    x, x_test = TASKS["text_sst2"].inputs(train, np.array(["unseen good"]))
    assert x.shape == (2, 40) and x.dtype == np.float32
    good = 2  # the most frequent word follows padding, 0, and unknown, 1
    assert x[0, 0] == good and x[1, 1] == x[1, 2] == good
    np.testing.assert_array_equal(x_test[0, :3], [1, good, 0])


def test_images_of_both_parts_are_scaled():
    images = np.full((2, 32, 32, 3), 51, np.uint8)
    for part in TASKS["cnn_cifar10"].inputs(images, images[:1]):
        assert part.max() == part.min() == np.float32(0.2)


def test_refuses_images_for_texts():
    images = np.zeros((2, 28, 28), np.uint8)
    with pytest.raises(ValueError, match="text_sst2 takes texts, got uint8"):
        TASKS["text_sst2"].inputs(images, images)
