"""Makes a page of pictures and tables from results, or pictures of splits.

  python -m experiments.report results/ --out=report
  python -m experiments.report results/ summary.jsonl --published=runs.csv
  python -m experiments.report split dirichlet:0.3 label:0 --workers=10

RESULTS are folders that experiments.run wrote, single runs of them, or files
of its --summary. The page is OUT/index.html, one file that asks for nothing
else; each picture is also in OUT/figures, as SVG and as PNG.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import fda_tf
from experiments import config, datasets, published, style
from experiments.report import cases, figures, loading, page, sections
from experiments.report import splits as heat_maps


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; says in one line what the user can mend. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    splits = arguments[:1] == ["split"]
    options = _parser(splits).parse_args(arguments[splits:])
    try:
        (draw_splits if splits else report)(options, pathlib.Path(options.out))
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser(splits: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report" + " split" * splits,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    if splits:
        spec = "as --split of experiments.run: iid, sorted:0.6, label:0,8, "
        spec += "dirichlet:0.3, sizes:1, shards:2 or natural"
        add("spec", nargs="+", help=spec)
        add("--data", default="mnist5000", help="name of a data set")
        add("--data_dir", help="folder with NAME.npz")
        add("--workers", type=int, default=10, help="K (default: 10)")
        add("--seed", type=int, default=0, help="default: 0")
    else:
        what = "folders of runs, or files of --summary"
        add("results", nargs="+", help=what)
        add("--published", help="CSV of the authors' runs, to set ours beside")
    add("--out", default="report", help="folder to write (default: report)")
    return parser


def report(options: Any, out: pathlib.Path) -> None:
    """Writes OUT/index.html and OUT/figures/; warns of what is left out.

    Raises:
        ValueError: a path that does not exist, or no run to show.
    """
    paths = options.results
    runs, left_out = loading.load(paths)
    for line in left_out:
        print(f"Warning: left out {line}", file=sys.stderr)
    if not runs:
        raise ValueError(
            f"no finished run in {', '.join(paths)}; give what "
            "experiments.run wrote"
        )
    theirs = published.published(options.published) if options.published else {}
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
    title = "Federated Dynamic Averaging, run and compared"
    text = page.render(title, lead, made, left_out)
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


def draw_splits(options: Any, out: pathlib.Path) -> None:
    """Writes a heat map of each split: workers x labels, with the sizes."""
    name, workers, seed = options.data, options.workers, options.seed
    data = datasets.load(name, options.data_dir, None)
    labels = np.asarray(data.y_train)
    split = fda_tf.partition.split
    tables = [  # all are checked before one is drawn
        heat_maps.counts(
            labels, split(spec, labels, workers, seed, data.clients)
        )
        for spec in options.spec
    ]
    for spec, table in zip(options.spec, tables, strict=True):
        file = f"split-{name}-{config.short(spec)}-K{workers}-seed{seed}"
        with style.drawing():
            _save(heat_maps.heat(table, f"{name}, {spec}"), out, file)
        print(f"picture: {out / file}.png")


if __name__ == "__main__":
    sys.exit(main())
