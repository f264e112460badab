"""The tasks are the models they say, and take the data they name."""

import functools

import keras
import numpy as np
import pytest
from command_line import plan

from experiments import config, datasets, models
from experiments.tasks import TASKS

LARGE = {
    # The paper's table of models.
    "densenet121_cifar10": 6_964_106,
    "densenet201_cifar10": 18_112_138,
    "convnext_large_cifar100": 197_068_580,
}
SMALL = [name for name in TASKS if name not in LARGE]
PARAMETERS = LARGE | {
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


@functools.cache
def outline(name):
    """The model of a task with the shapes of its weights, not the weights."""
    task = TASKS[name]
    with keras.StatelessScope(initialize_variables=False):
        return task.model("none") if task.weights else task.model()


@pytest.mark.parametrize("name", TASKS)
def test_parameters_and_output(name):
    model, task = outline(name), TASKS[name]
    sizes = [np.prod(v.shape) for v in model.trainable_variables]
    assert sum(sizes) == PARAMETERS[name] == task.parameters
    assert model.output_shape == (None, task.classes)
    assert model.input_shape == (None, *task.input_shape)


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


@pytest.mark.parametrize("name", SMALL)
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


@pytest.mark.parametrize("name", SMALL)
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


# The large models, whose weights are made in the slow test alone


@pytest.mark.parametrize("depth", [121, 201])
def test_densenet_is_that_of_keras_but_for_the_paper_s_details(depth):
    ours = outline(f"densenet{depth}_cifar10")
    with keras.StatelessScope(initialize_variables=False):
        theirs = getattr(keras.applications, f"DenseNet{depth}")(
            weights=None, input_shape=(32, 32, 3), classes=10
        )
    shapes = [[v.shape for v in model.weights] for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    kinds = [type(layer).__name__ for layer in ours.layers]
    assert [kind for kind in kinds if kind != "Dropout"] == [
        "ReLU" if kind == "Activation" else kind
        for kind in (type(layer).__name__ for layer in theirs.layers)
    ]
    for layer in ours.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.epsilon == 1.001e-5
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            assert layer.kernel_regularizer.l2 == np.float32(1e-4)
            kernel = layer.kernel_initializer
            assert isinstance(kernel, keras.initializers.HeNormal)


def test_densenet_drops_after_both_convolutions_of_a_dense_layer():
    kinds = [type(v).__name__ for v in outline("densenet121_cifar10").layers]
    rates = {
        v.rate
        for v in outline("densenet121_cifar10").layers
        if isinstance(v, keras.layers.Dropout)
    }
    assert rates == {0.2} and kinds.count("Dropout") == 2 * (6 + 12 + 24 + 16)
    first = kinds.index("Dropout")
    assert kinds[first - 1 : first + 6] == [
        "Conv2D", "Dropout", "BatchNormalization", "ReLU", "Conv2D",
        "Dropout", "Concatenate",
    ]  # fmt: skip


def test_convnext_has_the_paper_s_head():
    last = outline("convnext_large_cifar100").layers[-4:]
    names = [type(layer).__name__ for layer in last]
    assert names == ["LayerNormalization", "Dense", "Dropout", "Dense"]
    assert last[1].units == 512 and last[1].activation.__name__ == "relu"
    assert last[2].rate == 0.5


def test_the_optimizers_of_the_large_models():
    nesterov = TASKS["densenet201_cifar10"].optimizer()
    assert isinstance(nesterov, keras.optimizers.SGD) and nesterov.nesterov
    assert nesterov.momentum == 0.9
    assert float(nesterov.learning_rate) == pytest.approx(0.1)
    adamw = TASKS["convnext_large_cifar100"].optimizer()
    assert isinstance(adamw, keras.optimizers.AdamW)
    assert float(adamw.learning_rate) == pytest.approx(5e-5)
    assert adamw.weight_decay == 1e-8


def test_the_large_models_scale_as_keras_does():
    images = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 32, 32, 3)
    ours = TASKS["densenet121_cifar10"].scaled(images)
    theirs = keras.applications.densenet.preprocess_input(
        images.astype(np.float32)
    )
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # ConvNeXt's first layer does it.
    task = TASKS["convnext_large_cifar100"]
    np.testing.assert_array_equal(task.scaled(images), images)
    stem = outline(task.name).layers[1]
    np.testing.assert_allclose(
        stem(images.astype(np.float32)), theirs, atol=1e-5
    )


def test_weights_that_cannot_be_had(monkeypatch):
    def unreachable(*_, **__):
        raise Exception("URL fetch failure\nand more")

    monkeypatch.setattr(keras.applications, "ConvNeXtLarge", unreachable)
    monkeypatch.setenv("KERAS_HOME", "cache")
    with pytest.raises(ValueError) as refused:
        models.convnext_large("imagenet")
    message = str(refused.value)
    assert "(URL fetch failure)" in message and "--weights=none" in message
    assert "cache/models/convnext_large_notop.h5" in message


def settings(task, **changes):
    """What a run of a task has."""
    (run,), _ = plan(task=task, algorithm=["linear"], **changes)
    return run


def test_weights_are_of_the_one_task_that_has_them():
    large = "convnext_large_cifar100"
    assert settings(large).weights == "imagenet"
    assert "-weightsnone-" in settings(large, weights="none").run_id
    assert settings("lenet5_mnist", weights="none").weights is None
    with pytest.raises(ValueError, match=f"always trained from .*: {large}"):
        settings("lenet5_mnist", weights="imagenet")
    with pytest.raises(ValueError, match="known: imagenet, none"):
        settings(large, weights="jft")
    assert config.WEIGHTS == ("imagenet", "none")


def test_statistics_are_of_the_tasks_that_have_batch_normalisation():
    densenet = "densenet121_cifar10"
    assert settings(densenet).statistics == "local"
    averaged = settings(densenet, statistics="average")
    assert averaged.statistics == "average"
    assert "-statisticsaverage-" in averaged.run_id
    assert settings("lenet5_mnist").statistics is None
    with pytest.raises(ValueError, match="lenet5_mnist has no BatchNorm"):
        settings("lenet5_mnist", statistics="local")
    with pytest.raises(ValueError, match="--statistics=both is unknown"):
        settings(densenet, statistics="both")
    for name, task in TASKS.items():
        if task.parameters < 1e6:
            layers = task.build(0)._flatten_layers()
            kinds = {type(layer).__name__ for layer in layers}
            has = "BatchNormalization" in kinds
            assert has == (task.statistics is not None), name


@pytest.mark.slow  # 197 M weights
@pytest.mark.parametrize("name", LARGE)
def test_a_large_model_trains_a_step(name):
    task = TASKS[name]
    model = task.build(0, weights="none" if task.weights else None)
    # Of fewer, BatchNorm makes gradients of no use: its last maps are 1 x 1.
    shape = (task.batch_size, *task.input_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    samples = task.scaled(images)
    model.train_on_batch(samples, np.arange(len(samples)) % task.classes)
    chances = model(samples[:2]).numpy()
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    regularised = sum(map(float, model.losses))
    assert (regularised > 0) == name.startswith("densenet")
