"""What a person sees while training: a line and a bar per run.

On a terminal they are drawn again and again; elsewhere (a file, a cluster's
log) there is a plain line now and then.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box, console, live, progress_bar, table

from experiments import config, results
from experiments.config import Settings

PLAIN_SECONDS = 5.0  # between two plain lines


class Progress:
    """Says nothing: for the workers of a cluster that are not its chief.

    `start` is called as a run begins, which takes so many steps at most;
    `update` with the library's rows of evaluations and of progress; `finish`
    with its summary.
    """

    def __init__(self, runs: Sequence[Settings] = ()):
        self._names = dict(zip(runs, config.names(runs), strict=True))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        pass

    def start(self, settings: Settings, steps: int) -> None:
        pass

    def update(self, row: Mapping[str, Any]) -> None:
        pass

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass


class PlainProgress(Progress):
    """A line when a run begins, when it ends, and now and then between."""

    def __init__(self, screen: console.Console, runs: Sequence[Settings]):
        super().__init__(runs)
        self._screen, self._run, self._next = screen, runs[0], 0.0
        self._row: dict[str, Any] = {}

    def start(self, settings, steps):
        self._run, self._row = settings, {}
        self._next = time.monotonic() + PLAIN_SECONDS
        self._say(f"up to {steps} steps; the first are compiled now")

    def update(self, row):
        self._row |= row
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_SECONDS
            self._say(self._state())

    def finish(self, summary):
        ends = "reached the target" if summary["reached"] else "ended"
        self._say(f"{ends} after {summary['seconds']:.0f} s; {self._state()}")

    def _state(self) -> str:
        cells = _cells(self._run.algorithm, self._row)
        found = zip(_HEADINGS, cells, strict=True)
        return ", ".join(f"{name} {cell}" for name, cell in found if cell)

    def _say(self, text: str) -> None:
        line = f"{self._names[self._run]}: {text}"
        self._screen.print(line, soft_wrap=True, highlight=False, markup=False)


class LiveProgress(Progress):
    """A table that is drawn again and again: a line and a bar per run."""

    def __init__(self, screen: console.Console, runs: Sequence[Settings]):
        super().__init__(runs)
        self._rows: list[dict[str, Any]] = [{} for _ in runs]
        self._bars = [
            progress_bar.ProgressBar(
                total=1, width=10, complete_style="blue", finished_style="green"
            )
            for _ in runs
        ]
        self._now = -1
        self._live = live.Live(
            get_renderable=self._draw, console=screen, refresh_per_second=8
        )

    def __enter__(self):
        self._live.start()
        return self

    def __exit__(self, *_):
        self._live.stop()

    def start(self, settings, steps):
        self._now += 1
        self._bars[self._now].update(0, steps)

    def update(self, row):
        self._rows[self._now] |= row
        self._bars[self._now].update(row["step"])

    def finish(self, summary):
        bar = self._bars[self._now]
        bar.update(bar.total)

    def _draw(self) -> table.Table:
        shown = table.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        shown.add_column("algorithm", no_wrap=True)
        shown.add_column("")
        for heading in _HEADINGS:
            width = 9 if heading == "accuracy" else 7  # "compiling", "999 MB"
            shown.add_column(
                heading, justify="right", no_wrap=True, min_width=width
            )
        for i, (run, name) in enumerate(self._names.items()):
            cells = _cells(run.algorithm, self._rows[i])
            if i == self._now and not self._rows[i]:
                cells[1] = "compiling"
            shown.add_row(name, self._bars[i], *cells)
        return shown


_HEADINGS = ("step", "accuracy", "variance/theta", "syncs", "sent")


def _cells(algorithm: str, row: Mapping[str, Any]) -> list[str]:
    """A row of the library under `_HEADINGS`; empty where nothing is known."""
    if not row:
        return [""] * len(_HEADINGS)
    accuracy, variance = row.get("val_accuracy"), row["variance"]
    if math.isnan(variance):
        against = ""
    elif algorithm == "max":  # it knows no variance, only who exceeds theta
        against = f"{variance:.0%}>{row['theta']:g}"
    else:
        against = f"{variance:.2f}/{row['theta']:.4g}"
    return [
        str(row["step"]),
        "" if accuracy is None else f"{accuracy:.4f}",
        against,
        str(row["syncs"]),
        readable_bytes(results.sent_bytes(row)),
    ]


def progress(runs: Sequence[Settings], chief: bool) -> Progress:
    """The view that fits: none, plain lines, or a live table."""
    if not chief or not runs:
        return Progress()
    screen = console.Console()
    kind = LiveProgress if screen.is_terminal else PlainProgress
    return kind(screen, runs)


def restore_cursor() -> None:
    """Shows the terminal's cursor: a live table that was killed left it so."""
    console.Console().show_cursor()


def readable_bytes(count: float) -> str:
    """A number of bytes with three digits and a unit of powers of 1,000.

    Example:
        >>> readable_bytes(0), readable_bytes(61_706), readable_bytes(5.55e9)
        ('0 B', '61.7 kB', '5.55 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
