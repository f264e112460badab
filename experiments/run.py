"""Trains a model on workers that rarely talk, and shows what that saves.

Without flags: LeNet-5 on 5,000 MNIST images, on 5 simulated workers, by
synchronous training and by Federated Dynamic Averaging with the linear and
the sketch monitor, to the same test accuracy. It takes about a minute.

Each run writes RESULTS_DIR/RUN_ID/ with config.json, metrics.csv, syncs.csv
and summary.json. Ctrl-C leaves there what was measured until then.

  python -m experiments.run
  python -m experiments.run --task=lenet5_mnist --algorithm=sketch --theta=2
  python -m experiments.run --backend=cluster --workers=4
"""

import os
import sys

from absl import app, flags, logging

from experiments import quiet

# Their table is not imported for --helpshort.
_TASKS = (
    "lenet5_mnist5000", "lenet5_mnist", "vgg16star_mnist",
    "densenet121_cifar10", "densenet201_cifar10", "convnext_large_cifar100",
    "cnn_fashion", "cnn_cifar10", "cnn_femnist", "text_sst2",
)  # fmt: skip


def _each(*values: float) -> str:
    """A default of each task."""
    defaults = [
        f"{value:g} for {task}"
        for task, value in zip(_TASKS, values, strict=True)
    ]
    return f"default: the task's, {', '.join(defaults)}"


flags.DEFINE_string(
    "task",
    "lenet5_mnist5000",
    "Model and data, one of "
    f"{', '.join(_TASKS)}; the data of the first ships with the project.",
)
flags.DEFINE_list(
    "algorithm",
    "synchronous,linear,sketch",
    "One or more, by commas, trained in turn: synchronous, naive, linear, "
    "sketch, max, exact (FDA by that monitor), local_sgd, fedavg, fedavgm, "
    "fedadam, fedyogi, fdaopt, diloco.",
)


class _Theta(flags.ArgumentParser):
    """Of --theta: a number, or the name of what finds one."""

    syntactic_help = "a number, or the name of a schedule"

    def parse(self, argument):
        try:
            return float(argument)
        except ValueError:
            return argument


flags.DEFINE(
    _Theta(),
    "theta",
    None,
    "FDA: synchronise when the estimated model variance exceeds this (squared "
    "norm of weights, 0 or more; "
    f"{_each(3, 1.5, 50, 300, 600, 50, 2, 2, 2, 2)}); or what finds it: auto, "
    "interval:STEPS, epochs:E, bytes:PER_STEP, fdaopt:E, fl, balanced, hpc.",
    serializer=flags.ArgumentSerializer(),
)
flags.DEFINE_integer("workers", 5, "K, 1 or more.")
flags.DEFINE_string(
    "split",
    None,
    "Who has which data: iid, sorted:FRACTION, label:LABEL[,LABEL], "
    "dirichlet:ALPHA, sizes:ALPHA, shards:PER_WORKER or natural (default: iid; "
    "natural for cnn_femnist).",
)
flags.DEFINE_integer(
    "epochs",
    None,
    "Passes over all training data at most; the model is evaluated after each "
    f"({_each(60, 60, 100, 200, 200, 35, 20, 20, 20, 20)}).",
)
flags.DEFINE_integer(
    "steps", None, "Steps at most, if that is fewer; all workers do one each."
)
flags.DEFINE_float(
    "target_accuracy",
    None,
    "Test accuracy to pass, between 0 and 1 "
    f"({_each(0.95, 0.98, 0.994, 0.78, 0.78, 0.76, 0.87, 0.5, 0.7, 0.78)}).",
)
flags.DEFINE_boolean("stop", True, "End a run when it passes the target.")
flags.DEFINE_integer("seed", 0, "Of the weights, the order of data, the split.")
flags.DEFINE_integer(
    "batch_size", None, "Samples per worker and step (default: 32)."
)
flags.DEFINE_enum(
    "sampling",
    "passes",
    ["passes", "independent"],
    "Batches: shuffled passes over a worker's data, or independent draws as "
    "in the paper's simulator.",
)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Of the workers' optimizer: the task's, which is Adam, for DenseNet SGD "
    "with momentum, for ConvNeXtLarge AdamW ("
    f"{_each(0.002, 0.001, 0.001, 0.1, 0.1, 5e-5, 0.002, 0.002, 0.002, 0.002)}"
    "), or SGD (default: 0.0316 for fedavgm, 0.01 for fedadam, fedyogi "
    "and fdaopt).",
)
flags.DEFINE_float(
    "server_learning_rate",
    None,
    "Of the server's optimizer (default: 0.316 for fedavgm, 0.7 for diloco, "
    "0.001 for fedadam, fedyogi and fdaopt).",
)
flags.DEFINE_enum(
    "weights", None, ["imagenet", "none"],
    "What convnext_large_cifar100 begins with (default: imagenet); none: train "
    "it from scratch.",
)  # fmt: skip
flags.DEFINE_enum(
    "statistics", None, ["local", "average"],
    "What BatchNorm's statistics do at a synchronisation (default, for the "
    "DenseNets: local, as in the paper).",
)  # fmt: skip
flags.DEFINE_integer(
    "interval",
    None,
    "local_sgd, diloco: steps between synchronisations (default: 10 for "
    "local_sgd, 50 for diloco).",
)
flags.DEFINE_integer(
    "local_epochs",
    None,
    "fedavg, fedavgm, fedadam, fedyogi: epochs between synchronisations; "
    "fdaopt: the most of them (default: 4 for fdaopt, else 1).",
)
flags.DEFINE_integer(
    "sketch_depth", None, "sketch: rows, an odd number (default: 5)."
)
flags.DEFINE_integer(
    "sketch_width", None, "sketch: numbers in a row, 2 or more (default: 250)."
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with NAME.npz of the data set, the only place where it is then "
    "looked for (default: what ships with the project, then the caches of "
    "TFDS and Keras, then a download).",
)
flags.DEFINE_string("results_dir", "results", "Folder for a folder per run.")
flags.DEFINE_string(
    "summary",
    None,
    "CSV that gets a row per finished run; runs that have one are left out.",
)
flags.DEFINE_boolean(
    "picture", True, "Draw accuracy against bytes, when all runs are finished."
)
flags.DEFINE_boolean(
    "overwrite", False, "Run also what --summary has, and replace its row."
)
flags.DEFINE_enum(
    "backend", "simulated", ["simulated", "cluster"],
    "All workers in this process, or each in one of its own: started here, or "
    "by you with TF_CONFIG set.",
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Runs; says in one line what the user can mend. Returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"These are no flags: {' '.join(argv[1:])}")
    own = flags.FLAGS.get_flags_for_module(sys.modules[__name__])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow takes seconds to import: --helpshort and typing errors in the
    # flags' names do not wait for it.
    with quiet.silent_stderr():
        from experiments import runner

    command = [sys.executable, "-m", "experiments.run"]
    command += [flag.serialize() for flag in own if flag.value is not None]
    try:
        return runner.main({flag.name: flag.value for flag in own}, command)
    except runner.ERRORS as error:
        logging.debug("Where this was found:", exc_info=True)  # --verbosity=1
        print(f"Error: {runner.in_a_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        folder = flags.FLAGS.results_dir
        print(f"Stopped; what was measured is in {folder}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    app.run(main)
