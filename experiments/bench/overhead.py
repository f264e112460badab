"""What talking costs: the time of a step with it against one without.

Two processes (or more) train a model in one running cluster. Blocks of steps
without any exchange and with one kind of exchange alternate; each pair gives a
ratio. A block has --steps, or the next multiple of the steps from one exchange
of its kind to the next.

  python -m experiments.bench.overhead                  # on this machine
  python -m experiments.bench.overhead --model=vgg16star_mnist --steps=10
  python -m experiments.bench.overhead --rate=10mbit    # root: hosts of a lab

For checks, theta is infinite, so that nothing is synchronised: the cascade
then sends the norm alone, as it does in the quiet part of a round; at the end
of one it sends what "sketch, whole" does. "FDA" is the sketch as it is by
default, with the task's theta (dense20m: 50), which synchronises when that is
exceeded, by a model of its own that no other kind trains. It does so in few
blocks, of which a median knows nothing: "overall" is the ratio of the sums.

"synchronous" averages the gradients in each step, by a model of its own, and
"average each step" the models (`fda_tf.Every(steps=1)`): as many bytes.

A block's time is that of its slowest worker; CPU seconds are of all workers.
"""

import contextlib
import json
import math
import sys
import time

import numpy as np
from absl import app, flags

from experiments.bench import measured, netlab, processes, profiled

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "model",
    "lenet5_mnist",
    ["lenet5_mnist", "vgg16star_mnist", "dense20m"],
    "A task's, or three dense layers of 20 M parameters.",
)
flags.DEFINE_integer("workers", 2, "Processes.", lower_bound=2)
flags.DEFINE_string("rate", None, "Of each host's cable, such as 10mbit.")
flags.DEFINE_integer("pairs", 15, "Blocks of each kind.", lower_bound=1)
flags.DEFINE_integer("steps", 100, "In a block.", lower_bound=1)
flags.DEFINE_multi_string("only", [], "A kind to measure; by default all.")
flags.DEFINE_bool("profile", False, "Say which operations take the time.")
flags.DEFINE_float("timeout", 1800.0, "Seconds for all of it.")
flags.DEFINE_bool("worker", False, "This is one of the processes.")

COLUMNS = (
    "kind", "ms", "local_ms", "ratio", "interval", "overall", "cpu_ms",
    "cpu_ratio", "syncs", "block_steps",
)  # fmt: skip
CHECKS = {  # kind -> monitor, options of VarianceThreshold
    "naive": ("naive", {}),
    "linear": ("linear", {}),
    "sketch, whole": ("whole sketch", {}),
    "sketch, cascade": ("sketch", {}),
    "naive, overlap": ("naive", {"overlap": True}),
    "linear, overlap": ("linear", {"overlap": True}),
    "sketch, overlap": ("sketch", {"overlap": True}),
    "linear, every 4": ("linear", {"check_every": 4}),
    "sketch, cascade, every 4": ("sketch", {"check_every": 4}),
    "sketch, whole, every 4": ("whole sketch", {"check_every": 4}),
    "sketch, cascade, every 16": ("sketch", {"check_every": 16}),
    "sketch, cascade, every 32": ("sketch", {"check_every": 32}),
    "sketch, overlap, every 16": (
        "sketch",
        {"check_every": 16, "overlap": True},
    ),
}
FDA, LOCAL_SGD, H = "FDA", "local SGD, H = 32", 32
EACH, SYNCHRONOUS = "average each step", "synchronous"
KINDS = (*CHECKS, FDA, LOCAL_SGD, EACH, SYNCHRONOUS)
_LOCAL = "local only"
THETAS = {"lenet5_mnist": 1.5, "vgg16star_mnist": 50.0, "dense20m": 50.0}


def policy(kind: str):
    """Returns the sync policy of one of `KINDS`; checks exceed no theta."""
    import fda_tf

    if kind in CHECKS:
        monitor, options = CHECKS[kind]
        if monitor == "whole sketch":
            monitor = fda_tf.monitors.SketchMonitor(cascade=False)
        return fda_tf.VarianceThreshold(1e30, monitor, **options)
    never = fda_tf.Every(steps=10**9)
    return {
        _LOCAL: never,
        SYNCHRONOUS: never,  # each step itself exchanges
        FDA: fda_tf.VarianceThreshold(THETAS[FLAGS.model], "sketch"),
        LOCAL_SGD: fda_tf.Every(steps=H),
        EACH: fda_tf.Every(steps=1),
    }[kind]


def block_steps(kind: str) -> int:
    """Returns the steps of a block: a multiple of the kind's period."""
    period = H if kind == LOCAL_SGD else 1
    if kind in CHECKS:
        period = CHECKS[kind][1].get("check_every", 1)
    return math.ceil(FLAGS.steps / period) * period


def build():
    """Returns the model of --model, compiled."""
    import keras

    from experiments.tasks import TASKS

    if FLAGS.model in TASKS:
        return TASKS[FLAGS.model].build(0)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4096, "relu") for _ in range(2)]
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            *layers,
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss)
    return model


def measure() -> None:
    """Measures as one of the workers; prints JSON."""
    import tensorflow as tf

    import fda_tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    process_group = fda_tf.connect()
    from experiments.bench import gradients
    from fda_tf.core import loop as training

    home = _home(process_group, build())

    def make(kind):
        own = home
        if kind == FDA:
            own = _home(process_group, build())
        elif kind == SYNCHRONOUS:
            own = _home(
                process_group, gradients.averaged(build(), process_group.mean)
            )
        loop = training.Loop(own, policy(kind), None)
        _block(loop, 3)
        return loop

    def timed(kind):
        process_group.sum(1)  # all begin at once
        return _block(loops[kind], block_steps(kind))

    loops = {kind: make(kind) for kind in (_LOCAL, *(FLAGS.only or KINDS))}
    blocks = {kind: lambda kind=kind: timed(kind) for kind in loops}
    for block in blocks.values():  # warm, when all are compiled
        block()
    rows = []
    for name, pairs in measured.in_turn(blocks, _LOCAL, FLAGS.pairs).items():
        each = process_group.gather(np.array(pairs))  # [workers, pairs, 2, 3]
        rows.append(
            _row(name, each[..., 0].max(0), each[..., 1].sum(0))
            | {
                "syncs": each[0, :, 0, 2].sum(),
                "block_steps": block_steps(name),
            }
        )
    profiles = {}
    if FLAGS.profile:
        for name, loop in loops.items():
            process_group.sum(1)
            profiles[name] = _profile(loop, block_steps(name))
    print(json.dumps({"rows": rows, "profile_ms": profiles}), flush=True)


def _home(process_group, model):
    """Returns the cluster: a model, and this worker's part of the images."""
    from experiments import datasets
    from fda_tf.data import sources
    from fda_tf.workers import distributed, local_model

    shipped = datasets.load("mnist5000")
    x = (shipped.x_train[..., None] / 255.0).astype("float32")
    mine = slice(process_group.index, None, process_group.count)
    source = sources.ArraySource(
        [(x[mine], shipped.y_train[mine])], 32, first=process_group.index
    )
    return distributed.Cluster(
        local_model.Worker(model, source.spec()),
        source,
        process_group,
    )


def _block(loop, steps) -> tuple[float, float, float]:
    """Returns (seconds, CPU seconds) of a step, over a block, and its syncs."""
    before = int(loop.syncs)
    wall, cpu = time.perf_counter(), time.process_time()
    loop.run(steps).cause.numpy()
    cpu = time.process_time() - cpu
    wall = time.perf_counter() - wall
    return wall / steps, cpu / steps, int(loop.syncs) - before


def _profile(loop, steps) -> dict[str, float]:
    """Returns operation -> ms a step on this worker, the largest first."""
    times = profiled.operations(lambda: _block(loop, steps))
    return {name: ms / steps for name, ms in list(times.items())[:12]}


def _row(name, wall, cpu) -> dict:
    """Returns the row of a kind, from [pairs, 2]: its own seconds, local's."""
    own, local = 1e3 * np.median(wall, 0)
    return {
        "kind": name,
        "ms": own,
        "local_ms": local,
        **measured.ratio(wall),
        "overall": wall[:, 0].sum() / wall[:, 1].sum(),
        "cpu_ms": 1e3 * np.median(cpu[:, 0]),
        "cpu_local_ms": 1e3 * np.median(cpu[:, 1]),
        "cpu_ratio": np.median(cpu[:, 0] / cpu[:, 1]),
    }


def main(_) -> None:
    """Starts the workers and prints a table, then all rows as JSON."""
    if FLAGS.worker:
        measure()
        return
    measured.chosen("only", FLAGS.only, KINDS)
    try:
        netlab.rate_of(FLAGS.rate or "1mbit")
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    command = [sys.executable, "-m", "experiments.bench.overhead", "--worker"]
    command += [f"--pairs={FLAGS.pairs}", f"--steps={FLAGS.steps}"]
    command += [f"--model={FLAGS.model}"]
    command += ["--profile"] if FLAGS.profile else []
    command += [f"--only={name}" for name in FLAGS.only]
    lab = netlab.Hosts(FLAGS.workers, FLAGS.rate) if FLAGS.rate else None
    with lab or contextlib.nullcontext() as hosts:
        result = processes.run(
            command, FLAGS.workers, FLAGS.timeout, hosts=hosts
        )[0]
    names = ("model", "workers", "rate", "pairs", "steps")
    about = {name: getattr(FLAGS, name) for name in names}
    for kind, times in result["profile_ms"].items():
        print(f"{kind}, ms a step on the chief, by operation:")
        print("  " + ", ".join(f"{op} {ms:.3g}" for op, ms in times.items()))
    about["profile_ms"] = result["profile_ms"]
    measured.show(result["rows"], COLUMNS, about)


if __name__ == "__main__":
    app.run(main)
