"""Whether what was compiled for one algorithm serves another."""

from fractions import Fraction
from typing import Any

from keras.optimizers.schedules import LearningRateSchedule as Schedule

PLAIN = (bool, int, float, str, Fraction, type(None))


def settings(*parts: Any) -> Any:
    """Returns what parts of an algorithm are set to, to be compared by `==`.

    Parts are equal if they are of one class of ours, set alike, and not built
    yet. What a class of the user's holds nobody knows, and variables, such as
    a server optimizer's rate, are set from outside: they are equal to nothing.

    Example:
      >>> from fda_tf import LinearMonitor, VarianceThreshold
      >>> settings(VarianceThreshold(1.5, LinearMonitor())) == settings(
      ...     VarianceThreshold(1.5, LinearMonitor()))
      True
      >>> settings(VarianceThreshold(1.5, LinearMonitor())) == settings(
      ...     VarianceThreshold(1.5, LinearMonitor(seed=1)))
      False
      >>> settings(object()) == settings(object())
      False
    """
    return [_settings(part) for part in parts]


def _settings(part: Any) -> Any:
    kind = type(part)
    package = kind.__module__.split(".")[0]
    if kind in PLAIN:
        return kind, part
    if kind in (list, tuple):
        return kind, settings(*part)
    if package == "keras" and isinstance(part, Schedule):
        return kind, repr(part.get_config())
    if package == "fda_tf" and hasattr(part, "__dict__"):
        names, values = vars(part).keys(), vars(part).values()
        return kind, list(names), settings(*values)
    return object()
