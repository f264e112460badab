"""One worker of a job in which something goes wrong.

python fault_job.py FOLDER SETTINGS, where SETTINGS are JSON: see `DEFAULTS`.
In the folder it keeps its pid, the steps that it has done, when the fault was,
and how training ended.
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
    "start_timeout": 120.0,
    "fault": None,  # what goes wrong
    "at": 47,  # after which step
    "worker": 1,  # on which worker, and only in the first start
}
BATCH, STEPS = 8, 30  # of an epoch, with two workers
EVERY = 20  # steps from one checkpoint to the next
DISK = 3000  # bytes: more than all files need but a checkpoint's


class FaultError(Exception):
    """What goes wrong."""


def throw(error):
    """Raises an error, as a lambda cannot."""
    raise error


def fill_disk():
    """From now on no file of this process may grow past `DISK` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, hard))


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
        self.task = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        self.write("pid", os.getpid())
        first = os.environ.get("FDA_TF_RESTART", "0") == "0"
        mine = first and self.task == settings["worker"]
        self.fault = settings["fault"] if mine else None
        if self.fault == "joining":
            from fda_tf.processes import process_group

            process_group._strategy = lambda *_: AT_A_STEP["kill"]()
        self.process_group = fda_tf.connect(settings["start_timeout"])
        self.progress = (folder / f"steps-{self.task}").open("a")

    def write(self, name, what):
        """Keeps what others are to know of this worker."""
        (self.folder / f"{name}-{self.task}").write_text(json.dumps(what))

    def run(self):
        """Trains to the end; keeps what came out."""
        import keras
        import numpy as np
        import small

        import fda_tf

        keras.utils.set_random_seed(self.task)
        if self.fault == "version":
            fda_tf.version.__version__ = "9.9"
        other = self.fault == "model"
        model = small.linear_model() if other else small.rich_model()
        theta = 0.5 if self.fault == "theta" else 0.05
        settings = {
            "sync": fda_tf.VarianceThreshold(theta, "linear"),
            "checkpoint": fda_tf.Checkpoint(self.folder / "saved", EVERY),
        }
        syncs = getattr(self, self.settings["how"])(model, settings)
        weights = [np.ravel(v.numpy()) for v in model.weights]
        end = np.concatenate([w for w in weights if w.dtype == np.float32])
        self.write("end", end.tobytes().hex())
        self.write("syncs", [sync.step for sync in syncs])

    def fit(self, model, settings):
        """Trains by Keras' fit; returns the synchronisations."""
        import keras
        import small

        import fda_tf

        begun = []

        def batch_begins(batch, logs):
            begun[:] = [int(model.optimizer.iterations)]

        def batch_ends(batch, logs):
            step = int(model.optimizer.iterations)
            # Of an epoch that goes on, Keras counts what was done before, too.
            if step == begun[0] + 1:
                self.step(step)

        done = keras.callbacks.LambdaCallback(
            on_train_batch_begin=batch_begins, on_train_batch_end=batch_ends
        )
        fda = fda_tf.Averaging(**small.in_parts(settings))
        data = fda_tf.shard(small.data(2 * BATCH * STEPS), BATCH)
        if self.fault == "data":
            data = data.map(lambda x, y: (self.broken(x), y))
        model.fit(
            data,
            validation_data=self.validation(*small.data(64, seed=1)),
            epochs=self.settings["epochs"],
            verbose=0,
            callbacks=[done, fda],
        )
        return fda.syncs

    def train(self, model, settings):
        """Trains by fda_tf's own loop; returns the synchronisations."""
        import small

        import fda_tf

        history = fda_tf.train(
            model,
            small.shards(2, 2 * BATCH * STEPS)[self.task],
            steps=self.settings["epochs"] * STEPS,
            batch_size=BATCH,
            validation_data=small.data(64, seed=1),
            on_progress=lambda row: self.step(row["step"]),
            **small.in_parts(settings),
        )
        return history.syncs

    def step(self, step):
        """Called when a step is done, or some."""
        self.progress.write(f"{step}\n")
        self.progress.flush()
        time.sleep(self.settings["pause"])
        if step >= self.settings["at"] and self.fault in AT_A_STEP:
            self.write("fault", time.time())
            fault, self.fault = self.fault, None
            AT_A_STEP[fault]()

    def fail(self, words):
        """Fails, and says when."""
        self.write("fault", time.time())
        raise FaultError(words)

    def broken(self, x):
        """Returns x, until data fail."""
        import tensorflow as tf

        left = [self.settings["at"]]

        def batch(x):
            left[0] -= 1
            return x if left[0] else self.fail("the data's")

        return tf.ensure_shape(tf.numpy_function(batch, [x], x.dtype), x.shape)

    def validation(self, x, y):
        """Returns validation data, which fail in the second epoch."""
        import keras

        failing, drawn = self.fault == "validation", []

        class Data(keras.utils.PyDataset):
            def __len__(self):
                return 2

            def __getitem__(data, i):
                drawn.append(i)
                if failing and len(drawn) > 3:
                    self.fail("the validation data's")
                return x[i::2], y[i::2]

        return Data()


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    unknown = given.keys() - DEFAULTS.keys()
    if unknown:
        sys.exit(f"unknown settings: {unknown}")
    Job(pathlib.Path(sys.argv[1]), DEFAULTS | given).run()
