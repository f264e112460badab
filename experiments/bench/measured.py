"""What all benchmarks share: pairs of blocks, their ratio, the machine, tables.

Identical code varies by 40 % on a shared machine from minute to minute. So ours
and what it is compared with run in turn, block by block, and only the ratio of
neighbours is a figure: `in_turn` runs them, `ratio` makes the figure.
"""

import json
import math
import os
import platform
import random
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import TypeVar

from absl import app

Cost = TypeVar("Cost")


def in_turn(
    blocks: Mapping[str, Callable[[], Cost]],
    base: str,
    repeats: int,
    seed: int = 0,
) -> dict[str, list[tuple[Cost, Cost]]]:
    """Runs a block of the base and one of another, of each, again and again.

    Args:
      blocks: name -> runs a block, and returns its cost: seconds, or several
        numbers.
      base: the name of the one that the others are compared with.
      repeats: pairs of each.
      seed: of the order, which is another in each repeat.

    Returns:
      Name -> (its own, the base's) of each repeat; for all but the base.
    """
    others = [name for name in blocks if name != base]
    pairs: dict[str, list] = {name: [] for name in others}
    order = random.Random(seed)
    for _ in range(repeats):
        for name in order.sample(others, len(others)):
            first, second = order.sample([name, base], 2)
            cost = {first: blocks[first]()}
            cost[second] = blocks[second]()
            pairs[name].append((cost[name], cost[base]))
    return pairs


def ratio(pairs: Sequence[tuple[float, float]]) -> dict:
    """Returns the figure of pairs: {"ratio", "interval", "pairs"}.

    The ratio is the median of ours / theirs; see `spread` for the interval.

    Example:
      >>> ratio([(2.0, 1.0), (3.0, 2.0), (8.0, 2.0)])
      {'ratio': 2.0, 'interval': [1.5, 4.0], 'pairs': 3}
    """
    middle, interval = spread([ours / theirs for ours, theirs in pairs])
    return {"ratio": middle, "interval": interval, "pairs": len(pairs)}


def spread(values: Sequence[float]) -> tuple[float, list[float]]:
    """Returns (median, [low, high]): the median's interval by order statistics.

    The true median is within it with a chance of at least 95 %, whatever the
    distribution: it leaves out at each end as many values as n tosses of a fair
    coin give of heads, or fewer, with a chance of 2.5 % (three of 15). Up to 5
    values, it is the least and the greatest, with less.

    Example:
      >>> spread([3.0, 1.0, 2.0])
      (2.0, [1.0, 3.0])
      >>> spread(range(15))[1]
      [3, 11]
    """
    ordered, n = sorted(values), len(values)
    below, out = 0.5**n, 0
    while out + 1 < (n + 1) // 2:
        below += math.comb(n, out + 1) * 0.5**n
        if below > 0.025:
            break
        out += 1
    return statistics.median(ordered), [ordered[out], ordered[-1 - out]]


def chosen(flag: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    """Returns the parts of a benchmark that a flag names: all if it has none.

    Raises:
      UsageError: for a name that is not known; it lists those that are.
    """
    unknown = set(given or ()) - set(known)
    if unknown:
        raise app.UsageError(
            f"--{flag}: received {'; '.join(sorted(unknown))}. Expected some "
            f"of: {'; '.join(known)}."
        )
    return list(given or known)


def machine() -> dict:
    """Returns what the figures were measured on."""
    name = platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
        name = lines[0].split(":")[1].strip() if lines else name
    return {
        "processor": name,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{lib: metadata.version(lib) for lib in ("tensorflow", "keras")},
    }


def show(
    rows: Sequence[Mapping], columns: Sequence[str], about: Mapping
) -> None:
    """Prints a table, and all that was measured as JSON on the last line.

    Args:
      rows: one figure each; what is not in `columns` is in the JSON only.
      columns: keys of the rows, in the table's order.
      about: the settings of the measurement; the command and the machine are
        added.
    """
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [
        max(map(len, column)) for column in zip(columns, *cells, strict=True)
    ]
    for line in ([*columns], *cells):
        aligned = zip(line, widths, strict=True)
        print("  ".join(cell.rjust(width) for cell, width in aligned))
    # What `python -m` was given; it made of it the path of a file.
    name = getattr(sys.modules["__main__"].__spec__, "name", sys.argv[0])
    command = shlex.join([name, *sys.argv[1:]])
    found = {"command": command, "rows": list(rows), **about}
    print(json.dumps(found | {"machine": machine()}))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return " to ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
