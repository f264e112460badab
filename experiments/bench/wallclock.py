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

A method is an algorithm's text, such as synchronous (the models are averaged
after each step), local_sgd:interval=32, fedavg (plain averages, once an epoch),
linear (the task's theta, a check after each step) or
linear:theta=auto:check_every=16; or it is gradients: those are averaged, in
each step.

The hosts share the machine's cores, so compute and waiting are told apart by
local steps that each run measures, of all hosts at once and of one while the
others rest; README.md of this folder says what each column is.
"""

import itertools
import pathlib

from experiments import config, processes, store
from experiments.bench import gradients, measured, netlab
from experiments.bench.wallclock_runs import (
    KEY,
    METHODS,
    TARGETS,
    costs,
    is_done,
    step_seconds,
    table,
)  # fmt: skip

COLUMNS = (
    "task", "mbit", "method", "runs", "reached", "steps", "syncs", "s",
    "compute s", "waiting s", "cable s", "s, a core each", "MB sent",
    "MB by the meter", "explained", "others",
)  # fmt: skip


def jobs(options) -> list[dict]:
    """Returns what the flags ask for, in order."""
    limits = {n: getattr(options, n) for n in ("every", "steps", "seconds")}
    return [
        {
            "task": task,
            "method": method,
            "mbit": float(rate),
            "seed": int(seed),
            "hosts": options.hosts,
            "target": TARGETS[task],
            **limits,
        }
        for seed, task, rate, method in itertools.product(
            options.seeds, options.tasks, options.rates, options.methods
        )
    ]


def check(options) -> None:
    """Raises ValueError for what no host could do."""
    measured.chosen("tasks", options.tasks, TARGETS)
    for name, least in (("rates", 1), ("seeds", 0)):
        texts = getattr(options, name)
        if not all(text.isdigit() and int(text) >= least for text in texts):
            raise ValueError(
                f"--{name}={','.join(texts)}: expected whole numbers of at "
                f"least {least}, with commas."
            )
    for method in options.methods:
        if method != gradients.NAME:
            config.settings(method)
    if not pathlib.Path(options.output).absolute().parent.is_dir():
        raise ValueError(
            f"--output={options.output}: expected a file in a folder that is "
            "there; make it first."
        )
    if options.rates and not netlab.can_be():
        raise ValueError(
            f"{netlab.NEEDS}; --rates= (none) only prints what is there."
        )


def train(job: dict, data_dir: str | None) -> dict:
    """Runs a job on its hosts; returns what the chief has measured."""
    from experiments.bench import wallclock_host

    # Compiling and evaluating are not on the clock.
    timeout = 2 * job["seconds"] + 600
    with netlab.Hosts(job["hosts"], f"{job['mbit']:g}mbit") as hosts:
        found = processes.call(
            wallclock_host.run, job, data_dir, workers=job["hosts"],
            timeout=timeout, hosts=hosts,
        )  # fmt: skip
    return job | found[0]


def main(options) -> None:
    """Runs what is not there yet; prints the table, then all as JSON."""
    check(options)
    kept = store.Store(options.output, *KEY)
    for job in jobs(options):
        if is_done(job, kept.rows.get(kept.key_of(job)), options.others):
            continue
        run = kept.add(train(job, options.data_dir))
        found = costs(run, step_seconds(kept.rows.values()))
        shown = (f"{name} {value:.4g}" for name, value in found.items())
        print(*kept.key_of(job)[:4], *shown, sep="  ", flush=True)
    if options.picture:
        from experiments.bench import wallclock_picture

        for path in wallclock_picture.draw(kept.rows.values(), options.picture):
            print(path)
    measured.show(table(kept.rows.values()), COLUMNS, targets=TARGETS)


if __name__ == "__main__":
    measured.command(
        main,
        tasks=(list(TARGETS)[:2], "Names of tasks."),
        rates=(["10", "100", "1000"], "Of each cable, in mbit."),
        methods=(list(METHODS), "What to run, in this order."),
        seeds=(["0"], "Of weights, data and batches: a run each."),
        hosts=(4, "K, 2 to 99."),
        every=(50, "Steps between evaluations."),
        steps=(6000, "Limit of a run."),
        seconds=(1800.0, "Limit of a run, by its clock."),
        others=(1.0, "Run again where others had more of the cores."),
        data_dir=(str, "Folder with the data sets."),
        output=("wallclock.jsonl", "File of JSON lines."),
        picture=(str, "Where to draw: PREFIX of -TASK.png."),
    )
