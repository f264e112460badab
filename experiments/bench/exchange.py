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

import contextlib
import json
import sys
import time

from absl import app, flags

from experiments.bench import costs, measured, netlab, processes

FLAGS = flags.FLAGS

KINDS = (
    "check, linear",
    "check, sketch",
    "check, cascade",
    "synchronisation",
    "all-reduce",
)
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
    """Returns a compiled model that has nothing but its weights.

    Args:
      size: d, dealt as evenly as can be.
      tensors: how many weights that are.
    """
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
    """Returns kind -> a function that runs so many steps of it.

    Args:
      process_group: the processes.
      size: d.
      tensors: of the model.
      kinds: which of `KINDS`.
    """
    import numpy as np
    import tensorflow as tf

    import fda_tf
    from fda_tf.core import loop as training
    from fda_tf.data import sources
    from fda_tf.workers import distributed, local_model

    zeros = np.zeros((8, 1), np.float32)
    source = sources.ArraySource([(zeros, zeros)], 8, first=process_group.index)
    model = model_of(size, tensors)
    home = distributed.Cluster(
        local_model.Worker(model, source.spec()), source, process_group
    )
    never = 1e30
    whole = fda_tf.monitors.SketchMonitor(cascade=False)
    policies = {
        "check, linear": fda_tf.VarianceThreshold(never, "linear"),
        "check, sketch": fda_tf.VarianceThreshold(never, whole),
        "check, cascade": fda_tf.VarianceThreshold(never, "sketch"),
        "synchronisation": fda_tf.Every(steps=1),
    }

    def exchange(kind):
        loop = training.Loop(home, policies[kind], None)

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
        def run(steps):
            return loop.run_steps(steps, steps, lambda carry: carry)[1].cause

        return run

    kinds = [kind for kind in KINDS if kind in kinds]
    made = {k: exchange(k) for k in kinds if k in policies}
    if "all-reduce" in kinds:
        made["all-reduce"] = all_reduce(process_group, home.worker.weights)
    return made


def all_reduce(process_group, group=None):
    """Returns a function that runs so many bare all-reduces.

    Args:
      process_group: the processes.
      group: the variables whose packed size travels; one float if None.
    """
    import tensorflow as tf

    sizes = group.layout.bucket_sizes if group else [1]

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def run(steps):
        values = [tf.ones([n]) for n in sizes]
        for _ in tf.range(steps):
            values = process_group.mean(values)
        return values[-1][0]

    return run


def blocks_of(process_group, runs: dict) -> dict:
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
        steps = max(1, int(FLAGS.block_seconds / slowest))
        return lambda: timed(run, steps)

    return {name: block(run) for name, run in runs.items()}


def measure() -> None:
    """Measures as one of the workers; prints JSON."""
    import numpy as np
    import tensorflow as tf

    import fda_tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    process_group = fda_tf.connect()
    rows = []
    for size, tensors in map(parse, FLAGS.models):
        runs = loops(process_group, size, tensors, FLAGS.only or KINDS)
        runs[_FLOAT] = all_reduce(process_group)
        pairs = measured.in_turn(
            blocks_of(process_group, runs), _FLOAT, FLAGS.repeats
        )
        for name in pairs:
            slowest = process_group.gather(np.array(pairs[name])).max(0)
            rows.append(_row(name, size, tensors, slowest.tolist()))
    print(json.dumps({"rows": rows}), flush=True)


def _row(name, size, tensors, pairs):
    ms, interval = measured.spread([1e3 * own for own, _ in pairs])
    return {
        "kind": name,
        "workers": FLAGS.workers,
        "d": size,
        "tensors": tensors,
        "ms": ms,
        "ms_interval": interval,
        "float_ms": measured.spread([1e3 * base for _, base in pairs])[0],
        "all_ms": [1e3 * own for own, _ in pairs],
    } | measured.ratio(pairs)


def predicted(row: dict) -> float | None:
    """Returns the milliseconds that the closed forms give for a row."""
    if not costs.CONSTANTS.exists():
        return None
    job = costs.Job(
        parameters=row["d"],
        workers=row["workers"],
        step=0.0,
        rate=netlab.rate_of(FLAGS.rate) if FLAGS.rate else float("inf"),
    )
    return 1e3 * costs.exchange(job, costs.constants(), row["kind"])


def main(_) -> None:
    """Starts the workers; prints a table, then all rows as JSON."""
    measured.chosen("only", FLAGS.only, KINDS)
    try:
        list(map(parse, FLAGS.models))
        netlab.rate_of(FLAGS.rate or "1mbit")
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    if FLAGS.worker:
        measure()
        return
    command = [sys.executable, "-m", "experiments.bench.exchange", "--worker"]
    command += [f"--models={','.join(FLAGS.models)}"]
    command += [f"--only={kind}" for kind in FLAGS.only]
    for name in ("workers", "repeats", "block_seconds"):
        command.append(f"--{name}={FLAGS[name].value}")
    lab = netlab.Hosts(FLAGS.workers, FLAGS.rate) if FLAGS.rate else None
    with lab or contextlib.nullcontext() as hosts:
        result = processes.run(command, FLAGS.workers, hosts=hosts)[0]
    for row in result["rows"]:
        row["predicted_ms"] = predicted(row)
    names = ("workers", "rate", "repeats", "block_seconds")
    measured.show(result["rows"], COLUMNS, {n: FLAGS[n].value for n in names})


def define_flags() -> None:
    """Defines the flags: not on import, as others have the same names."""
    flags.DEFINE_integer("workers", 2, "Processes.", lower_bound=2)
    flags.DEFINE_list("models", ["61706x10"], "Each is PARAMETERSxTENSORS.")
    flags.DEFINE_string("rate", None, "Of each host's cable, such as 10mbit.")
    flags.DEFINE_integer("repeats", 9, "Pairs of blocks.", lower_bound=1)
    flags.DEFINE_float("block_seconds", 0.2, "Length of a block, about.")
    flags.DEFINE_multi_string("only", [], "A kind to measure; by default all.")
    flags.DEFINE_bool("worker", False, "This is one of the processes.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
