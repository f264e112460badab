"""What a person sees at the end: the table and the picture."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box, console
from rich import table as rich_table

from experiments import config, picture, results, show
from experiments.config import Settings
from experiments.tasks import TASKS

Runs = Sequence[tuple[Settings, Mapping[str, Any]]]


def report(runs: Runs, results_dir: str) -> None:
    """Prints what it took to pass the target, and where the results are.

    Args:
        runs: settings and summary of each run.
        results_dir: has their folders; gets the picture.
    """
    screen = console.Console()
    folder, settings = pathlib.Path(results_dir), runs[0][0]
    drawn = draw(runs, folder)
    parts = [
        f"\n{_title(settings)}, to test accuracy {settings.target_accuracy:g}",
        summary_table(runs),
        "sent: states and models of all workers, counted as in the paper",
        f"results: {folder}/RUN_ID/",
        f"picture: {drawn}" if drawn else "picture: none, no run has metrics",
    ]
    for part in parts:
        screen.print(part, soft_wrap=True, highlight=False, markup=False)


def draw(runs: Runs, folder: pathlib.Path) -> pathlib.Path | None:
    """Draws the runs whose folders are there; returns the picture's path."""
    settings = runs[0][0]
    curves = [
        picture.Curve(
            run.algorithm, results.read_metrics(folder / run.run_id), text
        )
        for (run, _), text in zip(runs, sent(runs), strict=True)
    ]
    if not any(curve.points for curve in curves):
        return None
    path = folder / (
        f"{settings.task}-K{settings.workers}-{config.short(settings.split)}"
        f"-seed{settings.seed}-{settings.backend}.png"
    )
    picture.draw(curves, settings.target_accuracy, _title(settings), path)
    return path


def summary_table(runs: Runs) -> rich_table.Table:
    """A line per run: what it took to pass the target.

    Args:
        runs: settings and summary of each run.
    """
    shown = rich_table.Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    shown.add_column("algorithm", no_wrap=True)
    for heading in ("accuracy", "steps", "syncs"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("sent", no_wrap=True)
    for (run, summary), text in zip(runs, sent(runs), strict=True):
        reached = [summary["steps_to_target"], summary["syncs_to_target"]]
        shown.add_row(
            run.algorithm,
            f"{summary['best_accuracy']:.4f}",
            *("" if count is None else str(count) for count in reached),
            text,
        )
    return shown


def _title(settings: Settings) -> str:
    title = TASKS[settings.task].title
    return f"{title}, {settings.workers} workers, {settings.split}"


def sent(runs: Runs) -> list[str]:
    """What each run sent to the target, and how many times less than
    synchronous training did.
    """
    counts = [summary["bytes_to_target"] for _, summary in runs]
    names = [run.algorithm for run, _ in runs]
    base = dict(zip(names, counts, strict=True)).get("synchronous")
    texts = []
    for name, count in zip(names, counts, strict=True):
        text = "not reached"
        if count is not None:
            text = show.readable_bytes(count)
        if count and base and name != "synchronous":
            text += f", {base / count:.3g}\u00d7 fewer"
        texts.append(text)
    return texts
