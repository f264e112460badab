"""What the parts of an algorithm have in common: they describe themselves."""

import inspect
from typing import Any

import keras

from fda_tf.processes import agreement


class Part:
    """Base of policies, monitors, theta schedules, compressions and guards."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal part, by name.

        By default the attributes named as the constructor's parameters. What
        is compared over the workers, and with a checkpoint, is this and no
        more.

        Raises:
          ValueError: for a parameter without such an attribute.

        Example:
          >>> class Growth(Part):
          ...     def __init__(self, rate, limit=None):
          ...         self.rate, self.limit, self._step = rate, limit, 7
          >>> Growth(0.2).get_config()
          {'rate': 0.2, 'limit': None}
        """
        config = {}
        for name in inspect.signature(type(self)).parameters:
            if not hasattr(self, name):
                raise ValueError(
                    f"{type(self).__name__} takes {name!r} and has no "
                    "attribute of this name, so that workers and checkpoints "
                    f"cannot be compared. Keep it as self.{name}, or define "
                    "get_config()."
                )
            config[name] = getattr(self, name)
        return config

    def __repr__(self) -> str:
        config = {k: v for k, v in self.get_config().items() if v is not None}
        settings = ", ".join(f"{k}={_shown(v)}" for k, v in config.items())
        return f"{type(self).__name__}({settings})"


def _shown(value: Any) -> str:
    """Returns a value as a message shows it; of Keras' what it is set to."""
    if isinstance(value, Part) or not hasattr(value, "get_config"):
        return repr(value)
    (name, config), *_ = agreement.plain(value).items()
    settings = ", ".join(f"{k}={v!r}" for k, v in (config or {}).items())
    return f"{name}({settings})"


def describe(value: Any) -> Any:
    """Returns what a part or a setting is, as JSON has it.

    Args:
      value: a part, an object of Keras', a number, a text, None or bool.

    Example:
      >>> from fda_tf import Every
      >>> describe(Every(steps=4))
      {'class_name': 'Every', 'config': {'steps': 4, 'epochs': None}}
    """
    if isinstance(value, Part):
        config = {k: describe(v) for k, v in value.get_config().items()}
        return {"class_name": type(value).__name__, "config": config}
    if isinstance(value, (keras.optimizers.Optimizer, Schedule)):
        (name, config), *_ = agreement.plain(value).items()
        return {"class_name": name, "config": config}
    return agreement.plain(value)


Schedule = keras.optimizers.schedules.LearningRateSchedule


def flatten(name: str, described: Any) -> dict[str, Any]:
    """Returns what `describe` returned as one setting for each number.

    Args:
      name: of the whole.
      described: a number or text, or a dict of "class_name" and "config".

    Example:
      >>> from fda_tf import Every
      >>> flatten("sync", describe(Every(steps=4)))
      {'sync': 'Every', 'sync.steps': 4, 'sync.epochs': None}
    """
    if not isinstance(described, dict) or "class_name" not in described:
        return {name: described}
    flat = {name: described["class_name"]}
    config = described["config"]
    if not isinstance(config, dict):  # Keras' own does not tell
        return flat
    for key, value in config.items():
        flat |= flatten(f"{name}.{key}", value)
    return flat
