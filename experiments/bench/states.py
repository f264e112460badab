"""What a check computes on one worker, against the model's size d.

The library's own check runs on weights in 20 tensors, with a home of one
worker: it packs the weights, takes the drift, and makes the state of each
monitor; nothing is sent. Blocks alternate with blocks of the squared norm of a
flat vector (XLA-compiled, the same threads), so a ratio says how much dearer
than reading the drift once.

  python -m experiments.bench.states --sizes=1e5,1e6,1e7,1e8,2e8

"cascade, quiet" is the sketch's check while the norm is below theta, as for
most of a round; "cascade, crossed" the one after it, when six numbers of the
sketch are enough. Each size has a process of its own. Bytes are a parameter's:
kept_bytes of the monitor's variables and tables, and peak_bytes by which the
resident memory of a process grew, at most, while it made a monitor and checked
three times; from --memory_from parameters on, as tracing takes some MB, too.
"""

import json
import time
from types import SimpleNamespace

from absl import app, flags

from experiments.bench import measured, processes, resident
from fda_tf.workers import local_model

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "sizes",
    ["1e5", "1e6", "1e7", "1e8", "2e8"],
    "Numbers of parameters, at least 20.",
)
flags.DEFINE_integer("repeats", 9, "Pairs of blocks.", lower_bound=1)
flags.DEFINE_float("block_seconds", 0.1, "Length of a block, about.")
flags.DEFINE_integer(
    "threads", 1, "Threads of one operation; 0: TensorFlow's default."
)
flags.DEFINE_float("memory_from", 1e8, "Parameters to measure memory from.")
flags.DEFINE_string("memory_of", None, "Internal: measure one monitor's.")
flags.DEFINE_bool("child", False, "Internal: measure one size.")

TENSORS = 20
COLUMNS = (
    "monitor", "d", "ms", "ns_per_param", "ratio", "interval", "kept_bytes",
    "peak_bytes",
)  # fmt: skip
_NORM = "norm"


def alone(size: int):
    """Returns a home of one worker, whose weights are ones; w_0 is 0."""
    import tensorflow as tf

    from fda_tf.tensors import vectors
    from fda_tf.workers import variable_groups

    sizes = [size // TENSORS + (i < size % TENSORS) for i in range(TENSORS)]
    weights = [tf.Variable(tf.ones([n])) for n in sizes]
    group = variable_groups.Group(vectors.Layout([[n] for n in sizes]), weights)

    def mean(of, kind):
        del kind
        return of(local_model.Snapshot(group.lazy(), ()))

    return SimpleNamespace(
        here=1, worker=SimpleNamespace(weights=group), mean=mean
    )


def checks(home, size: int, w0, only: str | None = None) -> dict:
    """Returns name -> (check, theta): what is measured.

    Args:
      home: of `alone`.
      size: d, which is the squared norm of its drift.
      w0: the variables that hold the last synchronised model.
      only: one name; by default all.
    """
    import fda_tf
    from fda_tf.core import variance_check

    def check(monitor):
        policy = fda_tf.VarianceThreshold(1.0, monitor)
        return variance_check.Check(policy, home, w0)

    whole = fda_tf.monitors.SketchMonitor(cascade=False)
    above, below = 2.0 * size, 0.5 * size
    monitors = {
        "naive": ("naive", above),
        "linear": ("linear", above),
        "sketch, whole": (whole, above),
        "cascade, quiet": ("sketch", above),
        "cascade, crossed": ("sketch", below),
    }
    return {
        name: (check(monitor), theta)
        for name, (monitor, theta) in monitors.items()
        if only in (None, name)
    }


def measure(size: int) -> list[dict]:
    """Returns the rows of one size; for a fresh process."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    from fda_tf.tensors import vectors

    home = alone(size)
    buckets = home.worker.weights.layout.bucket_sizes
    w0 = vectors.variables([tf.zeros([n]) for n in buckets], "w0")
    flat = [tf.ones([n]) for n in buckets]
    norm = tf.function(lambda v: tf.reduce_sum(v * v), jit_compile=True)
    runs = {_NORM: lambda: tf.add_n([norm(bucket) for bucket in flat])}
    made = checks(home, size, w0)
    for name, (check, theta) in made.items():
        runs[name] = _run(check, theta)
    for run in runs.values():  # traces; the cascade learns its directions
        run(), run()
    blocks = {name: _block(run) for name, run in runs.items()}
    pairs = measured.in_turn(blocks, _NORM, FLAGS.repeats)
    kept = {name: _kept(check.monitor) for name, (check, _) in made.items()}
    return [
        _row(name, size, pairs[name]) | {"kept_bytes": kept[name] / size}
        for name in pairs
    ]


def memory(size: int, name: str) -> float:
    """Returns the bytes a parameter that a monitor adds; for a new process."""
    import tensorflow as tf

    from fda_tf.tensors import vectors

    home = alone(size)
    buckets = home.worker.weights.layout.bucket_sizes
    w0 = vectors.variables([tf.zeros([n]) for n in buckets], "w0")
    norm = tf.function(lambda: vectors.squared_norm(w0), jit_compile=True)
    norm()  # the compiler is there
    before = resident.begin()
    run = _run(*checks(home, size, w0, name)[name])
    for _ in range(3):
        run().numpy()
    return (resident.peak() - before) / size


def _run(check, theta):
    import tensorflow as tf

    from fda_tf.core import variance_check

    interval = tf.Variable(0, dtype=tf.int64)  # a check is due in each step

    @tf.function
    def run():
        now = interval.assign_add(1)
        return check.end(
            tf.constant(theta), now, variance_check.none()
        ).estimate

    return run


def _block(run):
    def seconds(calls):
        begin = time.perf_counter()
        for _ in range(calls):
            run().numpy()
        return (time.perf_counter() - begin) / calls

    calls = max(1, int(FLAGS.block_seconds / seconds(2)))
    return lambda: seconds(calls)


def _kept(monitor) -> int:
    """Returns the bytes of what a monitor keeps: variables and tables."""
    tables = getattr(monitor, "_sketches", [])
    return sum(s.table_bytes for s in tables) + sum(
        4 * v.shape.num_elements() for v in monitor.variables
    )


def _row(name, size, pairs) -> dict:
    ms, interval = measured.spread([1e3 * own for own, _ in pairs])
    return {
        "monitor": name,
        "d": size,
        "ms": ms,
        "ms_interval": interval,
        "ns_per_param": ms / size * 1e6,
        "norm_ms": measured.spread([1e3 * norm for _, norm in pairs])[0],
    } | measured.ratio(pairs)


def _memory(size: int, name: str) -> float:
    """Returns `memory`, of a process without a pool that keeps what is free."""
    flagged = ("states", f"--sizes={size}", f"--memory_of={name}")
    return processes.result(*flagged, env=processes.NO_POOL)["bytes"]


def main(_) -> None:
    """Measures each size in a process; prints a table, then JSON."""
    sizes = [int(float(size)) for size in FLAGS.sizes]
    if min(sizes) < TENSORS:
        raise app.UsageError(
            f"--sizes: received {min(sizes)}. Expected at least {TENSORS}: "
            f"the weights are {TENSORS} tensors."
        )
    if FLAGS.memory_of:
        print(json.dumps({"bytes": memory(sizes[0], FLAGS.memory_of)}))
        return
    if FLAGS.child:
        print(json.dumps({"rows": measure(sizes[0])}))
        return
    names = ("repeats", "block_seconds", "threads")
    given = ["", *(f"--{name}={FLAGS[name].value}" for name in names)]
    rows = []
    for size in sizes:
        given[0] = f"--sizes={size}"
        rows += processes.result("states", "--child", *given)["rows"]
        for row in rows:
            if row["d"] == size >= FLAGS.memory_from:
                row["peak_bytes"] = _memory(size, row["monitor"])
    measured.show(rows, COLUMNS, {n: FLAGS[n].value for n in names})


if __name__ == "__main__":
    app.run(main)
