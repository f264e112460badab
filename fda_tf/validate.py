"""Argument validators that several modules share."""

import math
import numbers
from collections.abc import Mapping
from typing import Any


def part(what: str, value: Any, known: Mapping[str, type], base: str) -> Any:
    """Returns the object given, or a new one of a name that is known.

    Args:
      what: kind of object, for messages.
      value: the object, or its name.
      known: name -> its class; all are subclasses of one.
      base: import path of the base class.

    Raises:
      ValueError: for a name that is not known, and what is no such object.
    """
    contract = next(iter(known.values())).__base__
    if isinstance(value, contract):
        return value
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"Unknown {what} {value!r}. Known: {', '.join(known)}; or give an "
            f"object of a subclass of {base}."
        )
    return known[value]()


def count(name: str, value: Any, unit: str) -> int:
    """Returns the value as an int.

    Raises:
      ValueError: unless it is a whole number of at least 1.

    Example:
      >>> count("steps", 3, "steps")
      3
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and value >= 1):
        raise ValueError(
            f"{name}={value!r}: expected a whole number of {unit}, at least 1."
        )
    return int(value)


def seed(name: str, value: Any) -> int:
    """Returns the value as an int.

    Raises:
      ValueError: unless it is a whole number from 0 to 2^31 - 1.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and 0 <= value < 2**31):
        raise ValueError(
            f"{name}={value!r}: expected a whole number from 0 to 2^31 - 1."
        )
    return int(value)


def real(name: str, value: Any, low: float, what: str) -> float:
    """Returns the value as a float.

    Raises:
      ValueError: unless it is a number, not NaN, of at least `low`.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or math.isnan(value) or value < low:
        raise ValueError(f"{name}={value!r}: expected {what}.")
    return float(value)
