"""What an exchange costs by itself: a check, a synchronisation, no training.

Some processes on this machine (or hosts of a lab) run fda_tf's own compiled
loop with a local step that does nothing, on models of given sizes and numbers
of tensors: with a check in every step, or a synchronisation. Blocks of each
alternate with blocks of TensorFlow's bare all-reduce of one float, which is
the least that any exchange costs.

  python -m experiments.bench.exchange --workers=2 --models=1e6x10,1e6x600
  python -m experiments.bench.exchange --rate=100mbit   # root: hosts of a lab

The last column is what costs.py says, from constants.json, for such a cable.
"check, linear" sends 2 floats, "check, sketch" 1,251, and "check, cascade" the
norm alone, as in the quiet part of a round. "all-reduce" is the bare one of
the whole model, flat: what a synchronisation would cost if packing, averaging
and unpacking were free. A block's time is that of its slowest worker.
"""

import time

from experiments import algorithms, config, processes, training
from experiments.bench import costs, measured, netlab

KINDS = {  # name -> an algorithm, whose checks exceed no theta
    "check, linear": "linear:theta=1e30",
    "check, sketch": "sketch:theta=1e30:cascade=False",
    "check, cascade": "sketch:theta=1e30",
    "synchronisation": "synchronous",
    "all-reduce": None,
}
COLUMNS = (
    "kind", "workers", "d", "tensors", "ms", "ms_interval", "ratio", "interval",
    "predicted_ms",
)  # fmt: skip
_FLOAT = "one float"


def parse(text: str) -> tuple[int, int]:
    """Returns (parameters, tensors) of a text.

    Raises:
      ValueError: unless both are whole, and each tensor has a number.

    Example:
      >>> parse("1e6x600")
      (1000000, 600)
    """
    try:
        size, tensors = (float(word) for word in text.split("x"))
        good = size == int(size) and tensors == int(tensors)
    except (ValueError, OverflowError):
        good = False
    if not good or not 1 <= tensors <= size:
        raise ValueError(
            f"--models: received {text!r}. Expected PARAMETERSxTENSORS with "
            "at least one parameter in each tensor, such as 1e6x600."
        )
    return int(size), int(tensors)


def model_of(size: int, tensors: int):
    """Returns a compiled model that has nothing but its weights."""
    import keras

    class Weights(keras.layers.Layer):
        def build(self, _):
            for i in range(tensors):
                n = size // tensors + (i < size % tensors)
                self.add_weight(shape=(n, 1), initializer="zeros")

        def call(self, x):
            return x * sum(w[0, 0] for w in self.weights)

    model = keras.Sequential([keras.Input((1,)), Weights()])
    model.compile("sgd", "mse", jit_compile=False)
    return model


def loops(process_group, size: int, tensors: int, kinds) -> dict:
    """Returns kind -> a function that runs so many steps of it."""
    import numpy as np
    import tensorflow as tf

    from experiments.bench import homes

    zeros = np.zeros((8, 1), np.float32)
    model = model_of(size, tensors)
    home = homes.cluster(process_group, model, (zeros, zeros), 8)

    def exchange(text):
        loop = homes.Loop(home, algorithms.of(config.settings(text)))

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
        def run(steps):
            return loop.run_steps(steps, steps, lambda carry: carry)[1].cause

        return run

    sizes = home.worker.weights.layout.bucket_sizes
    return {
        kind: exchange(text) if text else all_reduce(process_group, sizes)
        for kind, text in KINDS.items()
        if kind in kinds
    }


def all_reduce(process_group, sizes):
    """Returns a function that runs so many bare all-reduces of such sizes."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def run(steps):
        values = [tf.ones([n]) for n in sizes]
        for _ in tf.range(steps):
            values = process_group.mean(values)
        return values[-1][0]

    return run


def blocks_of(process_group, runs: dict, block_seconds: float) -> dict:
    """Returns name -> runs a block of it, and returns seconds a step."""
    import numpy as np
    import tensorflow as tf

    def timed(run, steps):
        process_group.sum(1)  # all begin at once
        begin = time.perf_counter()
        run(tf.constant(steps)).numpy()
        return (time.perf_counter() - begin) / steps

    def block(run):
        timed(run, 2)
        slowest = process_group.gather(np.float64(timed(run, 3))).max()
        steps = max(1, int(block_seconds / slowest))
        return lambda: timed(run, steps)

    return {name: block(run) for name, run in runs.items()}


def measure(models, kinds, repeats: int, block_seconds: float) -> list[dict]:
    """Measures as one of the workers; returns the rows."""
    import numpy as np

    import fda_tf

    training.one_thread()
    process_group = fda_tf.connect()
    rows = []
    for size, tensors in map(parse, models):
        runs = loops(process_group, size, tensors, kinds)
        runs[_FLOAT] = all_reduce(process_group, [1])
        blocks = blocks_of(process_group, runs, block_seconds)
        pairs = measured.in_turn(blocks, _FLOAT, repeats)
        for name, found in pairs.items():
            slowest = process_group.gather(np.array(found)).max(0)
            about = {"kind": name, "workers": process_group.count}
            about |= {"d": size, "tensors": tensors}
            rows.append(about | _row(slowest.tolist()))
    return rows


def _row(pairs):
    ms, interval = measured.spread([1e3 * own for own, _ in pairs])
    return {
        "ms": ms,
        "ms_interval": interval,
        "float_ms": measured.spread([1e3 * base for _, base in pairs])[0],
        "all_ms": [1e3 * own for own, _ in pairs],
    } | measured.ratio(pairs)


def predicted(row: dict, rate: str | None) -> float | None:
    """Returns the milliseconds that the closed forms give for a row."""
    if not costs.CONSTANTS.exists():
        return None
    job = costs.Job(
        parameters=row["d"],
        workers=row["workers"],
        step=0.0,
        rate=netlab.rate_of(rate) if rate else float("inf"),
    )
    return 1e3 * costs.exchange(job, costs.constants(), row["kind"])


def main(options) -> None:
    """Starts the workers; prints a table, then all rows as JSON."""
    kinds = measured.chosen("only", options.only, KINDS)
    list(map(parse, options.models))
    with netlab.hosts_or_not(options.workers, options.rate) as hosts:
        rows = processes.call(
            measure, options.models, kinds, options.repeats,
            options.block_seconds, workers=options.workers, hosts=hosts,
        )[0]  # fmt: skip
    for row in rows:
        row["predicted_ms"] = predicted(row, options.rate)
    measured.show(rows, COLUMNS, options)


if __name__ == "__main__":
    measured.command(
        main,
        workers=(2, "Processes, 2 or more."),
        models=(["61706x10"], "Each is PARAMETERSxTENSORS."),
        rate=(str, "Of each host's cable, such as 10mbit."),
        repeats=(9, "Pairs of blocks."),
        block_seconds=(0.2, "Length of a block, about."),
        only=((), "A kind to measure; by default all."),
    )
