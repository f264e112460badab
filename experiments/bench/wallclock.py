"""Wall clock to a test accuracy on a limited network, by method.

Four hosts (network namespaces behind a switch; needs root and iproute2) train
LeNet-5 on MNIST and a small CNN on Fashion-MNIST, each from its own quarter of
the data (IID), batches of 32, until the average of their models passes the
target. The clock begins when all is compiled and connected, stands still while
the chief evaluates, and ends when all hosts have the average.

  python -m experiments.bench.wallclock --data_dir=DIR --output=wallclock.jsonl
  python -m experiments.bench.wallclock --output=wallclock.jsonl --rates= \
      --picture=docs/wallclock            # only the table and the pictures

Each finished run is a line of --output, and is not run again. A run ends at
the target or at a limit of steps or seconds, and then says how far it came.

Methods: synchronous (the models are averaged after each step),
synchronous:gradients (the gradients are, in each), local:H (local SGD), fedavg
(local SGD with H of one epoch and plain averages), and FDA as
MONITOR:THETA:CHECK_EVERY, such as linear (the task's theta, a check after each
step), sketch:auto, linear:auto:16.

The hosts share the machine's cores. So compute and waiting are told apart: each
run measures local steps in the same processes, of all hosts at once and of one
while the others rest; the medians over a task's runs count. `compute s` is what
the run's steps would take if nothing were ever sent, `waiting s` the rest (the
wire, the collectives' own work, the slowest host), and `s, a core each` is
calculated: waiting as it was, and steps as fast as one host alone does them.
`cable s` is what a cable needs for a host's bytes. `others` is the share of the
cores that went to other work while the clock ran, with the kernel's own for the
network.
"""

import itertools
import json
import pathlib
import sys

from absl import app, flags

from experiments.bench import measured, netlab, processes
from experiments.bench.wallclock_runs import (
    METHODS,
    TARGETS,
    costs,
    is_done,
    key_of,
    read,
    step_seconds,
    table,
)

COLUMNS = (
    "task", "mbit", "method", "runs", "reached", "steps", "syncs", "s",
    "compute s", "waiting s", "cable s", "s, a core each", "MB sent",
    "MB by the meter", "explained", "others",
)  # fmt: skip

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", list(TARGETS)[:2], "Names of tasks.")
flags.DEFINE_list("rates", ["10", "100", "1000"], "Of each cable, in mbit.")
flags.DEFINE_list("methods", list(METHODS), "What to run, in this order.")
flags.DEFINE_list("seeds", ["0"], "Of weights, data and batches: a run each.")
flags.DEFINE_integer("hosts", 4, "K.", lower_bound=2, upper_bound=99)
flags.DEFINE_integer("every", 50, "Steps between evaluations.", lower_bound=1)
flags.DEFINE_integer("steps", 6000, "Limit of a run.", lower_bound=1)
flags.DEFINE_float("seconds", 1800, "Limit of a run, by its clock.")
flags.DEFINE_float(
    "others", 1.0, "Run again what ran while others had more of the cores."
)
flags.DEFINE_string("data_dir", None, "Folder with the data sets.")
flags.DEFINE_string("output", "wallclock.jsonl", "File of JSON lines.")
flags.DEFINE_string("picture", None, "Where to draw: PREFIX of -TASK.png.")


def jobs() -> list[dict]:
    """Returns what the flags ask for, in order."""
    return [
        {
            "task": task,
            "method": method,
            "mbit": float(rate),
            "seed": int(seed),
            "hosts": FLAGS.hosts,
            "target": TARGETS[task],
            "every": FLAGS.every,
            "steps": FLAGS.steps,
            "seconds": FLAGS.seconds,
            "data_dir": FLAGS.data_dir,
        }
        for seed, task, rate, method in itertools.product(
            FLAGS.seeds, FLAGS.tasks, FLAGS.rates, FLAGS.methods
        )
    ]


def check() -> None:
    """Raises ValueError for what no host could do."""
    import fda_tf
    from experiments.bench import wallclock_host

    if unknown := set(FLAGS.tasks) - set(TARGETS):
        raise ValueError(
            f"--tasks={','.join(sorted(unknown))}: expected some of "
            f"{', '.join(TARGETS)}."
        )
    for name, texts, least in (
        ("rates", FLAGS.rates, 1),
        ("seeds", FLAGS.seeds, 0),
    ):
        if not all(text.isdigit() and int(text) >= least for text in texts):
            raise ValueError(
                f"--{name}={','.join(texts)}: expected whole numbers of at "
                f"least {least}, with commas."
            )
    for method in FLAGS.methods:
        try:
            wallclock_host.policy(method, 1.0)
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"--methods: {method!r} ({error}). Expected synchronous, "
                f"{wallclock_host.GRADIENTS}, local:H, fedavg or "
                "MONITOR:THETA:CHECK_EVERY with one of "
                f"{', '.join(fda_tf.monitors.MONITORS)}."
            ) from error
    if not pathlib.Path(FLAGS.output).absolute().parent.is_dir():
        raise ValueError(
            f"--output={FLAGS.output}: expected a file in a folder that is "
            "there; make it first."
        )
    if FLAGS.rates and not netlab.can_be():
        raise ValueError(
            f"{netlab.NEEDS}; --rates= (none) only prints what is there."
        )


def train(job: dict) -> dict:
    """Runs a job on its hosts; returns what the chief has measured."""
    command = [sys.executable, "-m", "experiments.bench.wallclock_host"]
    command.append(json.dumps(job))
    # Compiling and evaluating are not on the clock.
    timeout = 2 * job["seconds"] + 600
    with netlab.Hosts(job["hosts"], f"{job['mbit']:g}mbit") as hosts:
        found = processes.run(command, job["hosts"], timeout, hosts=hosts)
    return job | found[0]


def main(argv: list[str]) -> None:
    """Runs what is not there yet; prints the table, then all as JSON."""
    if len(argv) > 1:
        raise app.UsageError(f"These are no flags: {' '.join(argv[1:])}")
    try:
        check()
    except ValueError as error:
        sys.exit(f"Error: {error}")
    runs = read(FLAGS.output)
    for job in jobs():
        if is_done(job, runs, FLAGS.others):
            continue
        runs[key_of(job)] = run = train(job)
        del run["data_dir"]
        with open(FLAGS.output, "a") as lines:
            lines.write(json.dumps(run) + "\n")
        found = costs(run, step_seconds(runs.values()))
        shown = (f"{name} {value:.4g}" for name, value in found.items())
        print(*key_of(job)[:4], *shown, sep="  ", flush=True)
    if FLAGS.picture:
        from experiments.bench import wallclock_picture

        for path in wallclock_picture.draw(runs.values(), FLAGS.picture):
            print(path)
    measured.show(table(runs), COLUMNS, {"targets": TARGETS})


if __name__ == "__main__":
    app.run(main)
