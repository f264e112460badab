"""How many worker-steps a second the simulation does, and what they cost.

Each number of workers K is measured in a process of its own: LeNet-5, Adam,
batch 32, LinearFDA with a check in every step, on random images. Blocks of the
simulation alternate with blocks of a single resident model that does nothing
but its own train_step in a compiled loop (no loading, no storing, no checks);
ratio_to_single_step is the median of the paired ratios of their rates. Two
lanes on two cores can give a ratio of up to 2.

  python -m experiments.bench.simulation --workers=5,10,60

compile_seconds is the first call of the compiled loop, for one step: tracing,
compiling and that step. bytes_per_worker is the growth of the resident memory
over building the K workers and training them, over K; state_bytes_per_worker
is what weights, slots and counters of a worker take.
"""

import json
import statistics
import sys
import time

from absl import app, flags

from experiments.bench import measured, processes, resident

FLAGS = flags.FLAGS
flags.DEFINE_list("workers", ["5", "10", "60"], "Numbers of workers K.")
flags.DEFINE_integer("repeats", 7, "Pairs of blocks.", lower_bound=1)
flags.DEFINE_float("block_seconds", 3.0, "Length of a block of the simulation.")
flags.DEFINE_boolean("xla", False, "Compile the local step with XLA.")
flags.DEFINE_integer(
    "threads", 1, "Threads inside an operation (0: TensorFlow's default)."
)
flags.DEFINE_string("task", "lenet5_mnist", "A task of images.")
flags.DEFINE_boolean("child", False, "Internal: measure, print one row.")

COLUMNS = (
    "workers",
    "worker_steps_per_second",
    "ratio_to_single_step",
    "ratio_quartiles",
    "compile_seconds",
    "peak_rss_bytes",
    "bytes_per_worker",
    "state_bytes_per_worker",
)


def measure(workers: int) -> dict:
    """Returns the row of one number of workers; for a fresh process."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    import fda_tf
    from fda_tf.core import loop
    from fda_tf.workers import simulated

    build, source = _model_and_data(workers)
    one = simulated.Simulation(build, source, 1).worker

    @tf.function
    def single(steps):
        for t in tf.range(steps):
            one.step(source.batch(0, t))

    single(2)
    before = resident.now()
    home = simulated.Simulation(build, source, workers)
    sync = fda_tf.VarianceThreshold(1.5, "linear")
    trainer = loop.Loop(home, sync, None)
    start = time.perf_counter()
    trainer.run(1)
    compile_seconds = time.perf_counter() - start
    steps = max(1, int(FLAGS.block_seconds / _timed(trainer.run, 2)))
    single_steps = max(20, steps * workers // 4)
    blocks = {
        "all": lambda: workers / _timed(trainer.run, steps),
        "one": lambda: 1 / _timed(single, single_steps),
    }
    pairs = measured.in_turn(blocks, "one", FLAGS.repeats)["all"]
    rates = [rate for rate, _ in pairs]
    ratios = [rate / alone for rate, alone in pairs]
    return {
        "workers": workers,
        **_spread(rates, ratios),
        "compile_seconds": round(compile_seconds, 2),
        "peak_rss_bytes": resident.peak(),
        "bytes_per_worker": round((resident.now() - before) / workers),
        "state_bytes_per_worker": round(home.state_bytes() / workers),
    }


def _model_and_data(workers: int) -> tuple:
    """Returns (build, source): the task's model on random images."""
    import numpy as np

    from experiments.tasks import TASKS
    from fda_tf.data import sources

    task = TASKS[FLAGS.task]
    random = np.random.default_rng(0)
    x = random.random((4096, *task.input_shape), np.float32)
    y = random.integers(0, task.classes, 4096)
    pieces = np.resize(np.arange(4096), (workers, 32))
    shards = [(x[piece], y[piece]) for piece in pieces]

    def build():
        model = task.build(seed=0)
        model.jit_compile = FLAGS.xla
        return model

    return build, sources.ArraySource(shards, task.batch_size)


def _spread(rates: list[float], ratios: list[float]) -> dict:
    low, median, high = _quartiles(rates)
    return {
        "worker_steps_per_second": round(median, 1),
        "worker_steps_per_second_quartiles": [round(low, 1), round(high, 1)],
        "ratio_to_single_step": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(r, 3) for r in _quartiles(ratios)[::2]],
    }


def _timed(call, steps: int) -> float:
    """Returns seconds a step."""
    import tensorflow as tf

    start = time.perf_counter()
    result = call(tf.constant(steps))
    if result is not None:
        result.cause.numpy()
    return (time.perf_counter() - start) / steps


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def main(_) -> None:
    """Measures each number of workers in a process of its own."""
    if FLAGS.child:
        print(json.dumps(measure(int(FLAGS.workers[0]))))
        return
    rows = []
    for workers in FLAGS.workers:
        command = [sys.executable, "-m", "experiments.bench.simulation"]
        command += [*_given(), f"--workers={workers}", "--child"]
        rows += processes.run(command)
        print({n: rows[-1][n] for n in COLUMNS}, file=sys.stderr, flush=True)
    names = ("task", "xla", "threads", "repeats", "block_seconds")
    measured.show(rows, COLUMNS, {n: FLAGS[n].value for n in names})


def _given() -> list[str]:
    own = FLAGS.get_flags_for_module(sys.modules[__name__])
    return [f.serialize() for f in own if f.present and f.name != "workers"]


if __name__ == "__main__":
    app.run(main)
