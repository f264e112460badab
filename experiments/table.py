"""What a person sees at the end: the table and the picture."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box, console
from rich import table as rich_table

from experiments import config, picture, results, show, style
from experiments.config import Settings
from experiments.tasks import TASKS

Runs = Sequence[tuple[Settings, Mapping[str, Any]]]


def report(runs: Runs, results_dir: str, with_picture: bool = True) -> None:
    """Prints what it took to pass the target, and where the results are."""
    screen = console.Console()
    folder, settings = pathlib.Path(results_dir), runs[0][0]
    parts = [
        f"\n{_title(settings)}, to test accuracy {settings.target_accuracy:g}",
        summary_table(runs),
        "sent: states and models of all workers, by the paper's formulas; "
        "SketchFDA's cascade sends less (metrics.csv)",
        *_folders(runs, folder),
    ]
    if with_picture:
        drawn = draw(runs, folder)
        parts.append(
            f"picture: {drawn or 'none, no run here has sent anything'}"
        )
    for part in parts:
        screen.print(part, soft_wrap=True, highlight=False, markup=False)


def _folders(runs: Runs, folder: pathlib.Path) -> list[str]:
    """The lines that say where the results are."""
    paths = [folder / run.run_id for run, _ in runs]
    # --summary may know runs whose folders are elsewhere.
    there = [f"{path}/" for path in paths if path.is_dir()]
    if len(there) < 2:
        return [f"results: {''.join(there) or 'only in --summary'}"]
    return ["results:", *(f"  {path}" for path in there)]


def draw(runs: Runs, folder: pathlib.Path) -> pathlib.Path | None:
    """Draws the runs whose folders are there; returns the picture's path."""
    settings = runs[0][0]
    curves = [
        picture.Curve(
            run.algorithm,
            results.read_metrics(folder / run.run_id),
            f"{style.name_of(name, run.algorithm)}\n{text}",
        )
        for (run, _), name, text in zip(
            runs, _names(runs), sent(runs), strict=True
        )
    ]
    if not any(len(curve.points()) for curve in curves):
        return None
    path = folder / picture_name([run for run, _ in runs])
    picture.draw(curves, settings.target_accuracy, _title(settings), path)
    return path


def picture_name(runs: Sequence[Settings]) -> str:
    """Readable, and different for all sets of runs: it ends in their hash."""
    settings, ids = runs[0], "\n".join(run.run_id for run in runs)
    return (
        f"{settings.task}-K{settings.workers}-{config.short(settings.split)}"
        f"-seed{settings.seed}-{settings.backend}"
        f"-{hashlib.sha256(ids.encode()).hexdigest()[:8]}.png"
    )


def summary_table(runs: Runs) -> rich_table.Table:
    """A line per run: what it took to pass the target, or all that it took."""
    shown = rich_table.Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    shown.add_column("algorithm", no_wrap=True)
    for heading in ("accuracy", "steps", "syncs"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("sent", no_wrap=True)
    rows = zip(runs, _names(runs), sent(runs), strict=True)
    for (_, summary), name, text in rows:
        end = "_to_target" if summary["reached"] else ""
        shown.add_row(
            name,
            f"{summary['best_accuracy']:.4f}",
            str(summary[f"steps{end}"]),
            str(summary[f"syncs{end}"]),
            text,
        )
    return shown


def _names(runs: Runs) -> list[str]:
    return config.names(run for run, _ in runs)


def _title(settings: Settings) -> str:
    title = TASKS[settings.task].title
    plural = "s" if settings.workers > 1 else ""
    return f"{title}, {settings.workers} worker{plural}, {settings.split}"


def sent(runs: Runs) -> list[str]:
    """What each run sent to the target, and how many times less than
    synchronous training did; all that it sent if it did not reach it.
    """
    counts = [summary["bytes_to_target"] for _, summary in runs]
    names = [run.algorithm for run, _ in runs]
    base = dict(zip(names, counts, strict=True)).get("synchronous")
    texts = []
    for name, count, (_, summary) in zip(names, counts, runs, strict=True):
        if count is None:
            total = show.readable_bytes(summary["total_bytes"])
            texts.append(f"{total}, target not reached")
            continue
        text = show.readable_bytes(count)
        if count and base and name != "synchronous":
            text += f", {base / count:.3g}\u00d7 fewer"
        texts.append(text)
    return texts
