"""How long it takes from `python` to the first step, and where the time goes.

LeNet-5 by `model.fit`, batches of 32: stock Keras in one process, and with
`fda_tf.FDA` in one, two and four. Each repeat starts all kinds, in an order of
its own; figures are medians of the seconds of the slowest process, with the
interval of `measured.spread` for the whole.

  python -m experiments.bench.startup

  python      until the script's first line, from when its parent began
  tensorflow  `import tensorflow`; it imports keras, too
  fda_tf      `import fda_tf`, and what its names load at their first use
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

import os
import random
import statistics
import sys
import time

from experiments import processes
from experiments.bench import measured

BEGUN = "STARTUP_BEGUN"  # environment variable: when the parent started it
PARTS = ("python", "tensorflow", "fda_tf", "connect", "model", "first step")
KINDS = {"Keras, 1": 1, "fda_tf, 1": 1, "fda_tf, 2": 2, "fda_tf, 4": 4}
IMPORTS = """
import {} as _, json, time
t = time.perf_counter()
{}
print(json.dumps(time.perf_counter() - t))
"""
# All that a training imports; `import fda_tf` by itself loads next to nothing.
FDA_TF = "import fda_tf; [getattr(fda_tf, name) for name in fda_tf.__all__]"


def start(plain: bool) -> dict:
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
    if not plain:
        exec(FDA_TF, {})
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
    x, y = np.zeros((64, 28, 28, 1), np.float32), np.zeros(64, np.int64)
    lap("model")
    begun = time.process_time()
    model.fit(
        x, y, batch_size=32, verbose=0, callbacks=[*callbacks, FirstStep()]
    )
    return laps


def total(kind: str) -> dict:
    """Starts one kind; returns the slowest process's seconds, and their sum."""
    plain = kind.startswith("Keras")
    found = processes.call(
        start, plain, workers=KINDS[kind], timeout=120.0,
        env={BEGUN: repr(time.time())},
    )  # fmt: skip

    def seconds(laps):
        return sum(laps[part] for part in PARTS if part in laps)

    slowest = max(found, key=seconds)
    return slowest | {"total": seconds(slowest)}


def import_seconds(first: str, then: str) -> tuple[float, float]:
    """Imports in a new process; returns its seconds, and the last import's."""
    begun = time.perf_counter()
    program = IMPORTS.format(first, then)
    (last,) = processes.run([sys.executable, "-c", program], timeout=120)
    return time.perf_counter() - begun, last


def imports(pairs: int) -> dict:
    """Returns what importing fda_tf adds, in seconds."""
    within, apart, alone = [], [], []
    kinds = {"plain": "pass", "both": FDA_TF}
    for i in range(pairs):
        order = list(kinds)[:: 1 - 2 * (i % 2)]
        found = {k: import_seconds("tensorflow", kinds[k]) for k in order}
        (plain, _), (both, last) = found["plain"], found["both"]
        within.append(last)
        apart.append(both - plain)
        alone.append(plain)
    return {
        "import tensorflow, process": measured.spread(alone),
        "import fda_tf, within": measured.spread(within),
        "import fda_tf, difference": measured.spread(apart),
    }


def main(options) -> None:
    """Starts all kinds again and again, then prints the medians."""
    if options.repeats < 1 or options.imports < 1:
        raise ValueError("--repeats and --imports: expected 1 or more.")
    total("Keras, 1")  # what is read from the disk is then at hand
    starts, order = {kind: [] for kind in KINDS}, random.Random(0)
    for _ in range(options.repeats):
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
    added = imports(options.imports)
    for what, (median, (low, high)) in added.items():
        print(f"{what}: {median:.3f} s ({low:.3f} to {high:.3f})")
    columns = ("kind", *PARTS, "total", "interval", "CPU")
    measured.show(rows, columns, imports=added)


if __name__ == "__main__":
    measured.command(
        main,
        repeats=(5, "Starts of each kind."),
        imports=(10, "Pairs of processes that only import."),
    )
