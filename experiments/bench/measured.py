"""What all benchmarks share: flags, pairs of blocks, their ratio, tables.

Identical code varies by 40 % on a shared machine from minute to minute. So ours
and what it is compared with run in turn, block by block, and only the ratio of
neighbours is a figure: `in_turn` runs them, `ratio` makes the figure.
"""

import argparse
import json
import math
import random
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from experiments import processes, provenance

Cost = TypeVar("Cost")


def in_turn(
    blocks: Mapping[str, Callable[[], Cost]],
    base: str,
    repeats: int,
    seed: int = 0,
) -> dict[str, list[tuple[Cost, Cost]]]:
    """Runs a block of the base and one of another, of each, again and again."""
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
      ValueError: for a name that is not known; it lists those that are.
    """
    unknown = set(given or ()) - set(known)
    if unknown:
        raise ValueError(
            f"--{flag}: received {'; '.join(sorted(unknown))}. Expected some "
            f"of: {'; '.join(known)}."
        )
    return list(given or known)


def show(
    rows: Sequence[Mapping],
    columns: Sequence[str],
    about: Any = None,
    **more: Any,
) -> None:
    """Prints a table, and all that was measured as JSON on the last line."""
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
    found = {
        "command": command,
        "rows": list(rows),
        **(vars(about) if about else {}),
    }
    print(json.dumps(found | more | {"machine": provenance.machine()}))


def command(main: Callable[[argparse.Namespace], None], **flags: Any) -> None:
    """Runs a benchmark: main gets the values of its flags, by name.

    Each flag is (default, help). A default that is a list is read from one
    text with commas, a tuple from a flag that may be given again and again,
    False is a flag without a value, and a type stands for no default. With a
    third part, the value is one of these; or it is "needed".
    """
    about = sys.modules[main.__module__].__doc__
    parser = argparse.ArgumentParser(
        prog=f"python -m {processes.module_of(main)}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, (default, words, *more) in flags.items():
        options: dict[str, Any] = {"help": words}
        if default is False:
            options |= {"action": "store_true"}
        elif isinstance(default, list):
            options |= {"type": _texts, "default": default}
        elif isinstance(default, tuple):
            options |= {"action": "append", "default": None}
        elif isinstance(default, type):
            options |= {"type": default}
        else:
            options |= {"type": type(default), "default": default}
        if more:
            options |= (
                {"required": True}
                if more == ["needed"]
                else {"choices": list(more[0])}
            )
        parser.add_argument(f"--{name}", **options)
    try:
        main(parser.parse_args())
    except ValueError as error:
        sys.exit(f"Error: {error}")


def _texts(text: str) -> list[str]:
    return text.split(",") if text else []


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return " to ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
