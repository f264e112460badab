"""What can be trained: a model, its data and how the paper trained it.

A task is one row of `TASKS`. To add one, write the function that builds the
model in models.py and add the row; the command line, its help, RUN_ID and the
tests read the table. Importing it loads no TensorFlow.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

# As Keras' `preprocess_input(mode="torch")`: mean and deviation of the colours.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def unit(images: np.ndarray) -> np.ndarray:
    """x / 255."""
    return images / np.float32(255)


def standard(images: np.ndarray) -> np.ndarray:
    """x / 255, then less ImageNet's mean, over its standard deviation."""
    return (unit(images) - _MEAN) / _DEVIATION


# The local optimizers of the paper: a class of Keras, and its options.
_OPTIMIZERS = {
    "adam": ("Adam", {"epsilon": 1e-7}),  # CNNs
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),  # DenseNets
    "adamw": ("AdamW", {"weight_decay": 1e-8}),  # ConvNeXtLarge
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A model with its data; each default is that of the flag of its name."""

    name: str  # what --task says
    title: str  # what tables and pictures say
    dataset: str  # what `experiments.datasets.load` is asked for
    net: tuple  # a function of models.py, and its arguments
    input_shape: tuple[int, ...]  # of one sample as the model takes it
    classes: int  # labels are integers from 0 to classes - 1
    parameters: int  # d, trainable weights
    theta: float
    target_accuracy: float
    epochs: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    local: str = "adam"  # of `_OPTIMIZERS`
    scale: Callable[[np.ndarray], np.ndarray] = unit  # float32 of 0 to 255
    weights: str | None = None  # None: no choice
    statistics: str | None = None  # None: the model has no BatchNorm
    split: str = "iid"
    words: int = 0  # of texts, the size of the vocabulary

    def model(self, *weights: str) -> Any:
        """The model, not compiled; with the weights of that name, if any."""
        from experiments import models

        name, *arguments = self.net
        return getattr(models, name)(*arguments, *weights)

    def build(
        self,
        seed: int,
        optimizer: Callable[[], Any] | None = None,
        weights: str | None = None,
    ) -> Any:
        """The compiled model; equal seeds give equal first weights.

        Args:
            seed: set in Python, NumPy and TensorFlow before the model is made.
            optimizer: () -> what to use in place of the task's own.
            weights: what it begins with, in place of the task's `weights`.

        Returns:
            A compiled keras.Model that reports loss and accuracy.
        """
        import keras

        keras.utils.set_random_seed(seed)
        weights = weights or self.weights
        model = self.model(weights) if self.weights else self.model()
        model.compile(
            optimizer=(optimizer or self.optimizer)(),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            # On a CPU, TensorFlow's own kernels are faster here than XLA's:
            # 680 against 490 steps of LeNet-5 a second on two cores.
            jit_compile=False,
        )
        return model

    def optimizer(self, learning_rate: float | None = None) -> Any:
        """The task's local optimizer, at this or the task's own rate."""
        import keras

        kind, options = _OPTIMIZERS[self.local]
        rate = learning_rate or self.learning_rate
        return getattr(keras.optimizers, kind)(rate, **options)

    def inputs(
        self, train: np.ndarray, test: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Training and test samples as the model takes them.

        Images are scaled. Texts become the numbers of their words, cut or
        padded to the length of `input_shape`; the vocabulary is made of the
        training texts alone.

        Args:
            train: uint8 images or texts [n, ...].
            test: such samples [m, ...].

        Returns:
            float32 [n, *input_shape] and [m, *input_shape].

        Raises:
            ValueError: what the task cannot take.
        """
        if not self.words:
            return self.scaled(train), self.scaled(test)
        for texts in (train, test):
            if texts.dtype.kind != "U" or texts.ndim != 1:
                raise ValueError(
                    f"Task {self.name} takes texts, got {texts.dtype} of shape "
                    f"{texts.shape} from the data set {self.dataset!r}; choose "
                    "another --task or --data_dir."
                )
        import keras

        vectorize = keras.layers.TextVectorization(
            self.words, output_sequence_length=self.input_shape[0]
        )
        vectorize.adapt(train)
        return tuple(
            np.asarray(vectorize(texts), np.float32) for texts in (train, test)
        )

    def scaled(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [n, height, width(, channels)] as the model takes them.

        Raises:
            ValueError: another type, or a shape that is not the task's.
        """
        shape = self.input_shape
        shapes = [shape, shape[:-1]] if shape[-1] == 1 else [shape]
        if images.shape[1:] not in shapes or images.dtype != np.uint8:
            raise ValueError(
                f"Task {self.name} takes uint8 images of shape {shape}, got "
                f"{images.dtype} of shape {images.shape[1:]} from the data set "
                f"{self.dataset!r}; choose another --task or --data_dir."
            )
        return self.scale(images.reshape(-1, *shape).astype(np.float32))


_MNIST = {"input_shape": (28, 28, 1), "classes": 10}
_CIFAR10 = {"input_shape": (32, 32, 3), "classes": 10}
_LENET5 = {**_MNIST, "net": ("lenet5",), "parameters": 61_706, "epochs": 60}
_DENSENET = {
    **_CIFAR10, "epochs": 200, "learning_rate": 0.1, "local": "nesterov",
    "scale": standard, "statistics": "local", "target_accuracy": 0.78,
}  # fmt: skip
_SMALL = {"theta": 2.0, "epochs": 20, "learning_rate": 2e-3}

TASKS = {
    task.name: task
    for task in (
        Task(
            "lenet5_mnist5000", "LeNet-5 on 5,000 MNIST images", "mnist5000",
            **_LENET5, theta=3.0, target_accuracy=0.95, learning_rate=2e-3,
        ),
        Task(
            "lenet5_mnist", "LeNet-5 on MNIST", "mnist",
            **_LENET5, theta=1.5, target_accuracy=0.98,
        ),
        Task(
            "vgg16star_mnist", "VGG16* on MNIST", "mnist", ("vgg16star",),
            **_MNIST, parameters=2_592_202,
            theta=50.0, target_accuracy=0.994, epochs=100,
        ),
        Task(
            "densenet121_cifar10", "DenseNet121 on CIFAR-10", "cifar10",
            ("densenet", 121), **_DENSENET, parameters=6_964_106, theta=300.0,
        ),
        Task(
            "densenet201_cifar10", "DenseNet201 on CIFAR-10", "cifar10",
            ("densenet", 201), **_DENSENET, parameters=18_112_138, theta=600.0,
        ),
        Task(
            "convnext_large_cifar100", "ConvNeXtLarge on CIFAR-100", "cifar100",
            ("convnext_large",), input_shape=(32, 32, 3), classes=100,
            parameters=197_068_580, theta=50.0, target_accuracy=0.76,
            epochs=35, learning_rate=5e-5, local="adamw", scale=np.asarray,
            weights="imagenet",
        ),
        Task(
            "cnn_fashion", "A small CNN on Fashion-MNIST", "fashion_mnist",
            ("small_cnn", (28, 28, 1), 10), **_MNIST, **_SMALL,
            parameters=27_562, target_accuracy=0.87,
        ),
        Task(
            "cnn_cifar10", "A small CNN on 20,000 images of CIFAR-10",
            "cifar10_20k", ("small_cnn", (32, 32, 3), 10), **_CIFAR10, **_SMALL,
            parameters=38_970, target_accuracy=0.50,
        ),
        Task(
            "cnn_femnist", "A small CNN on FEMNIST, by writer", "femnist100",
            ("small_cnn", (28, 28, 1), 62), (28, 28, 1), 62, **_SMALL,
            parameters=30_942, target_accuracy=0.70, split="natural",
        ),
        Task(
            "text_sst2", "A small text CNN on SST-2", "sst2",
            ("text_cnn", 4000, 40), (40,), 2, **_SMALL,
            parameters=131_170, target_accuracy=0.78, words=4000,
        ),
    )
}  # fmt: skip
