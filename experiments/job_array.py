"""A sweep as a SLURM job array: one task for each run.

Each task is a sweep of one run: it skips what is finished, tries once more
what fails, and adds its row to results.jsonl, and to the file of --summary.
"""

import pathlib
import shlex
from collections.abc import Sequence

from experiments import pool
from experiments.grid import Run

_SCRIPT = """\
#!/bin/bash
# {count} runs. Submit from a folder where `python -m experiments.sweep` works:
#   sbatch {name}
# A task that was stopped may be submitted again, all of them together too.
#SBATCH --job-name={job}
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={gigabytes}G
#SBATCH --time=24:00:00
#SBATCH --output={results_dir}/slurm-%A_%a.out

case $SLURM_ARRAY_TASK_ID in
{cases}
*) echo "There is no run $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;
esac
exec python -u -m experiments.sweep --jobs=1 {where} \\
  "${{run[@]}}"
"""


def write(
    path: str, runs: Sequence[Run], results_dir: str, summary: str | None = None
) -> int:
    """Writes the script of the runs that are not finished; returns 0.

    Args:
        path: of the script.
        runs: of the sweep.
        results_dir: where the tasks write, from where they are submitted.
        summary: of the file that gets their rows, too, or None.
    """
    folder = pathlib.Path(results_dir)
    todo = [
        run
        for run in runs
        if not (folder / run.settings.run_id / "summary.json").exists()
    ]
    if not todo:
        print(f"All {len(runs)} runs are finished: {path} is not written")
        return 0
    cluster = any(run.settings.backend == "cluster" for run in todo)
    where = [f"--results_dir={results_dir}"]
    where += [f"--summary={summary}"] if summary else []
    cases = [f"{i}) run=({_flags(run)}) ;;" for i, run in enumerate(todo)]
    text = _SCRIPT.format(
        count=len(todo),
        name=shlex.quote(path),
        job=shlex.quote(pathlib.Path(path).stem),
        last=len(todo) - 1,
        cpus=max(r.settings.workers for r in todo) if cluster else 2,
        gigabytes=-(-max(map(pool.memory, todo)) // pool.GB) + 1,
        results_dir=results_dir,
        cases="\n".join(cases),
        where=shlex.join(where),
    )
    pathlib.Path(path).write_text(text)
    print(f"{len(todo)} of {len(runs)} runs to train: sbatch {path}")
    return 0


def _flags(run: Run) -> str:
    """The run's flags; its algorithm is its grid."""
    return shlex.join(
        word.replace("--algorithm=", "--grid=algorithm=", 1)
        for word in run.arguments
    )
