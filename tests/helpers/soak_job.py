"""One worker of the soak: LeNet-5 on MNIST by `model.fit`."""

import json
import os
import pathlib
import sys

import keras
import numpy as np

import fda_tf
from experiments import datasets
from experiments.tasks import TASKS

EPOCHS, EVERY = 8, 50


class Steps(keras.callbacks.Callback):
    """Writes each step that is done to a file of this start's own."""

    def __init__(self, path):
        super().__init__()
        self.path, self.last = path, None

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        # Of the epoch that goes on, Keras counts what was done before, too.
        if step != self.last and (self.last or step % EVERY):
            with open(self.path, "a") as file:
                file.write(f"{step}\n")
        self.last = step


def main(folder):
    """Trains; goes on from the last checkpoint, if there is one."""
    process_group = fda_tf.connect()
    start, k = int(os.environ["FDA_TF_RESTART"]), process_group.index
    folder = pathlib.Path(folder)
    (folder / f"pid-{start}-{k}").write_text(str(os.getpid()))
    keras.utils.set_random_seed(0)
    task = TASKS["lenet5_mnist"]
    data = datasets.load("mnist", os.environ["FDA_TF_DATA_DIR"])
    model = task.build(0)
    model.fit(
        fda_tf.shard((task.scaled(data.x_train), data.y_train), batch_size=32),
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            fda_tf.FDA(
                theta=1.5,
                checkpoint=fda_tf.Checkpoint(folder / "saved", EVERY),
            ),
            Steps(folder / f"steps-{start}-{k}"),
        ],
    )
    weights = np.concatenate([np.ravel(w) for w in model.get_weights()])
    np.save(folder / f"end-{k}.npy", weights)
    x, y = task.scaled(data.x_test), data.y_test
    _, accuracy = model.evaluate(x, y, verbose=0)
    (folder / f"accuracy-{k}").write_text(json.dumps(accuracy))


if __name__ == "__main__":
    main(sys.argv[1])
