"""What talking costs: the time of a step with it against one without.

Two processes (or more) train a model in one running cluster. Blocks of steps
without any exchange and with one kind of exchange alternate; each pair gives a
ratio. A block has --steps, or the next multiple of the steps from one exchange
of its kind to the next.

  python -m experiments.bench.overhead                  # on this machine
  python -m experiments.bench.overhead --model=vgg16star_mnist --steps=10
  python -m experiments.bench.overhead --rate=10mbit    # root: hosts of a lab

A kind is an algorithm's text, and --only takes any. For checks, theta is 1e30,
so that nothing is synchronised: the cascade then sends the norm alone, as it
does in the quiet part of a round; at the end of one it sends what the sketch
without it does. "sketch" is FDA as it is by default, with the task's theta
(dense20m: 50), which synchronises when that is exceeded, by a model of its own
that no other kind trains. It does so in few blocks, of which a median knows
nothing: "overall" is the ratio of the sums.

"gradients" averages the gradients in each step, by a model of its own, and
"synchronous" the models: as many bytes.

A block's time is that of its slowest worker; CPU seconds are of all workers.
"""

import math
import time

from experiments import algorithms, config, processes, training
from experiments.bench import gradients, measured, netlab

COLUMNS = (
    "kind", "ms", "local_ms", "ratio", "interval", "overall", "cpu_ms",
    "cpu_ratio", "syncs", "block_steps",
)  # fmt: skip
KINDS = (
    *(f"{text}:theta=1e30" for text in (
        "naive", "linear", "sketch:cascade=False", "sketch",
        "naive:overlap=True", "linear:overlap=True", "sketch:overlap=True",
        "linear:check_every=4", "sketch:check_every=4",
        "sketch:cascade=False:check_every=4", "sketch:check_every=16",
        "sketch:check_every=32", "sketch:overlap=True:check_every=16",
    )),
    "sketch", "local_sgd:interval=32", "synchronous", gradients.NAME,
)  # fmt: skip
_LOCAL = "local only"
MODELS = {"lenet5_mnist", "vgg16star_mnist", "dense20m"}


def settings(kind: str, model: str) -> config.Settings:
    """Returns the settings of a kind.

    Example:
      >>> settings("sketch", "dense20m").theta
      50.0
    """
    if kind in (_LOCAL, gradients.NAME):  # whose steps themselves exchange
        kind = "local_sgd:interval=1000000000"
    task = "vgg16star_mnist" if model == "dense20m" else model
    return config.settings(kind, task=task)


def block_steps(kind: str, model: str, steps: int) -> int:
    """Returns the steps of a block: a multiple of the kind's period.

    Example:
      >>> block_steps("local_sgd:interval=32", "lenet5_mnist", 100)
      128
    """
    own = settings(kind, model)
    period = own.check_every or own.interval or 1
    return steps if period > 10**6 else math.ceil(steps / period) * period


def build(name: str):
    """Returns the model of --model, compiled."""
    import keras

    from experiments.tasks import TASKS

    if name in TASKS:
        return TASKS[name].build(0)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4096, "relu") for _ in range(2)]
    layers = [keras.layers.Flatten(), *layers, keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss)
    return model


def measure(model: str, kinds, pairs: int, steps: int, profile: bool) -> dict:
    """Measures as one of the workers; returns {"rows", "profile_ms"}."""
    import numpy as np

    import fda_tf

    training.one_thread()
    process_group = fda_tf.connect()
    from experiments.bench import homes, profiled

    data = training.load("lenet5_mnist5000", 1)
    mine = slice(process_group.index, None, process_group.count)
    shard = tuple(array[mine] for array in data.shards[0])

    def cluster(made):
        return homes.cluster(process_group, made, shard)

    common = cluster(build(model))

    def make(kind):
        own, home = settings(kind, model), common
        if kind == gradients.NAME:
            mean = process_group.mean
            home = cluster(gradients.averaged(build(model), mean))
        elif own.theta not in (None, 1e30):
            home = cluster(build(model))
        loop = homes.Loop(home, algorithms.of(own))
        _block(loop, 3)
        return loop

    def timed(kind):
        process_group.sum(1)  # all begin at once
        return _block(loops[kind], block_steps(kind, model, steps))

    loops = {kind: make(kind) for kind in (_LOCAL, *kinds)}
    blocks = {kind: lambda kind=kind: timed(kind) for kind in loops}
    for block in blocks.values():  # warm, when all are compiled
        block()
    rows = []
    for name, found in measured.in_turn(blocks, _LOCAL, pairs).items():
        each = process_group.gather(np.array(found))  # [workers, pairs, 2, 3]
        row = _row(each[..., 0].max(0), each[..., 1].sum(0))
        own = {"kind": name, "block_steps": block_steps(name, model, steps)}
        rows.append(own | row | {"syncs": float(each[0, :, 0, 2].sum())})
    profiles = {}
    for name, loop in loops.items() if profile else ():
        process_group.sum(1)
        n = block_steps(name, model, steps)
        times = profiled.operations(lambda loop=loop, n=n: _block(loop, n))
        most = list(times.items())[:12]
        profiles[name] = {operation: ms / n for operation, ms in most}
    return {"rows": rows, "profile_ms": profiles}


def _block(loop, steps) -> tuple[float, float, float]:
    """Returns (seconds, CPU seconds) of a step, over a block, and its syncs."""
    before = int(loop.syncs)
    wall, cpu = time.perf_counter(), time.process_time()
    loop.run(steps).cause.numpy()
    cpu = time.process_time() - cpu
    wall = time.perf_counter() - wall
    return wall / steps, cpu / steps, int(loop.syncs) - before


def _row(wall, cpu) -> dict:
    """Returns the row of a kind, from [pairs, 2]: its own seconds, local's."""
    import numpy as np

    own, local = 1e3 * np.median(wall, 0)
    figures = {
        "ms": own,
        "local_ms": local,
        "overall": wall[:, 0].sum() / wall[:, 1].sum(),
        "cpu_ms": 1e3 * np.median(cpu[:, 0]),
        "cpu_local_ms": 1e3 * np.median(cpu[:, 1]),
        "cpu_ratio": np.median(cpu[:, 0] / cpu[:, 1]),
    }
    figures = {name: float(value) for name, value in figures.items()}
    return figures | measured.ratio(wall.tolist())


def main(options) -> None:
    """Starts the workers and prints a table, then all rows as JSON."""
    kinds = options.only or KINDS
    for kind in kinds:
        settings(kind, options.model)  # refuses what is none
    with netlab.hosts_or_not(options.workers, options.rate) as hosts:
        found = processes.call(
            measure, options.model, kinds, options.pairs, options.steps,
            options.profile, workers=options.workers, hosts=hosts,
            timeout=options.timeout,
        )[0]  # fmt: skip
    for kind, times in found["profile_ms"].items():
        print(f"{kind}, ms a step on the chief, by operation:")
        print("  " + ", ".join(f"{op} {ms:.3g}" for op, ms in times.items()))
    more = {"profile_ms": found["profile_ms"]}
    measured.show(found["rows"], COLUMNS, options, **more)


if __name__ == "__main__":
    measured.command(
        main,
        model=("lenet5_mnist", "Or three dense layers of 20 M.", MODELS),
        workers=(2, "Processes, 2 or more."),
        rate=(str, "Of each host's cable, such as 10mbit."),
        pairs=(15, "Blocks of each kind."),
        steps=(100, "In a block."),
        only=((), "A kind to measure; by default all."),
        profile=(False, "Say which operations take the time."),
        timeout=(1800.0, "Seconds for all of it."),
    )
