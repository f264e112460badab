"""What can be trained: a model, its data and how the paper trained it.

A task is one row of `TASKS`. To add one, write the function that builds the
model and add the row; the command line, RUN_ID and the tests read the table.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

layers = keras.layers
Optimizer = keras.optimizers.Optimizer


@dataclasses.dataclass(frozen=True)
class Task:
    """A model with its data.

    Attributes:
        name: what --task says.
        title: what tables and pictures say.
        dataset: what `experiments.datasets.load` is asked for.
        model: () -> keras.Model, not compiled.
        input_shape: shape of one sample as the model takes it.
        classes: labels are integers from 0 to classes - 1.
        theta: variance threshold (squared norm of weights) without --theta.
        target_accuracy: test accuracy to pass, from 0 to 1.
        epochs: passes over all training data at most.
        batch_size: samples per worker and step.
        learning_rate: of Adam, the local optimizer; 1e-3 in the paper.
        split: how `fda_tf.partition.split` is to deal the data.
        words: of texts, the size of the vocabulary; 0 for images.
    """

    name: str
    title: str
    dataset: str
    model: Callable[[], keras.Model]
    input_shape: tuple[int, ...]
    classes: int
    theta: float
    target_accuracy: float
    epochs: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    split: str = "iid"
    words: int = 0

    def build(
        self, seed: int, optimizer: Callable[[], Optimizer] | None = None
    ) -> keras.Model:
        """The compiled model; equal seeds give equal first weights.

        Args:
            seed: set in Python, NumPy and TensorFlow before the model is made.
            optimizer: () -> what to use in place of the task's Adam.

        Returns:
            A compiled keras.Model that reports loss and accuracy.
        """
        keras.utils.set_random_seed(seed)
        model = self.model()
        model.compile(
            optimizer=(optimizer or self.adam)(),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            # On a CPU, TensorFlow's own kernels are faster here than XLA's:
            # 680 against 490 steps of LeNet-5 a second on two cores.
            jit_compile=False,
        )
        return model

    def adam(self, learning_rate: float | None = None) -> Optimizer:
        """The local optimizer of the paper, at this or the task's own rate."""
        return keras.optimizers.Adam(
            learning_rate or self.learning_rate, epsilon=1e-7
        )

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
        vectorize = layers.TextVectorization(
            self.words, output_sequence_length=self.input_shape[0]
        )
        vectorize.adapt(train)
        return tuple(
            np.asarray(vectorize(texts), np.float32) for texts in (train, test)
        )

    def scaled(self, images: np.ndarray) -> np.ndarray:
        """Images as the model takes them.

        Args:
            images: uint8 [n, height, width] or [n, height, width, channels].

        Returns:
            x / 255, float32 [n, *input_shape].

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
        images = images.reshape(-1, *shape).astype(np.float32)
        return images / np.float32(255)


def lenet5() -> keras.Model:
    """LeNet-5 as in the paper: tanh, average pooling, 61,706 parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(120, activation="tanh"),
            layers.Dense(84, activation="tanh"),
            layers.Dense(10, activation="softmax"),
        ],
        name="lenet5",
    )


def vgg16star() -> keras.Model:
    """VGG16*, the paper's small VGG for MNIST: 2,592,202 parameters."""
    stack = [keras.Input((28, 28, 1))]
    for filters in (64, 128, 256):
        for _ in range(2):
            stack.append(
                layers.Conv2D(filters, 3, padding="same", activation="relu")
            )
        stack.append(layers.MaxPooling2D(2))
    stack.append(layers.Flatten())
    for _ in range(2):
        stack.append(layers.Dense(512, activation="relu"))
        stack.append(layers.Dropout(0.5))
    stack.append(layers.Dense(10, activation="softmax"))
    return keras.Sequential(stack, name="vgg16star")


def small_cnn(shape: tuple[int, ...], classes: int) -> keras.Model:
    """A small CNN: two convolutions, two dense layers, relu.

    27,562 parameters for 28 x 28 x 1 and 10 classes.
    """
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ],
        name="small_cnn",
    )


def text_cnn(words: int, length: int) -> keras.Model:
    """A CNN on the numbers of words: embedding, one convolution, maximum."""
    return keras.Sequential(
        [
            keras.Input((length,)),
            layers.Embedding(words, 32),
            layers.SpatialDropout1D(0.5),
            layers.Conv1D(32, 3, activation="relu"),
            layers.GlobalMaxPooling1D(),
            layers.Dropout(0.5),
            layers.Dense(2, activation="softmax"),
        ],
        name="text_cnn",
    )


_MNIST = {"input_shape": (28, 28, 1), "classes": 10}

TASKS = {
    task.name: task
    for task in (
        Task(
            "lenet5_mnist5000", "LeNet-5 on 5,000 MNIST images", "mnist5000",
            lenet5, **_MNIST,
            theta=3.0, target_accuracy=0.95, epochs=60, learning_rate=2e-3,
        ),
        Task(
            "lenet5_mnist", "LeNet-5 on MNIST", "mnist", lenet5, **_MNIST,
            theta=1.5, target_accuracy=0.98, epochs=60,
        ),
        Task(
            "vgg16star_mnist", "VGG16* on MNIST", "mnist", vgg16star, **_MNIST,
            theta=50.0, target_accuracy=0.994, epochs=100,
        ),
        Task(
            "cnn_fashion", "A small CNN on Fashion-MNIST", "fashion_mnist",
            lambda: small_cnn((28, 28, 1), 10), **_MNIST,
            theta=2.0, target_accuracy=0.87, epochs=20, learning_rate=2e-3,
        ),
        Task(
            "cnn_cifar10", "A small CNN on 20,000 images of CIFAR-10",
            "cifar10_20k", lambda: small_cnn((32, 32, 3), 10),
            input_shape=(32, 32, 3), classes=10,
            theta=2.0, target_accuracy=0.50, epochs=20, learning_rate=2e-3,
        ),
        Task(
            "cnn_femnist", "A small CNN on FEMNIST, by writer", "femnist100",
            lambda: small_cnn((28, 28, 1), 62), input_shape=(28, 28, 1),
            classes=62,
            theta=2.0, target_accuracy=0.70, epochs=20, learning_rate=2e-3,
            split="natural",
        ),
        Task(
            "text_sst2", "A small text CNN on SST-2", "sst2",
            lambda: text_cnn(4000, 40), input_shape=(40,), classes=2,
            theta=2.0, target_accuracy=0.78, epochs=20, learning_rate=2e-3,
            words=4000,
        ),
    )
}  # fmt: skip
