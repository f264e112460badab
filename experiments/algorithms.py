"""The algorithms, and the grammar in which a text says one.

    NAME[:PARAMETER=VALUE]...    sketch    linear:theta=auto:check_every=16

NAME is a row of `ALGORITHMS`, which says what it is and which parameters it
takes; `PARAMETERS` says what those are. The command line, sweeps, benchmarks,
RUN_ID and the tests read these two tables. Importing them loads no TensorFlow.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import fda_tf
from experiments.tasks import TASKS

# Of one run: an `experiments.config.Settings`, which is made by these tables.
Settings = Any


def number(text: str) -> float | str:
    """A number, or the text as it is: the name of what finds one."""
    try:
        return float(text)
    except ValueError:
        return text


def yes(text: str | bool) -> bool:
    """True or False, of their texts."""
    if str(text).lower() not in ("true", "false"):
        raise ValueError("expected True or False")
    return str(text).lower() == "true"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What one is: how to read it, what it means, and which values it takes."""

    parse: Callable[[str], Any]
    help: str
    wanted: str = "a whole number of at least 1"
    accepts: Callable[[Any], bool] = lambda v: v >= 1


_RATE = ("a number above 0", lambda v: 0 < v < math.inf)
_BOOL = ("True or False", lambda v: isinstance(v, bool))
PARAMETERS = {
    "theta": Parameter(
        number,
        "FDA: synchronise when the estimated model variance exceeds this "
        "(squared norm of weights, 0 or more), or what finds it: auto, "
        "interval:STEPS, epochs:E, bytes:PER_STEP, fdaopt:E, fl, balanced, hpc",
        "a number of at least 0", lambda v: isinstance(v, str) or v >= 0,
    ),
    "check_every": Parameter(int, "FDA: steps from one check to the next"),
    "max_interval": Parameter(
        int, "FDA: the most steps without a synchronisation"
    ),
    "overlap": Parameter(
        yes, "FDA: send a state while the next step computes", *_BOOL
    ),
    "cascade": Parameter(
        yes, "sketch: send parts of it while they are enough", *_BOOL
    ),
    "sketch_depth": Parameter(
        int, "sketch: rows, an odd number",
        "odd and at least 1", lambda v: v >= 1 and v % 2,
    ),
    "sketch_width": Parameter(
        int, "sketch: numbers in a row, 2 or more",
        "a whole number of at least 2", lambda v: v >= 2,
    ),
    "interval": Parameter(
        int, "local SGD and its kin: steps between synchronisations, or the "
        "first ones, or the least",
    ),
    "local_epochs": Parameter(
        int, "FedAvg and its kin: epochs between synchronisations; fdaopt: the "
        "most of them",
    ),
    "change_every": Parameter(int, "adacomm: steps until H changes"),
    "synchronous_steps": Parameter(int, "post_local: the first steps"),
    "server": Parameter(
        str, "The server's optimizer: sgd, momentum, nesterov, adam, yogi, "
        "adagrad",
        "one of sgd, momentum, nesterov, adam, yogi, adagrad",
        lambda v: v in SERVERS,
    ),
    "server_learning_rate": Parameter(
        float, "Of the server's optimizer", *_RATE
    ),
    "server_momentum": Parameter(
        float, "Of momentum and nesterov", "from 0 to 1", lambda v: 0 <= v <= 1
    ),
    "mu": Parameter(float, "FedProx: of the local loss' new term", *_RATE),
    "compression": Parameter(
        str, "Of what travels: bfloat16, int8, int8:feedback, topk:FRACTION",
        "bfloat16, int8, int8:feedback or topk:FRACTION",
        lambda v: re.fullmatch(r"bfloat16|int8(:feedback)?|topk(:[\d.]+)?", v),
    ),
    "learning_rate": Parameter(
        float, "Of the workers' optimizer: the task's, which is Adam, for "
        "DenseNet SGD with momentum, for ConvNeXtLarge AdamW, or SGD for "
        "fedavgm, fedadam, fedyogi and fdaopt", *_RATE,
    ),
}  # fmt: skip
SERVERS = {  # name -> (learning rate, momentum) -> an optimizer
    "sgd": lambda rate, _: _keras("SGD", rate),
    "momentum": lambda rate, m: _keras("SGD", rate, momentum=m),
    "nesterov": lambda rate, m: _keras("SGD", rate, momentum=m, nesterov=True),
    "adam": lambda rate, _: _keras("Adam", rate),
    "yogi": lambda rate, _: fda_tf.optimizers.Yogi(rate),
    "adagrad": lambda rate, _: _keras("Adagrad", rate),
}


def _keras(name: str, *arguments: float, **options: Any) -> Any:
    import keras

    return getattr(keras.optimizers, name)(*arguments, **options)


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A row of the table.

    Attributes:
        sync: settings -> when to synchronise.
        uses: the parameters that it reads, with their defaults; None stands
            for the task's, or for none.
        server: of `SERVERS`, or None.
        local: the local optimizer, of Keras; None: the task's own.
    """

    sync: Callable[[Settings], Any]
    uses: Mapping[str, object]
    server: str | None = None
    local: str | None = None

    def takes(self, server: str | None = None) -> dict[str, object]:
        """All parameters that it takes, with their defaults."""
        common = dict.fromkeys(("compression", "mu", "server"))
        if server or self.server:
            common |= dict.fromkeys(("server_learning_rate", "server_momentum"))
        return common | dict(self.uses)

    def of_run(self, settings: Settings) -> "fda_tf.Algorithm":
        """Returns a run's own: a server optimizer has slots."""
        server = settings.server or self.server
        momentum = settings.server_momentum
        return fda_tf.Algorithm(
            self.sync(settings),
            server_optimizer=server
            and SERVERS[server](
                settings.server_learning_rate or 1.0,
                0.9 if momentum is None else momentum,
            ),
            compression=_compression(settings.compression),
            statistics=settings.statistics or "average",
        )

    def local_optimizer(self, settings: Settings) -> Any:
        """Returns a worker's optimizer, a new one at each call."""
        rate = settings.learning_rate
        made = (
            _keras(self.local, rate)
            if self.local
            else TASKS[settings.task].optimizer(rate)
        )
        if settings.mu is None:
            return made
        return fda_tf.optimizers.FedProx(made, settings.mu)


def of(settings: Settings) -> "fda_tf.Algorithm":
    """Returns the library's algorithm of a run, a new one at each call."""
    return ALGORITHMS[settings.algorithm].of_run(settings)


def _compression(text: str | None) -> Any:
    name, _, option = (text or "").partition(":")
    if name == "topk" and option:
        return fda_tf.compression.TopK(float(option))
    if name == "int8" and option:
        return fda_tf.compression.Int8(feedback=True)
    return name or None


def schedule(theta: float | str) -> "fda_tf.thetas.ThetaSchedule":
    """Returns the schedule that a value of theta stands for.

    Args:
        theta: a number; auto, fl, balanced, hpc; interval:STEPS, epochs:E,
            bytes:PER_STEP or fdaopt:E.

    Raises:
        ValueError: for what is none of them.

    Example:
        >>> schedule("auto"), schedule("interval:32"), schedule(1.5)
        (Auto(), TargetInterval(steps=32.0), Fixed(theta=1.5))
    """
    thetas = fda_tf.thetas
    schedules = {
        "interval": thetas.TargetInterval,
        "epochs": lambda epochs: thetas.TargetInterval(epochs=epochs),
        "bytes": thetas.TargetBytes,
        "fdaopt": thetas.FdaOpt,
    }
    name, colon, value = str(theta).partition(":")
    if colon and name in schedules:
        try:
            return schedules[name](float(value))
        except ValueError as error:
            raise ValueError(f"--theta={theta}: {error}") from error
    named = ("auto", *thetas.RULES)
    if isinstance(theta, str) and theta not in named:
        known = ", ".join([*named, *(f"{name}:NUMBER" for name in schedules)])
        raise ValueError(
            f"--theta={theta} is neither a number nor known: {known}"
        )
    return thetas.get(theta)


def _threshold(s: Settings, monitor: Any) -> Any:
    options = {
        name: getattr(s, name)
        for name in ("check_every", "max_interval", "overlap")
        if getattr(s, name) is not None
    }
    return fda_tf.VarianceThreshold(schedule(s.theta), monitor, **options)


def _sketch(s: Settings) -> Any:
    monitor = fda_tf.monitors.SketchMonitor(
        s.sketch_depth, s.sketch_width, s.seed, cascade=s.cascade is not False
    )
    return _threshold(s, monitor)


_FDA = dict.fromkeys(("theta", "check_every", "max_interval", "overlap"))


def _fda(monitor: str) -> Algorithm:
    return Algorithm(lambda s: _threshold(s, monitor), _FDA)


def _epochs(s: Settings) -> Any:
    return fda_tf.Every(epochs=s.local_epochs)


def _steps(s: Settings) -> Any:
    return fda_tf.Every(steps=s.interval)


def _fedopt(
    server: str, server_rate: float, rate: float, epochs: int = 1
) -> Algorithm:
    """Local SGD for some epochs, then an optimizer on the pseudo-gradient."""
    uses = {"local_epochs": epochs, "server_learning_rate": server_rate}
    uses["learning_rate"] = rate
    return Algorithm(_epochs, uses, server, "SGD")


def _fdaopt(s: Settings) -> Any:
    rule = fda_tf.thetas.FdaOpt(s.local_epochs)
    each_epoch = fda_tf.Every(epochs=1)
    return fda_tf.VarianceThreshold(rule, "sketch", check_every=each_epoch)


ALGORITHMS = {
    "synchronous": Algorithm(lambda s: fda_tf.Every(steps=1), {}),
    "naive": _fda("naive"),
    "linear": _fda("linear"),
    "sketch": Algorithm(
        _sketch,
        _FDA | {"sketch_depth": 5, "sketch_width": 250, "cascade": None},
    ),
    "max": _fda("max"),
    "exact": _fda("exact"),
    "local_sgd": Algorithm(_steps, {"interval": 10}),
    "fedavg": Algorithm(_epochs, {"local_epochs": 1}),
    # The rates are the paper's, section 4.1; it has no FedYogi: FedAdam's.
    "fedavgm": _fedopt("momentum", 0.316, 0.0316),
    "fedadam": _fedopt("adam", 1e-3, 0.01),
    "fedyogi": _fedopt("yogi", 1e-3, 0.01),
    # Rounds of FDA's length and at most some epochs, then FedAdam's server.
    "fdaopt": dataclasses.replace(
        _fedopt("adam", 1e-3, 0.01, epochs=4), sync=_fdaopt
    ),
    # H of the DiLoCo paper is 500, for runs of 88,000 steps.
    "diloco": Algorithm(
        _steps, {"interval": 50, "server_learning_rate": 0.7}, "nesterov"
    ),
    "qsr": Algorithm(  # at a constant rate: local SGD
        lambda s: fda_tf.policies.QuadraticRule(
            s.learning_rate, s.learning_rate, least=s.interval
        ),
        {"interval": 10},
    ),
    "adacomm": Algorithm(  # longer first rounds, shorter ones later
        lambda s: fda_tf.policies.AdaComm(s.interval, every=s.change_every),
        {"interval": 20, "change_every": 100},
    ),
    "post_local": Algorithm(
        lambda s: fda_tf.policies.PostLocal(s.synchronous_steps, _steps(s)),
        {"interval": 20, "synchronous_steps": 10},
    ),
}


def known(what: str, name: object, names: Any) -> None:
    """Raises a ValueError that lists the known names, unless it is one."""
    if name not in names:
        raise ValueError(f"{what}={name} is unknown; known: {', '.join(names)}")


def check(name: str, value: Any) -> None:
    """Refuses a parameter out of its range; NaN fails every comparison."""
    row = PARAMETERS[name]
    if not row.accepts(value):
        raise ValueError(f"--{name} must be {row.wanted}, got {value}")
    if name == "theta":
        schedule(value)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of an algorithm's text.

    Raises:
        ValueError: an unknown name, a parameter that it does not take, or a
            value that is out of its range.

    Example:
        >>> parse("linear:theta=epochs:2:check_every=16")
        ('linear', {'theta': 'epochs:2', 'check_every': 16})
    """
    name, *words = re.split(r":(?=\w+=)", text)
    known("--algorithm", name, ALGORITHMS)
    given = dict(word.split("=", 1) for word in words)
    takes = ALGORITHMS[name].takes(given.get("server")) | {"learning_rate": 0}
    found = {}
    for key, value in given.items():
        known(f"--algorithm={text}: {name}'s parameter", key, takes)
        try:
            found[key] = PARAMETERS[key].parse(value)
        except ValueError as error:
            raise ValueError(f"--{key}={value}: {error}") from error
        check(key, found[key])
    return name, found
