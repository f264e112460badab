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

Parts of a loop are measured one by one, of the Trainer's own worker and loop.
"""

import gc
import math
import os
import sys

from experiments import processes
from experiments.bench import measured, resident

CASES = ("fit, plain",) + tuple(
    f"{home}, {monitor}"
    for home in ("fit", "loop")
    for monitor in ("naive", "linear", "sketch")
)
COLUMNS = (
    "case", "bytes/parameter", "of variables", "start", "step", "check", "sync",
)  # fmt: skip
STEPS = 4  # of an epoch


class Watch:
    """Reads this process's memory, in bytes."""

    def __init__(self):
        self.found, self._before = {}, 0

    def begin(self) -> None:
        """Begins a part of the work."""
        self._before = resident.begin()

    def end(self, part: str) -> None:
        """Keeps the part's peak."""
        self.found[part] = resident.peak() - self._before

    def settle(self) -> None:
        """Keeps what stays: resident, and in live variables, counted once."""
        import tensorflow as tf

        self.found["persistent"] = resident.settled()
        live = (o for o in gc.get_objects() if isinstance(o, tf.Variable))
        eager = {id(v.handle): v for v in live if tf.is_tensor(v.handle)}
        self.found["variables"] = sum(
            v.shape.num_elements() * v.dtype.size for v in eager.values()
        )


def model_and_data(parameters: float, layers: int, optimizer: str) -> tuple:
    """Returns (model, x): a stack of layers of one width."""
    import keras
    import numpy as np

    width = math.isqrt(int(parameters / layers))
    stack = [keras.layers.Dense(width, "relu") for _ in range(layers)]
    model = keras.Sequential([keras.Input((width,)), *stack])
    model.compile(optimizer, "mse", jit_compile=False)
    return model, np.random.default_rng(0).random(
        (8 * STEPS, width), np.float32
    )


def fit(monitor: str, *what) -> dict:
    """Measures `model.fit`, plain or with the callback; three epochs."""
    import keras

    watch = Watch()
    # (epoch, batch) -> what is done at the end of that batch.
    parts = {
        (0, 0): [lambda: watch.end("start")],
        (1, 1): [watch.begin],
        # Then the last step, and what follows the epoch.
        (1, STEPS - 2): [lambda: watch.end("step"), watch.begin],
        (2, 0): [lambda: watch.end("sync")],
        (2, 2): [watch.settle],
    }

    class Watching(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            for do in parts.get((self.epoch, batch), ()):
                do()

    callbacks = []
    if monitor != "plain":
        import fda_tf

        fda_tf.connect()
        callbacks = [fda_tf.FDA(theta=1e30, monitor=monitor)]
    model, x = model_and_data(*what)
    watch.begin()
    model.fit(
        x, x, batch_size=8, epochs=3, verbose=0,
        callbacks=[*callbacks, Watching()],
    )  # fmt: skip
    return watch.found | {"d": model.count_params()}


def loop(monitor: str, *what) -> dict:
    """Measures a loop of one's own, part by part."""
    import fda_tf

    fda_tf.connect()
    model, x = model_and_data(*what)
    batch, watch = (x[:8], x[:8]), Watch()
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
    trainer.finish()
    return watch.found | {"d": model.count_params()}


def measure(case: str, *what) -> None:
    """Is a process of a case: prints what it found, and is gone."""
    import json

    home, monitor = case.split(", ")
    print(json.dumps({"fit": fit, "loop": loop}[home](monitor, *what)))
    sys.stdout.flush()
    os._exit(0)  # of a gigabyte or two, nothing is to be put in order


def greatest(case: str, parameters: float, options) -> dict:
    """Returns what the processes of a case found: of each, the greatest."""
    found = processes.call(
        measure, case, parameters, options.layers, options.optimizer,
        workers=1 if case == CASES[0] else options.workers,
        timeout=options.timeout,
        env={} if options.pool else processes.NO_POOL,
    )  # fmt: skip
    return {name: max(f[name] for f in found) for name in found[0]}


def slope(small: dict, large: dict, what: str) -> float:
    """Returns bytes a parameter.

    Example:
      >>> slope({"d": 10, "rss": 100}, {"d": 20, "rss": 140}, "rss")
      4.0
    """
    return (large[what] - small[what]) / (large["d"] - small["d"])


def main(options) -> None:
    """Measures all cases, plain first, then prints them."""
    if options.parameters <= options.small:
        raise ValueError(
            f"--parameters={options.parameters:g} --small={options.small:g}: "
            "expected --parameters above --small, as a slope is measured."
        )
    wanted = measured.chosen("only", options.only, CASES)
    rows, plain = [], None
    for case in dict.fromkeys([CASES[0], *wanted]):
        small, large = (
            greatest(case, d, options)
            for d in (options.small, options.parameters)
        )
        row = {"case": case, "d": large["d"], "measured": [small, large]}
        for name, what in zip(
            COLUMNS[1:3], ("persistent", "variables"), strict=True
        ):
            less = slope(*plain, what) if plain else 0.0
            row[name] = slope(small, large, what) - less
        plain = plain or (small, large)
        row |= {n: large[n] / 1e6 for n in COLUMNS[3:] if n in large}
        rows.append(row)
        print({n: row.get(n) for n in COLUMNS}, file=sys.stderr, flush=True)
    measured.show(rows, COLUMNS, options)


if __name__ == "__main__":
    measured.command(
        main,
        parameters=(1e8, "d."),
        small=(1e6, "The d of the slope's other end."),
        layers=(10, "Dense layers, all of the same width."),
        optimizer=("adam", "The local one.", ["adam", "sgd"]),
        only=((), "A case to measure; by default all."),
        workers=(2, "Processes."),
        timeout=(900.0, "Seconds of a case, at most."),
        pool=(False, "Leave TensorFlow its pool of memory."),
    )
