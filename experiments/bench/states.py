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

It measures what fda_tf does not export: its check, vectors and snapshots.
"""

import time
from types import SimpleNamespace

from experiments import processes
from experiments.bench import measured, resident

TENSORS = 20
COLUMNS = (
    "monitor", "d", "ms", "ns_per_param", "ratio", "interval", "kept_bytes",
    "peak_bytes",
)  # fmt: skip
_NORM = "norm"


def home_of(size: int) -> tuple:
    """Returns a home of one worker, whose weights are ones; w_0, which is 0."""
    import tensorflow as tf

    from fda_tf.tensors import vectors
    from fda_tf.workers import local_model, variable_groups

    sizes = [size // TENSORS + (i < size % TENSORS) for i in range(TENSORS)]
    weights = [tf.Variable(tf.ones([n])) for n in sizes]
    group = variable_groups.Group(vectors.Layout([[n] for n in sizes]), weights)

    def mean(of, kind):
        del kind
        return of(local_model.Snapshot(group.lazy(), ()))

    worker = SimpleNamespace(weights=group)
    zeros = [tf.zeros([n]) for n in group.layout.bucket_sizes]
    w0 = vectors.variables(zeros, "w0")
    return SimpleNamespace(here=1, worker=worker, mean=mean), w0


def checks(home, size: int, w0, only: str | None = None) -> dict:
    """Returns name -> (monitor, runs a check): what is measured."""
    import tensorflow as tf

    import fda_tf
    from fda_tf.core import variance_check

    def check(monitor, theta):
        policy = fda_tf.VarianceThreshold(1.0, monitor)
        made = variance_check.VarianceCheck(policy, home, w0)
        step = tf.Variable(0, dtype=tf.int64)  # a check is due in each step

        @tf.function
        def run():
            now, none = step.assign_add(1), variance_check.none()
            return made.end(tf.constant(theta), now, none).estimate

        return made.monitor, run

    whole = fda_tf.monitors.SketchMonitor(cascade=False)
    above, below = 2.0 * size, 0.5 * size
    monitors = {
        "naive": ("naive", above),
        "linear": ("linear", above),
        "sketch, whole": (whole, above),
        "cascade, quiet": ("sketch", above),
        "cascade, crossed": ("sketch", below),
    }
    return {n: check(*m) for n, m in monitors.items() if only in (None, n)}


def measure(
    size: int, threads: int, repeats: int, block_seconds: float
) -> list[dict]:
    """Returns the rows of one size; for a fresh process."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    home, w0 = home_of(size)
    flat = [tf.ones([n]) for n in home.worker.weights.layout.bucket_sizes]
    norm = tf.function(lambda v: tf.reduce_sum(v * v), jit_compile=True)
    made = checks(home, size, w0)
    runs = {_NORM: lambda: tf.add_n([norm(bucket) for bucket in flat])}
    runs |= {name: run for name, (_, run) in made.items()}
    for run in runs.values():  # traces; the cascade learns its directions
        run(), run()

    def block(run):
        def seconds(calls):
            begin = time.perf_counter()
            for _ in range(calls):
                run().numpy()
            return (time.perf_counter() - begin) / calls

        calls = max(1, int(block_seconds / seconds(2)))
        return lambda: seconds(calls)

    blocks = {name: block(run) for name, run in runs.items()}
    pairs = measured.in_turn(blocks, _NORM, repeats)
    return [
        _row(name, size, pairs[name])
        | {"kept_bytes": _kept(made[name][0]) / size}
        for name in pairs
    ]


def memory(size: int, name: str) -> float:
    """Returns the bytes a parameter that a monitor adds; for a new process."""
    import tensorflow as tf

    from fda_tf.tensors import vectors

    home, w0 = home_of(size)
    norm = tf.function(lambda: vectors.squared_norm(w0), jit_compile=True)
    norm()  # the compiler is there
    before = resident.begin()
    _, run = checks(home, size, w0, name)[name]
    for _ in range(3):
        run().numpy()
    return (resident.peak() - before) / size


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


def main(options) -> None:
    """Measures each size in a process; prints a table, then JSON."""
    sizes = [int(float(size)) for size in options.sizes]
    if min(sizes) < TENSORS:
        raise ValueError(
            f"--sizes: received {min(sizes)}. Expected at least {TENSORS}: "
            f"the weights are {TENSORS} tensors."
        )
    given = options.threads, options.repeats, options.block_seconds
    rows = []
    for size in sizes:
        found = processes.call(measure, size, *given)[0]
        for row in found if size >= options.memory_from else ():
            own = size, row["monitor"]
            env = processes.NO_POOL
            row["peak_bytes"] = processes.call(memory, *own, env=env)[0]
        rows += found
    measured.show(rows, COLUMNS, options)


if __name__ == "__main__":
    measured.command(
        main,
        sizes=(["1e5", "1e6", "1e7", "1e8", "2e8"], "Parameters, from 20 on."),
        repeats=(9, "Pairs of blocks."),
        block_seconds=(0.1, "Length of a block, about."),
        threads=(1, "Threads of one operation; 0: TensorFlow's default."),
        memory_from=(1e8, "Parameters to measure memory from."),
    )
