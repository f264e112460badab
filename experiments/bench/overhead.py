"""What a check costs: the time of a step with it against one without.

Two processes (or more) train LeNet-5 in one running cluster. Theta is
infinite, so that nothing is synchronised: the cascade then sends the norm
alone, as it does in the quiet part of a round; at the end of one it sends
what "sketch, whole" does. Blocks of steps without any exchange and with one
kind of check alternate; each pair gives a ratio.

  python -m experiments.bench.overhead                  # on this machine
  python -m experiments.bench.overhead --rate=10mbit    # root: hosts of a lab

A block's time is that of its slowest worker; CPU seconds are of all workers.
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
flags.DEFINE_integer("workers", 2, "Processes.")
flags.DEFINE_string("rate", None, "Of each host's cable, such as 10mbit.")
flags.DEFINE_integer("pairs", 15, "Blocks of each kind.")
flags.DEFINE_integer("steps", 100, "In a block.")
flags.DEFINE_multi_string("only", [], "A kind to measure; by default all.")
flags.DEFINE_bool("worker", False, "This is one of the processes.")

COLUMNS = ("kind", "ms/step", "ratio", "interval", "cpu ms/step", "cpu ratio")


def kinds() -> dict:
    """Returns name -> sync policy, with a theta that is never exceeded."""
    import fda_tf

    def check(monitor, **options):
        return fda_tf.VarianceThreshold(1e30, monitor, **options)

    def sketch(**options):
        whole = fda_tf.SketchMonitor(cascade=False)
        return check(whole, **options)

    return {
        "naive": check("naive"),
        "linear": check("linear"),
        "sketch, whole": sketch(),
        "sketch, cascade": check("sketch"),
        "naive, overlap": check("naive", overlap=True),
        "linear, overlap": check("linear", overlap=True),
        "sketch, overlap": check("sketch", overlap=True),
        "linear, every 4": check("linear", check_every=4),
        "sketch, cascade, every 4": check("sketch", check_every=4),
        "sketch, whole, every 4": sketch(check_every=4),
        "sketch, cascade, every 16": check("sketch", check_every=16),
        "sketch, cascade, every 32": check("sketch", check_every=32),
        "sketch, overlap, every 16": check(
            "sketch", check_every=16, overlap=True
        ),
    }


def measure() -> None:
    """Measures as one of the workers; the chief prints JSON."""
    import numpy as np
    import tensorflow as tf

    import fda_tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    replicas = fda_tf.connect()
    from experiments import datasets
    from experiments.tasks import TASKS
    from fda_tf import cluster, data, training, worker

    shipped = datasets.load("mnist5000")
    x = (shipped.x_train[..., None] / 255.0).astype("float32")
    mine = slice(replicas.index, None, replicas.count)
    source = data.ArraySource(
        [(x[mine], shipped.y_train[mine])], 32, first=replicas.index
    )
    model = TASKS["lenet5_mnist"].build(0)
    home = cluster.Cluster(
        worker.Worker(model, source.example(), source.spec()), source, replicas
    )

    def make(sync):
        loop = training.Loop(home, sync, fda_tf.Average())
        _block(loop, 3)
        return loop

    wanted = FLAGS.only or list(kinds())
    local = make(fda_tf.Every(steps=10**9))
    loops = {name: make(kinds()[name]) for name in wanted}
    order, times = random.Random(0), {name: [] for name in wanted}
    for _ in range(FLAGS.pairs):
        for name in order.sample(wanted, len(wanted)):
            pair = []
            for loop in (local, loops[name]):
                replicas.sum(1)  # all begin at once
                pair.append(_block(loop, FLAGS.steps))
            times[name].append(pair)
    rows = []
    for name in wanted:
        everyones = replicas.gather(np.array(times[name]))
        rows.append(
            _row(name, everyones[..., 0].max(0), everyones[..., 1].sum(0))
        )
    if replicas.is_chief:
        print(json.dumps({"rows": rows}), flush=True)


def _block(loop, steps) -> tuple[float, float]:
    """Returns (seconds, CPU seconds) of one step, over a block."""
    wall, cpu = time.perf_counter(), time.process_time()
    loop.run(steps).cause.numpy()
    cpu = time.process_time() - cpu
    return (time.perf_counter() - wall) / steps, cpu / steps


def _row(name, wall, cpu) -> dict:
    """Returns the row of a kind, from [pairs, 2] of seconds a step."""
    ratios, cpu_ratios = (sorted(t[:, 1] / t[:, 0]) for t in (wall, cpu))
    # The median's interval by order statistics: 96 % for 15 pairs.
    low = max(0, round(len(ratios) / 2 - len(ratios) ** 0.5))
    return {
        "kind": name,
        "ms": 1e3 * statistics.median(wall[:, 1]),
        "local_ms": 1e3 * statistics.median(wall[:, 0]),
        "ratio": statistics.median(ratios),
        "interval": [ratios[low], ratios[-1 - low]],
        "cpu_ms": 1e3 * statistics.median(cpu[:, 1]),
        "cpu_local_ms": 1e3 * statistics.median(cpu[:, 0]),
        "cpu_ratio": statistics.median(cpu_ratios),
    }


def start(commands, configs) -> dict:
    """Runs the workers; returns what the chief printed."""
    workers = [
        subprocess.Popen(
            command,
            env=os.environ | {"TF_CONFIG": config},
            stdout=subprocess.PIPE,
            text=True,
        )
        for command, config in zip(commands, configs, strict=True)
    ]
    printed = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        sys.exit("A worker failed; its own output says why.")
    return json.loads(printed[0].splitlines()[-1])


def main(_) -> None:
    """Starts the workers and prints a table, then all rows as JSON."""
    if FLAGS.worker:
        measure()
        return
    from experiments.bench import netlab
    from fda_tf import launch

    command = [sys.executable, "-m", "experiments.bench.overhead", "--worker"]
    command += [f"--pairs={FLAGS.pairs}", f"--steps={FLAGS.steps}"]
    command += [f"--only={name}" for name in FLAGS.only]
    if FLAGS.rate:
        with netlab.Hosts(FLAGS.workers, FLAGS.rate) as hosts:
            addresses = [f"{a}:2222" for a in hosts.addresses]
            result = start(
                [hosts.command(k, command) for k in range(FLAGS.workers)],
                launch.tf_configs(FLAGS.workers, addresses),
            )
    else:
        result = start(
            [command] * FLAGS.workers, launch.tf_configs(FLAGS.workers)
        )
    print("  ".join(COLUMNS))
    for row in result["rows"]:
        low, high = row["interval"]
        print(
            f"{row['kind']:26}{row['ms']:8.2f}{row['ratio']:8.3f}"
            f"  {low:.3f}-{high:.3f}{row['cpu_ms']:8.2f}{row['cpu_ratio']:8.3f}"
        )
    names = ("workers", "rate", "pairs", "steps")
    print(json.dumps(result | {n: getattr(FLAGS, n) for n in names}))


if __name__ == "__main__":
    app.run(main)
