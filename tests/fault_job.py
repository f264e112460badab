"""One worker of a job in which something goes wrong.

python fault_job.py FOLDER SETTINGS, where SETTINGS are JSON: see `DEFAULTS`.
It writes its pid, the steps that it has done, and its final weights.
"""

import json
import os
import pathlib
import resource
import signal
import sys
import time

DEFAULTS = {
    "how": "fit",  # or "train"
    "epochs": 8,
    "pause": 0.0,  # seconds after each step, or each call of train's loop
    "checkpoint": None,  # the folder; by default FOLDER's own
    "every": 20,  # steps from one checkpoint to the next
    "start_timeout": 120.0,
    "fault": None,  # what goes wrong
    "at": 47,  # after which step
    "worker": 1,  # on which worker, and only in the first start
}
BATCH, STEPS = 8, 30  # of an epoch, with two workers


class FaultError(Exception):
    """What goes wrong."""


def throw(error):
    """Raises an error, as a lambda cannot."""
    raise error


def fill_disk():
    """From now on no file of this process may grow past 1,000 bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))


AT_A_STEP = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "disk": fill_disk,
    "callback": lambda: throw(FaultError("the callback's")),
    "exit": lambda: sys.exit(3),
    "interrupt": lambda: throw(KeyboardInterrupt()),
}


class Job:
    """What this worker does.

    Args:
      folder: where it writes.
      settings: as in `DEFAULTS`.
    """

    def __init__(self, folder, settings):
        import fda_tf

        self.folder, self.settings = folder, settings
        (folder / "pids").mkdir(exist_ok=True)
        task = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        (folder / "pids" / str(task)).write_text(str(os.getpid()))
        if task == settings["worker"] and settings["fault"] == "never comes":
            time.sleep(600)
        self.replicas = fda_tf.connect(settings["start_timeout"])
        first = os.environ.get("FDA_TF_RESTART", "0") == "0"
        mine = first and self.replicas.index == settings["worker"]
        self.fault = settings["fault"] if mine else None
        self.progress = (folder / f"steps-{self.replicas.index}").open("a")

    def run(self):
        """Trains to the end; writes the weights of the end."""
        import keras
        import numpy as np
        import small

        import fda_tf

        keras.utils.set_random_seed(self.replicas.index)
        if self.fault == "version":
            fda_tf.__version__ = "9.9"
        other = self.fault == "model"
        model = small.linear_model() if other else small.rich_model()
        sync = fda_tf.VarianceThreshold(
            0.5 if self.fault == "theta" else 0.05, "linear"
        )
        kept = fda_tf.Checkpoint(
            self.settings["checkpoint"] or self.folder / "checkpoints",
            every=self.settings["every"],
        )
        getattr(self, self.settings["how"])(model, sync, kept)
        weights = [np.ravel(v.numpy()) for v in model.weights]
        np.save(
            self.folder / f"weights-{self.replicas.index}.npy",
            np.concatenate([w for w in weights if w.dtype == np.float32]),
        )

    def fit(self, model, sync, kept):
        """Trains by Keras' fit."""
        import keras
        import small

        import fda_tf

        done = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self.step(
                int(model.optimizer.iterations)
            )
        )
        data = fda_tf.shard(small.data(2 * BATCH * STEPS), BATCH)
        if self.fault == "data":
            data = data.map(lambda x, y: (self.broken(x, y), y))
        x, y = small.data(64, seed=1)
        model.fit(
            data,
            validation_data=self.validation(x, y),
            epochs=self.settings["epochs"],
            verbose=0,
            callbacks=[
                done,
                fda_tf.Averaging(sync, checkpoint=kept),
            ],
        )

    def train(self, model, sync, kept):
        """Trains by fda_tf's own loop."""
        import small

        import fda_tf

        fda_tf.train(
            model,
            small.shards(2, 2 * BATCH * STEPS)[self.replicas.index],
            steps=self.settings["epochs"] * STEPS,
            batch_size=BATCH,
            sync=sync,
            checkpoint=kept,
            validation_data=small.data(64, seed=1),
            on_progress=lambda row: self.step(row["step"]),
        )

    def step(self, step):
        """Called when a step is done, or some."""
        self.progress.write(f"{step}\n")
        self.progress.flush()
        time.sleep(self.settings["pause"])
        if step >= self.settings["at"] and self.fault in AT_A_STEP:
            fault, self.fault = self.fault, None
            print(f"fault: {fault}", flush=True)
            AT_A_STEP[fault]()

    def broken(self, x, y):
        """Returns x, until data fail."""
        import tensorflow as tf

        left = [self.settings["at"]]

        def fail(x):
            left[0] -= 1
            if not left[0]:
                raise FaultError("the data's")
            return x

        broken = tf.numpy_function(fail, [x], x.dtype)
        return tf.ensure_shape(broken, x.shape)

    def validation(self, x, y):
        """Returns validation data, which fail in the second epoch."""
        import keras

        passes = []

        class Data(keras.utils.PyDataset):
            def __len__(self):
                return 2

            def __getitem__(self, i):
                passes.append(i)
                if failing and len(passes) > 3:
                    raise FaultError("the validation data's")
                return x[i::2], y[i::2]

        failing = self.fault == "validation"
        return Data()


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    unknown = given.keys() - DEFAULTS.keys()
    if unknown:
        sys.exit(f"unknown settings: {unknown}")
    Job(pathlib.Path(sys.argv[1]), DEFAULTS | given).run()
