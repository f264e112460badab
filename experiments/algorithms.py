"""The algorithms: each is a choice of when and how to synchronise.

`ALGORITHMS` is the only table; the command line, RUN_ID and the tests read it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

import fda_tf
from experiments import tasks

Optimizer = keras.optimizers.Optimizer
# Of one run: an `experiments.config.Settings`, which is made by this table.
Settings = Any


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A row of the table.

    Attributes:
        sync: settings -> when to synchronise.
        uses: the settings that it reads, with their defaults; None stands for
            the task's.
        server: settings -> the server's optimizer, or None.
        optimizer: learning rate -> local optimizer; None: the task's own.
    """

    sync: Callable[[Settings], object]
    uses: Mapping[str, object]
    server: Callable[[Settings], object] = lambda s: None
    optimizer: Callable[[float], Optimizer] | None = None

    def of_run(self, settings: Settings) -> fda_tf.Algorithm:
        """Returns a run's own: a server optimizer has slots."""
        return fda_tf.Algorithm(
            self.sync(settings),
            server_optimizer=self.server(settings),
            statistics=settings.statistics or "average",
        )

    def local_optimizer(self, settings: Settings) -> Optimizer:
        """Returns a worker's optimizer, a new one at each call."""
        make = self.optimizer or tasks.TASKS[settings.task].optimizer
        return make(settings.learning_rate)


NAMED = ("auto", *fda_tf.thetas.RULES)
# Those that take a number, as in "epochs:2".
_SCHEDULES = {
    "interval": fda_tf.thetas.TargetInterval,
    "epochs": lambda epochs: fda_tf.thetas.TargetInterval(epochs=epochs),
    "bytes": fda_tf.thetas.TargetBytes,
    "fdaopt": fda_tf.thetas.FdaOpt,
}


def schedule(theta: float | str) -> fda_tf.thetas.ThetaSchedule:
    """Returns the schedule that a value of --theta stands for.

    Args:
        theta: a number; auto, fl, balanced, hpc; interval:STEPS, epochs:E,
            bytes:PER_STEP or fdaopt:E.

    Raises:
        ValueError: for what is none of them.

    Example:
        >>> schedule("auto"), schedule("interval:32"), schedule(1.5)
        (Auto(), TargetInterval(steps=32.0), Fixed(theta=1.5))
    """
    name, colon, number = str(theta).partition(":")
    if colon and name in _SCHEDULES:
        try:
            return _SCHEDULES[name](float(number))
        except ValueError as error:
            raise ValueError(f"--theta={theta}: {error}") from error
    if isinstance(theta, str) and theta not in NAMED:
        known = [*NAMED, *(f"{name}:NUMBER" for name in _SCHEDULES)]
        raise ValueError(
            f"--theta={theta} is neither a number nor known: {', '.join(known)}"
        )
    return fda_tf.thetas.get(theta)


def _fda(monitor: str) -> Algorithm:
    return Algorithm(
        lambda s: fda_tf.VarianceThreshold(schedule(s.theta), monitor),
        {"theta": None},
    )


def _sketch(s: Settings) -> object:
    monitor = fda_tf.monitors.SketchMonitor(
        s.sketch_depth, s.sketch_width, s.seed
    )
    return fda_tf.VarianceThreshold(schedule(s.theta), monitor)


def _each_epochs(s: Settings) -> object:
    return fda_tf.Every(epochs=s.local_epochs)


def _fedopt(
    optimizer: Callable[[float], Optimizer],
    server_rate: float,
    local_rate: float,
    local_epochs: int = 1,
) -> Algorithm:
    """Local SGD for some epochs, then an optimizer on the pseudo-gradient."""
    return Algorithm(
        _each_epochs,
        {
            "local_epochs": local_epochs,
            "server_learning_rate": server_rate,
            "learning_rate": local_rate,
        },
        lambda s: optimizer(s.server_learning_rate),
        keras.optimizers.SGD,
    )


def _fdaopt(s: Settings) -> object:
    rule = fda_tf.thetas.FdaOpt(s.local_epochs)
    each_epoch = fda_tf.Every(epochs=1)
    return fda_tf.VarianceThreshold(rule, "sketch", check_every=each_epoch)


ALGORITHMS = {
    "synchronous": Algorithm(lambda s: fda_tf.Every(steps=1), {}),
    "naive": _fda("naive"),
    "linear": _fda("linear"),
    "sketch": Algorithm(
        _sketch, {"theta": None, "sketch_depth": 5, "sketch_width": 250}
    ),
    "max": _fda("max"),
    "exact": _fda("exact"),
    "local_sgd": Algorithm(
        lambda s: fda_tf.Every(steps=s.interval), {"interval": 10}
    ),
    "fedavg": Algorithm(_each_epochs, {"local_epochs": 1}),
    # The rates are the paper's, section 4.1; it has no FedYogi: FedAdam's.
    "fedavgm": _fedopt(
        functools.partial(keras.optimizers.SGD, momentum=0.9), 0.316, 0.0316
    ),
    "fedadam": _fedopt(keras.optimizers.Adam, 1e-3, 0.01),
    "fedyogi": _fedopt(fda_tf.optimizers.Yogi, 1e-3, 0.01),
    # Rounds of FDA's length and at most some epochs, then FedAdam's server.
    "fdaopt": dataclasses.replace(
        _fedopt(keras.optimizers.Adam, 1e-3, 0.01, local_epochs=4),
        sync=_fdaopt,
    ),
    # H of the DiLoCo paper is 500, for runs of 88,000 steps.
    "diloco": Algorithm(
        lambda s: fda_tf.Every(steps=s.interval),
        {"interval": 50, "server_learning_rate": 0.7},
        lambda s: keras.optimizers.SGD(
            s.server_learning_rate, momentum=0.9, nesterov=True
        ),
    ),
}
