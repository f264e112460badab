"""The models of the tasks, not compiled."""

import os

import keras

layers = keras.layers


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


# What follows is trained from scratch or from ImageNet on images of 32 x 32.

_BLOCKS = {121: (6, 12, 24, 16), 201: (6, 12, 48, 32)}
_L2 = 1e-4  # on the kernels of convolutions and dense layers


def densenet(depth: int) -> keras.Model:
    """DenseNet for CIFAR-10: 6,964,106 (121) or 18,112,138 (201) parameters.

    Keras' topology. As the paper's: kernels drawn by he_normal with an L2
    penalty of 1e-4, and dropout of 0.2 after both convolutions of each dense
    layer.

    Args:
        depth: 121 or 201.
    """
    *blocks, last = _BLOCKS[depth]
    inputs = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(3)(inputs)
    x = _activated(_convolution(64, 7, strides=2)(x))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.MaxPooling2D(3, strides=2)(x)
    for count in blocks:
        x = _dense_block(x, count)
        x = _convolution(x.shape[-1] // 2, 1)(_activated(x))
        x = layers.AveragePooling2D(2)(x)
    x = _activated(_dense_block(x, last))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(10, activation="softmax", **_kernel())(x)
    return keras.Model(inputs, outputs, name=f"densenet{depth}")


def _kernel() -> dict[str, object]:
    return {
        "kernel_initializer": "he_normal",
        "kernel_regularizer": keras.regularizers.L2(_L2),
    }


def _convolution(filters: int, size: int, **options) -> keras.layers.Layer:
    return layers.Conv2D(filters, size, use_bias=False, **_kernel(), **options)


def _activated(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.ReLU()(layers.BatchNormalization(epsilon=1.001e-5)(x))


def _dense_block(x: keras.KerasTensor, count: int) -> keras.KerasTensor:
    """So many dense layers, each of which adds 32 channels."""
    for _ in range(count):
        new = _convolution(128, 1)(_activated(x))
        new = layers.Dropout(0.2)(new)
        new = _convolution(32, 3, padding="same")(_activated(new))
        new = layers.Dropout(0.2)(new)
        x = layers.Concatenate()([x, new])
    return x


def convnext_large(weights: str) -> keras.Model:
    """ConvNeXtLarge for CIFAR-100: 197,068,580 parameters.

    Its first layer scales images of 0 to 255.

    Args:
        weights: "imagenet", which are in Keras' cache or downloaded, or
            "none", to train from scratch.

    Raises:
        ValueError: the weights cannot be had; says where to place their file.
    """
    try:
        base = keras.applications.ConvNeXtLarge(
            include_top=False,
            weights=None if weights == "none" else weights,
            input_shape=(32, 32, 3),
            pooling="avg",
        )
    # A failed download raises errors of urllib, of ssl, or a plain Exception.
    except Exception as error:
        cache = os.environ.get("KERAS_HOME", os.path.join("~", ".keras"))
        path = os.path.join(cache, "models", "convnext_large_notop.h5")
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ValueError(
            f"The ImageNet weights of ConvNeXtLarge could not be had "
            f"({reason[0]}); place Keras' file of them at {path}, or give "
            "--weights=none to train from scratch"
        ) from error
    x = layers.Dense(512, activation="relu")(base.output)
    x = layers.Dropout(0.5)(x)
    outputs = layers.Dense(100, activation="softmax")(x)
    return keras.Model(base.input, outputs, name="convnext_large")
