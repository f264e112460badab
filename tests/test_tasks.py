"""The tasks are the paper's models, and take the data they name."""

import keras
import numpy as np
import pytest

from experiments import datasets
from experiments.tasks import TASKS

PARAMETERS = {
    "lenet5_mnist5000": 61_706,
    "lenet5_mnist": 61_706,
    "vgg16star_mnist": 2_592_202,
}
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
    rate = 2e-3 if name == "lenet5_mnist5000" else 1e-3
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


def test_predicts_ten_classes():
    images = np.zeros((3, 28, 28, 1), np.float32)
    chances = TASKS["lenet5_mnist5000"].build(0)(images).numpy()
    assert chances.shape == (3, 10)
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
