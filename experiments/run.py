"""Trains a model on workers that rarely talk, and shows what that saves.

Without flags: LeNet-5 on 5,000 MNIST images, on 5 simulated workers, by
synchronous training and by Federated Dynamic Averaging with the linear and
the sketch monitor, to the same test accuracy. It takes about a minute.

Each run writes RESULTS_DIR/RUN_ID/ with config.json, metrics.csv, syncs.csv
and summary.json. Ctrl-C leaves there what was measured until then.

  python -m experiments.run
  python -m experiments.run --task=lenet5_mnist --algorithm=sketch --theta=2
  python -m experiments.run --algorithm=linear:theta=auto:check_every=16,fedavg
  python -m experiments.run --backend=cluster --workers=4
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from absl import app, flags, logging

from experiments import algorithms, config, quiet
from experiments.tasks import TASKS


def _each(name: str) -> str:
    """The default that each task and each algorithm has, if they have one."""
    texts = []
    found = [(getattr(task, name, None), task.name) for task in TASKS.values()]
    if found[0][0] is not None:
        words = ", ".join(f"{value:g} for {task}" for value, task in found)
        texts.append(f"default: the task's, {words}")
    own: dict[Any, list[str]] = {}
    for algorithm, row in algorithms.ALGORITHMS.items():
        if row.uses.get(name) is not None:
            own.setdefault(row.uses[name], []).append(algorithm)
    if own:
        each = [f"{v:g} for {', '.join(who)}" for v, who in own.items()]
        texts.append(f"default: {', '.join(each)}")
    return f" ({'; '.join(texts)})." if texts else "."


class _Value(flags.ArgumentParser):
    """Of a flag that is a parameter of algorithms."""

    def __init__(self, parse):
        self.parse, self.syntactic_help = parse, ""


_DEFAULTS = config.DEFAULTS
# How to define a flag, its name, its help, the values that it may have.
_FLAGS = (
    (
        flags.DEFINE_string, "task", "Model and data, one of "
        f"{', '.join(TASKS)}; the data of the first ships with the project.",
    ),
    (
        flags.DEFINE_list, "algorithm",
        "One or more, by commas, trained in turn: NAME or "
        "NAME:PARAMETER=VALUE:..., such as sketch:theta=2. Names: "
        f"{', '.join(algorithms.ALGORITHMS)} (naive to exact: FDA by that "
        "monitor); parameters: the flags of their names, which hold for all "
        "that do not say another.",
    ),
    (flags.DEFINE_integer, "workers", "K, 1 or more."),
    (
        flags.DEFINE_string, "split", "Who has which data: iid, "
        "sorted:FRACTION, label:LABEL[,LABEL], dirichlet:ALPHA, sizes:ALPHA, "
        "shards:PER_WORKER or natural (default: iid; natural for cnn_femnist).",
    ),
    (
        flags.DEFINE_integer, "epochs", "Passes over all training data at "
        "most; the model is evaluated after each" + _each("epochs"),
    ),
    (
        flags.DEFINE_integer, "steps",
        "Steps at most, if fewer; all workers do one each.",
    ),
    (
        flags.DEFINE_float, "target_accuracy",
        "Test accuracy to pass, between 0 and 1" + _each("target_accuracy"),
    ),
    (flags.DEFINE_boolean, "stop", "End a run when it passes the target."),
    (
        flags.DEFINE_integer, "seed",
        "Of the weights, the order of data, the split.",
    ),
    (
        flags.DEFINE_integer, "batch_size",
        "Samples per worker and step (default: 32).",
    ),
    (
        flags.DEFINE_enum, "sampling", "Batches: shuffled passes over a "
        "worker's data, or independent draws as in the paper's simulator.",
        config.SAMPLINGS,
    ),
    (
        flags.DEFINE_enum, "weights", "What convnext_large_cifar100 begins "
        "with (default: imagenet); none: train it from scratch.",
        config.WEIGHTS,
    ),
    (
        flags.DEFINE_enum, "statistics", "What BatchNorm's statistics do at a "
        "synchronisation (default, for the DenseNets: local, as in the paper).",
        config.STATISTICS,
    ),
    (
        flags.DEFINE_enum, "backend", "All workers in this process, or each "
        "in one of its own: started here, or by you with TF_CONFIG set.",
        config.BACKENDS,
    ),
    (
        flags.DEFINE_string, "data_dir", "Folder with NAME.npz of the data "
        "set, the only place where it is then looked for (default: what ships "
        "with the project, the caches of TFDS and Keras, then a download).",
    ),
    (flags.DEFINE_string, "results_dir", "Folder for a folder per run."),
    (
        flags.DEFINE_string, "summary", "File of JSON lines that gets one per "
        "finished run; runs that have one are left out.",
    ),
    (flags.DEFINE_boolean, "picture", "Draw accuracy against bytes, at last."),
    (
        flags.DEFINE_boolean, "overwrite",
        "Run also what --summary has; its line then counts.",
    ),
)  # fmt: skip
_OWN = {"results_dir": "results", "picture": True, "overwrite": False}
for _define, _name, _help, *_values in _FLAGS:
    _default = (_DEFAULTS | _OWN).get(_name)
    _define(_name, _default, *_values, _help)
for _name, _row in algorithms.PARAMETERS.items():
    _help = _row.help + _each(_name)
    if _row.parse is algorithms.yes:
        flags.DEFINE_boolean(_name, None, _help)
    else:
        _serializer = flags.ArgumentSerializer()
        flags.DEFINE(
            _Value(_row.parse), _name, None, _help, serializer=_serializer
        )


def own_flags() -> Mapping[str, flags.Flag]:
    """The flags of this command, by name."""
    own = flags.FLAGS.get_flags_for_module(sys.modules[__name__])
    return {flag.name: flag for flag in own}


def main(argv: list[str]) -> int:
    """Runs; says in one line what the user can mend. Returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"These are no flags: {' '.join(argv[1:])}")
    own = own_flags()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow takes seconds to import: --helpshort and typing errors in the
    # flags' names do not wait for it.
    with quiet.silent_stderr():
        from experiments import runner

    command = [sys.executable, "-m", "experiments.run"]
    command += [f.serialize() for f in own.values() if f.value is not None]
    try:
        return runner.main({n: f.value for n, f in own.items()}, command)
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
