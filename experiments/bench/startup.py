"""How long it takes from `python` to the first step, and where the time goes.

LeNet-5 by `model.fit`, batches of 32: stock Keras in one process, and with
`fda_tf.FDA` in one, two and four. Each repeat starts all kinds, in an order of
its own; figures are medians of the seconds of the slowest process, with the
interval of `measured.spread` for the whole.

  python -m experiments.bench.startup

  python      until the script's first line, from when its parent began
  tensorflow  `import tensorflow`; it imports keras, too
  fda_tf      `import fda_tf` on top of it
  connect     `fda_tf.connect()`: all processes are there, and have met
  model       the model is built and compiled, the data are there
  first step  `fit` until its first batch's end: the workers compare models
              and settings, take the first one's weights, trace and run
  CPU         CPU seconds of this last part, of one process: stock, alone, and
              as one of 2 and of 4; seconds count the other processes' too

Then what `import fda_tf` adds to `import tensorflow`: as seconds within
processes that import both, and as the difference between processes that do and
neighbours that import TensorFlow alone.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 5, "Starts of each kind.")
flags.DEFINE_integer("imports", 10, "Pairs of processes that only import.")
flags.DEFINE_bool("child", False, "Internal: start, and say when what was.")
flags.DEFINE_bool("plain", False, "Internal: without fda_tf.")

BEGUN = "STARTUP_BEGUN"  # environment variable: when the parent started it
PARTS = ("python", "tensorflow", "fda_tf", "connect", "model", "first step")
KINDS = {"Keras, 1": 1, "fda_tf, 1": 1, "fda_tf, 2": 2, "fda_tf, 4": 4}


def start() -> dict:
    """Starts, does a step, and returns the seconds of each part."""
    laps = {"python": time.time() - float(os.environ[BEGUN])}
    last = time.perf_counter()

    def lap(part):
        nonlocal last
        now = time.perf_counter()
        laps[part], last = now - last, now

    import tensorflow  # noqa: F401

    lap("tensorflow")
    callbacks = []
    if not FLAGS.plain:
        import fda_tf

        lap("fda_tf")
        fda_tf.connect()
        lap("connect")
        callbacks = [fda_tf.FDA(theta=1.5, monitor="linear")]
    import keras
    import numpy as np

    from experiments.tasks import TASKS

    class FirstStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                lap("first step")
                laps["CPU"] = time.process_time() - begun

    model = TASKS["lenet5_mnist"].build(seed=0)
    x = np.zeros((64, 28, 28, 1), np.float32)
    lap("model")
    begun = time.process_time()
    model.fit(
        x,
        np.zeros(64, np.int64),
        batch_size=32,
        verbose=0,
        callbacks=[*callbacks, FirstStep()],
    )
    return laps


def total(kind: str) -> dict:
    """Starts one kind; returns the slowest process's seconds, and their sum."""
    from experiments.bench import processes

    command = [sys.executable, "-m", "experiments.bench.startup", "--child"]
    command += ["--plain"] if kind.startswith("Keras") else []
    begun = {BEGUN: repr(time.time())}
    found = processes.run(command, KINDS[kind], timeout=120.0, env=begun)

    def seconds(laps):
        return sum(laps[part] for part in PARTS if part in laps)

    slowest = max(found, key=seconds)
    return slowest | {"total": seconds(slowest)}


def import_seconds(what: str) -> tuple[float, float]:
    """Imports in a new process; returns its seconds, and the last import's."""
    *before, last = what.split()
    program = "; ".join(
        [f"import {name}" for name in ["time", *before]]
        + [f"t = time.perf_counter(); import {last}"]
        + ["print(time.perf_counter() - t)"]
    )
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return time.perf_counter() - begun, float(done.stdout)


def imports(pairs: int) -> dict:
    """Returns what importing fda_tf adds, in seconds."""
    from experiments.bench import measured

    within, apart, alone = [], [], []
    for i in range(pairs):
        kinds = ["tensorflow", "tensorflow fda_tf"]
        found = {k: import_seconds(k) for k in kinds[:: 1 - 2 * (i % 2)]}
        (plain, _), (both, last) = (found[k] for k in kinds)
        within.append(last)
        apart.append(both - plain)
        alone.append(plain)
    return {
        "import tensorflow, process": measured.spread(alone),
        "import fda_tf, within": measured.spread(within),
        "import fda_tf, difference": measured.spread(apart),
    }


def main(_) -> None:
    """Starts all kinds again and again, then prints the medians."""
    if FLAGS.child:
        print(json.dumps(start()), flush=True)
        return
    from experiments.bench import measured

    if FLAGS.repeats < 1 or FLAGS.imports < 1:
        raise app.UsageError("--repeats and --imports: expected 1 or more.")
    total("Keras, 1")  # what is read from the disk is then at hand
    starts, order = {kind: [] for kind in KINDS}, random.Random(0)
    for _ in range(FLAGS.repeats):
        for kind in order.sample(list(KINDS), len(KINDS)):
            starts[kind].append(total(kind))
            print(kind, starts[kind][-1], file=sys.stderr, flush=True)
    rows = []
    for kind, found in starts.items():
        row = {"kind": kind, "starts": found}
        for part in (*PARTS, "CPU"):
            if part in found[0]:
                row[part] = statistics.median(laps[part] for laps in found)
        totals = [laps["total"] for laps in found]
        row["total"], row["interval"] = measured.spread(totals)
        rows.append(row)
    added = imports(FLAGS.imports)
    for what, (median, interval) in added.items():
        low, high = interval
        print(f"{what}: {median:.3f} s ({low:.3f} to {high:.3f})")
    measured.show(
        rows, ("kind", *PARTS, "total", "interval", "CPU"), {"imports": added}
    )


if __name__ == "__main__":
    app.run(main)
