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

import statistics
import sys
import time

from experiments import processes
from experiments.bench import measured, resident

COLUMNS = (
    "workers", "worker_steps_per_second", "ratio_to_single_step",
    "ratio_quartiles", "compile_seconds", "peak_rss_bytes", "bytes_per_worker",
    "state_bytes_per_worker",
)  # fmt: skip


def measure(
    workers: int, task: str, threads: int, xla: bool, repeats: int,
    block_seconds: float,
) -> dict:  # fmt: skip
    """Returns the row of one number of workers; for a fresh process."""
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    import fda_tf
    from experiments.bench import homes
    from experiments.tasks import TASKS

    row = TASKS[task]
    random = np.random.default_rng(0)
    x = random.random((4096, *row.input_shape), np.float32)
    y = random.integers(0, row.classes, 4096)
    pieces = np.resize(np.arange(4096), (workers, 32))
    data = [(x[piece], y[piece]) for piece in pieces]

    def build():
        model = row.build(seed=0)
        model.jit_compile = xla
        return model

    one = homes.simulation(build, data, row.batch_size, 1)

    @tf.function
    def single(steps):
        for t in tf.range(steps):
            one.worker.step(one.source.batch(0, t))

    def alone(steps):
        start = time.perf_counter()
        single(tf.constant(steps))
        return (time.perf_counter() - start) / steps

    alone(2)
    before = resident.now()
    home = homes.simulation(build, data, row.batch_size)
    loop = homes.Loop(home, fda_tf.VarianceThreshold(1.5, "linear"))
    compile_seconds = homes.timed(loop, 1)
    steps = max(1, int(block_seconds / homes.timed(loop, 2)))
    single_steps = max(20, steps * workers // 4)
    blocks = {
        "all": lambda: workers / homes.timed(loop, steps),
        "one": lambda: 1 / alone(single_steps),
    }
    pairs = measured.in_turn(blocks, "one", repeats)["all"]
    low, median, high = _quartiles([rate for rate, _ in pairs])
    ratios = _quartiles([rate / alone for rate, alone in pairs])
    return {
        "workers": workers,
        "worker_steps_per_second": round(median, 1),
        "worker_steps_per_second_quartiles": [round(low, 1), round(high, 1)],
        "ratio_to_single_step": round(ratios[1], 3),
        "ratio_quartiles": [round(r, 3) for r in ratios[::2]],
        "compile_seconds": round(compile_seconds, 2),
        "peak_rss_bytes": resident.peak(),
        "bytes_per_worker": round((resident.now() - before) / workers),
        "state_bytes_per_worker": round(home.state_bytes() / workers),
    }


def _quartiles(values: list[float]) -> list[float]:
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def main(options) -> None:
    """Measures each number of workers in a process of its own."""
    names = ("task", "threads", "xla", "repeats", "block_seconds")
    given = {name: getattr(options, name) for name in names}
    rows = []
    for workers in map(int, options.workers):
        rows += processes.call(measure, workers, **given)
        print({n: rows[-1][n] for n in COLUMNS}, file=sys.stderr, flush=True)
    measured.show(rows, COLUMNS, **given)


if __name__ == "__main__":
    measured.command(
        main,
        workers=(["5", "10", "60"], "Numbers of workers K."),
        repeats=(7, "Pairs of blocks."),
        block_seconds=(3.0, "Length of a block of the simulation."),
        xla=(False, "Compile the local step with XLA."),
        threads=(1, "Threads inside an operation (0: TensorFlow's default)."),
        task=("lenet5_mnist", "A task of images."),
    )
