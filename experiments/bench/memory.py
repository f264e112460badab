"""What FDA adds to the memory of a Keras training process.

A stack of Dense layers with d parameters, Adam, batches of 8, two processes on
this machine; each case in processes of its own:

  fit, plain     stock `model.fit`, without fda_tf, in one process
  fit, MONITOR   `model.fit` with `fda_tf.FDA`
  loop, MONITOR  `fda_tf.Trainer` in a loop of one's own

  python -m experiments.bench.memory                     # d = 1e8

"bytes/parameter" is persistent: the resident memory while steps go on (garbage
collected, free heap given back), as a slope between --small and --parameters,
so that what no model's size changes is left out; less that of plain `fit`.
"of variables" is the same from the list of live `tf.Variable`s. What follows is
transient, in MB: the peak of the resident memory (VmHWM, set back by
/proc/self/clear_refs) over a part of the work, less what was resident before
it. Of `fit`, "sync" is all that an epoch's end does: the synchronisation,
the average in the model's place, and back. The greater of the two workers
counts. Linux only.
"""

import gc
import json
import math
import os
import sys

from absl import app, flags

from experiments.bench import measured, processes, resident

FLAGS = flags.FLAGS
flags.DEFINE_float("parameters", 1e8, "d.")
flags.DEFINE_float("small", 1e6, "The d of the slope's other end.")
flags.DEFINE_integer("layers", 10, "Dense layers, all of the same width.")
flags.DEFINE_enum("optimizer", "adam", ["adam", "sgd"], "The local one.")
flags.DEFINE_multi_string("only", [], "A case to measure; by default all.")
flags.DEFINE_integer("workers", 2, "Processes.")
flags.DEFINE_float("timeout", 900.0, "Seconds of a case, at most.")
flags.DEFINE_boolean("pool", False, "Leave TensorFlow its pool of memory.")
flags.DEFINE_string("case", None, "Internal: be a process of this case.")

CASES = ("fit, plain",) + tuple(
    f"{home}, {monitor}"
    for home in ("fit", "loop")
    for monitor in ("naive", "linear", "sketch")
)
COLUMNS = (
    "case",
    "bytes/parameter",
    "of variables",
    "start",
    "step",
    "check",
    "sync",
)
STEPS = 4  # of an epoch


class Watch:
    """Reads this process's memory, in bytes."""

    def __init__(self):
        self.peaks, self.persistent, self._before = {}, 0, 0

    def begin(self) -> None:
        """Begins a part of the work."""
        self._before = resident.begin()

    def end(self, part: str) -> None:
        """Keeps the part's peak."""
        self.peaks[part] = resident.peak() - self._before

    def settle(self) -> None:
        """Keeps what stays."""
        self.persistent = resident.settled()


def variable_bytes() -> int:
    """Returns the bytes of all live variables, each counted once."""
    import tensorflow as tf

    live = (o for o in gc.get_objects() if isinstance(o, tf.Variable))
    eager = {id(v.handle): v for v in live if tf.is_tensor(v.handle)}
    return sum(v.shape.num_elements() * v.dtype.size for v in eager.values())


def model_and_data() -> tuple:
    """Returns (model, x, y): a stack of layers of one width."""
    import keras
    import numpy as np

    width = math.isqrt(int(FLAGS.parameters / FLAGS.layers))
    layers = [keras.layers.Dense(width, "relu") for _ in range(FLAGS.layers)]
    model = keras.Sequential([keras.Input((width,)), *layers])
    model.compile(FLAGS.optimizer, "mse", jit_compile=False)
    x = np.random.default_rng(0).random((8 * STEPS, width), np.float32)
    return model, x, x


def fit(monitor: str) -> dict:
    """Measures `model.fit`, plain or with the callback; three epochs."""
    import keras

    watch = Watch()

    class Watching(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            epoch = self.params["epoch"] = self.params.get("epoch", 0)
            if (epoch, batch) == (0, 0):
                watch.end("start")
            if (epoch, batch) == (1, 1):
                watch.begin()
            if (epoch, batch) == (1, STEPS - 2):
                watch.end("step")
                watch.begin()  # the last step, and what follows the epoch
            if (epoch, batch) == (2, 0):
                watch.end("sync")
            if (epoch, batch) == (2, 2):
                watch.settle()
                watch.variables = variable_bytes()

        def on_epoch_begin(self, epoch, logs=None):
            self.params["epoch"] = epoch

    callbacks = []
    if monitor != "plain":
        import fda_tf

        fda_tf.connect()
        callbacks = [fda_tf.FDA(theta=1e30, monitor=monitor)]
    model, x, y = model_and_data()
    size = model.count_params()
    watch.begin()
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=3,
        verbose=0,
        callbacks=[*callbacks, Watching()],
    )
    return _found(watch, size, watch.variables)


def loop(monitor: str) -> dict:
    """Measures a loop of one's own, part by part."""
    import fda_tf

    fda_tf.connect()
    model, x, y = model_and_data()
    batch, watch = (x[:8], y[:8]), Watch()
    # Whole: with so large a theta the cascade sends the norm alone.
    whole = fda_tf.monitors.SketchMonitor(cascade=False)
    sync = fda_tf.VarianceThreshold(
        1e30, whole if monitor == "sketch" else monitor
    )
    watch.begin()
    trainer = fda_tf.Trainer(model, batch, sync)
    trainer.step(batch)
    watch.end("start")
    trainer.after_step()
    trainer.loop.synchronise()  # all is traced
    parts = {
        "step": lambda: trainer.worker.step(batch),
        "check": trainer.after_step,
        "sync": lambda: trainer.loop.synchronise().numpy(),
    }
    for part, work in parts.items():
        trainer.step(batch)  # the models part, and share no memory with w_0
        trainer.step(batch)
        watch.begin()
        work()
        watch.end(part)
    trainer.step(batch)
    trainer.step(batch)
    watch.settle()
    found = _found(watch, model.count_params(), variable_bytes())
    trainer.finish()
    return found


def _found(watch, size, variables) -> dict:
    return {
        "d": size,
        "persistent": watch.persistent,
        "variables": variables,
        **watch.peaks,
    }


def measure(case: str, parameters: float) -> dict:
    """Returns what the processes of a case found: of each, the greatest."""
    command = [sys.executable, "-m", "experiments.bench.memory"]
    command += [f"--case={case}", f"--parameters={parameters}"]
    command += [f"--{n}={FLAGS[n].value}" for n in ("layers", "optimizer")]
    workers = 1 if case == "fit, plain" else FLAGS.workers
    env = {} if FLAGS.pool else processes.NO_POOL
    found = processes.run(command, workers, FLAGS.timeout, env)
    return {name: max(f[name] for f in found) for name in found[0]}


def slope(small: dict, large: dict, what: str) -> float:
    """Returns bytes a parameter.

    Example:
      >>> slope({"d": 10, "rss": 100}, {"d": 20, "rss": 140}, "rss")
      4.0
    """
    return (large[what] - small[what]) / (large["d"] - small["d"])


def main(_) -> None:
    """Measures all cases, plain first, then prints them."""
    if FLAGS.case:
        home, monitor = FLAGS.case.split(", ")
        found = fit(monitor) if home == "fit" else loop(monitor)
        print(json.dumps(found), flush=True)
        os._exit(0)  # of a gigabyte or two, nothing is to be put in order
    wanted = measured.chosen("only", FLAGS.only, CASES)
    rows, plain = [], None
    for case in dict.fromkeys([CASES[0], *wanted]):
        small, large = (
            measure(case, d) for d in (FLAGS.small, FLAGS.parameters)
        )
        plain = plain or (small, large)
        row = {"case": case, "d": large["d"], "measured": [small, large]}
        for name, what in zip(
            COLUMNS[1:3], ("persistent", "variables"), strict=True
        ):
            less = slope(*plain, what) if rows else 0.0
            row[name] = slope(small, large, what) - less
        row |= {n: large[n] / 1e6 for n in COLUMNS[3:] if n in large}
        rows.append(row)
        print({n: row.get(n) for n in COLUMNS}, file=sys.stderr, flush=True)
    about = {n: FLAGS[n].value for n in ("layers", "optimizer", "workers")}
    measured.show(rows, COLUMNS, about)


if __name__ == "__main__":
    app.run(main)
