"""Makes the files: the page, its pictures, the pictures of splits."""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

import fda_tf
from experiments import config, datasets, published, style
from experiments.report import cases, figures, loading, page, sections
from experiments.report import splits as heat_maps


def report(
    paths: Sequence[str], published_csv: str | None, out: pathlib.Path
) -> None:
    """Writes OUT/index.html and OUT/figures/; warns of what is left out.

    Args:
        paths: folders and CSVs, as for `loading.load`.
        published_csv: of the authors' runs, or None.
        out: folder; it is made.

    Raises:
        ValueError: a path that does not exist, or no run to show.
    """
    runs, left_out = loading.load(paths)
    for line in left_out:
        print(f"Warning: left out {line}", file=sys.stderr)
    if not runs:
        raise ValueError(
            f"no finished run in {', '.join(paths)}; give what "
            "experiments.run wrote"
        )
    theirs = published.published(published_csv) if published_csv else {}
    found = cases.experiments(runs)
    out.mkdir(parents=True, exist_ok=True)
    with style.drawing():
        made = [
            _section(experiment, theirs, out, f"s{i}" if len(found) > 1 else "")
            for i, experiment in enumerate(found, start=1)
        ]
    lead = (
        f"{len(runs)} run{'s' * (len(runs) > 1)}: what they sent, and what "
        "they learned."
    )
    text = page.render(
        "Federated Dynamic Averaging, run and compared", lead, made, left_out
    )
    (out / "index.html").write_text(text, encoding="utf-8")
    print(f"page: {out / 'index.html'}")


def _section(
    experiment: cases.Experiment,
    theirs: figures.Theirs,
    out: pathlib.Path,
    prefix: str,
) -> page.Section:
    pictures = []
    for name, caption, figure in figures.draw(experiment, theirs):
        name = "-".join(filter(None, [prefix, name]))
        drawn = _save(figure, out / "figures", name)
        title = f"{figures.title(experiment)}: {name}"
        pictures.append(page.Picture(name, drawn, title, caption))
    return page.Section(
        figures.title(experiment),
        sections.lead(experiment),
        sections.facts(experiment),
        sections.tables(experiment, theirs),
        pictures,
    )


def _save(figure: Figure, folder: pathlib.Path, name: str) -> str:
    """Writes NAME.svg and NAME.png; returns the SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    text = page.svg(figure)
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    figure.savefig(folder / f"{name}.png")
    return text


def splits(
    specs: Sequence[str],
    name: str,
    data_dir: str | None,
    workers: int,
    seed: int,
    out: pathlib.Path,
) -> None:
    """Writes a heat map of each split, as SVG and as PNG.

    Args:
        specs: as for `fda_tf.partition.split`.
        name: of the data set.
        data_dir: folder with NAME.npz, or None.
        workers: K.
        seed: of the random splits.
        out: folder; it is made.

    Raises:
        ValueError: data or a split that cannot be had.
    """
    data = datasets.load(name, data_dir, None)
    labels = np.asarray(data.y_train)
    tables = [
        heat_maps.counts(
            labels,
            fda_tf.partition.split(spec, labels, workers, seed, data.clients),
        )
        for spec in specs
    ]
    for spec, table in zip(specs, tables, strict=True):
        file = f"split-{name}-{config.short(spec)}-K{workers}-seed{seed}"
        with style.drawing():
            _save(heat_maps.heat(table, f"{name}, {spec}"), out, file)
        print(f"picture: {out / file}.png")
