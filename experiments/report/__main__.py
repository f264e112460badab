"""Makes a page of pictures and tables from results, or pictures of splits.

  python -m experiments.report results/ --out=report
  python -m experiments.report results/ summary.csv --published=runs.csv
  python -m experiments.report split dirichlet:0.3 label:0 --workers=10

RESULTS are folders that experiments.run wrote, single runs of them, or CSVs
of its --summary. The page is OUT/index.html, one file that asks for nothing
else; each picture is also in OUT/figures, as SVG and as PNG.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from experiments import quiet


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; says in one line what the user can mend. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    splits = arguments[:1] == ["split"]
    options = (_split_parser() if splits else _parser()).parse_args(
        arguments[splits:]
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet.silent_stderr():  # it imports TensorFlow
        from experiments.report import making
    try:
        if splits:
            making.splits(
                options.spec, options.data, options.data_dir,
                options.workers, options.seed, pathlib.Path(options.out),
            )  # fmt: skip
        else:
            making.report(
                options.results, options.published, pathlib.Path(options.out)
            )
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results", nargs="+", help="folders of runs, or CSVs of --summary"
    )
    parser.add_argument(
        "--published", help="CSV of the authors' runs, to set ours beside"
    )
    _add_out(parser)
    return parser


def _split_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report split",
        description="Draws who has which data: workers x labels, with sizes.",
    )
    parser.add_argument(
        "spec", nargs="+",
        help="as --split of experiments.run: iid, sorted:0.6, label:0,8, "
        "dirichlet:0.3, sizes:1, shards:2 or natural",
    )  # fmt: skip
    parser.add_argument(
        "--data", default="mnist5000",
        help="name of a data set (default: mnist5000)",
    )  # fmt: skip
    parser.add_argument("--data_dir", help="folder with NAME.npz")
    parser.add_argument(
        "--workers", type=int, default=10, help="K (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    _add_out(parser)
    return parser


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="report", help="folder to write (default: report)"
    )


if __name__ == "__main__":
    sys.exit(main())
