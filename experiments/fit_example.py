"""LeNet-5 on MNIST by `model.fit`, on as many workers as there are.

python -m fda_tf.launch --workers=4 experiments/fit_example.py
"""

import os
import sys

import keras
import numpy as np

import fda_tf
from experiments import datasets

process_group = fda_tf.connect()  # first: TF_CONFIG, SLURM, or alone
keras.utils.set_random_seed(0)

data = datasets.load("mnist", os.environ.get("FDA_TF_DATA_DIR"))
x = np.float32(data.x_train)[..., None] / 255
x_test = np.float32(data.x_test)[..., None] / 255

layers = keras.layers
model = keras.Sequential([keras.Input((28, 28, 1))])
model.add(layers.Conv2D(6, 5, padding="same", activation="tanh"))
model.add(layers.AveragePooling2D(2))
model.add(layers.Conv2D(16, 5, activation="tanh"))
model.add(layers.AveragePooling2D(2))
model.add(layers.Flatten())
model.add(layers.Dense(120, activation="tanh"))
model.add(layers.Dense(84, activation="tanh"))
model.add(layers.Dense(10, activation="softmax"))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

history = model.fit(
    fda_tf.shard((x, data.y_train), batch_size=32),
    validation_data=(x_test, data.y_test),
    epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 8,
    callbacks=[fda_tf.FDA(theta=1.5, monitor="linear")],
)
