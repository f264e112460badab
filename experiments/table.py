"""What a person sees at the end: the table and the picture."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box, console
from rich import table as rich_table

from experiments import picture, results, show
from experiments.config import Settings


def report(
    runs: Sequence[tuple[Settings, Mapping[str, Any]]], results_dir: str
) -> None:
    """Prints the table of what it took to reach the target, and where it is.

    Args:
        runs: settings and summary of each run.
        results_dir: has their folders; gets the picture.
    """
    screen = console.Console()
    screen.print(summary_table(runs))
    notes = dict(zip((run for run, _ in runs), _bytes(runs), strict=True))
    curves = [
        picture.Curve(run.algorithm, results.read_metrics(folder), notes[run])
        for run, _ in runs
        if (folder := pathlib.Path(results_dir) / run.run_id).is_dir()
    ]
    settings = runs[0][0]
    path = pathlib.Path(results_dir) / (
        f"{settings.task}-K{settings.workers}-seed{settings.seed}.png"
    )
    lines = [f"Results  {pathlib.Path(results_dir)}/RUN_ID/"]
    if any(curve.points for curve in curves):
        picture.draw(curves, settings.target_accuracy, _title(settings), path)
        lines.append(f"Picture  {path}")
    for line in lines:
        screen.print(line, soft_wrap=True, highlight=False, markup=False)


def summary_table(
    runs: Sequence[tuple[Settings, Mapping[str, Any]]],
) -> rich_table.Table:
    """A line per run: what it took to pass the target.

    Args:
        runs: settings and summary of each run.
    """
    settings = runs[0][0]
    shown = rich_table.Table(
        box=box.SIMPLE_HEAD,
        title=f"{_title(settings)}, to accuracy {settings.target_accuracy:g}",
        caption="sent: states and models of all workers, as the paper counts",
    )
    shown.add_column("algorithm", no_wrap=True)
    for heading in ("accuracy", "steps", "syncs"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("sent", no_wrap=True)
    for (run, summary), sent in zip(runs, _bytes(runs), strict=True):
        shown.add_row(
            run.algorithm,
            f"{summary['best_accuracy']:.4f}",
            *(
                "" if summary[key] is None else str(summary[key])
                for key in ("steps_to_target", "syncs_to_target")
            ),
            sent,
        )
    return shown


def _title(settings: Settings) -> str:
    return f"{settings.task}, {settings.workers} workers, {settings.split}"


def _bytes(runs: Sequence[tuple[Settings, Mapping[str, Any]]]) -> list[str]:
    """What each run sent to the target, and how many times less than
    synchronous training did.
    """
    sent = [summary["bytes_to_target"] for _, summary in runs]
    names = [run.algorithm for run, _ in runs]
    base = dict(zip(names, sent, strict=True)).get("synchronous")
    texts = []
    for name, count in zip(names, sent, strict=True):
        text = (
            "target not reached"
            if count is None
            else show.readable_bytes(count)
        )
        if count and base and name != "synchronous":
            text += f", {base / count:.3g}\u00d7 fewer"
        texts.append(text)
    return texts
