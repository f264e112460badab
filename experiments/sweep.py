"""Trains many runs in parallel processes, and writes one table of them.

Each run is a process of `experiments.run`, whose flags may be given here too
and are passed on; what the command line gives goes before what a preset says.
Runs that are finished are skipped and failed ones tried once more, so that a
sweep that was killed goes on when it is started again. RESULTS_DIR has a
folder for each run, with its run.log, and results.jsonl. --summary=FILE keeps
the rows in one small file, too, and skips what has its row there.

  python -m experiments.sweep --preset=lenet5_iid
  python -m experiments.sweep --preset=lenet5_iid --workers=5 --seed=0
  python -m experiments.sweep --task=lenet5_mnist \
      --grid='theta=0.5,1.5,5 workers=5,10 algorithm=linear,sketch seed=0,1,2'
  python -m experiments.sweep --preset=lenet5_iid --grid='workers=5,10'
  python -m experiments.sweep --preset=lenet5_iid --slurm=job.sbatch
"""

import os
import pathlib
import signal
import sys

from absl import app, flags

from experiments import quiet, run

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "preset",
    None,
    "Name of a file of experiments/presets, without its .toml; README.md of "
    "the experiments lists them.",
)
flags.DEFINE_string(
    "grid",
    None,
    "Flags of experiments.run with values by commas, and spaces between: "
    "'theta=0.5,1.5 workers=5,10'; all combinations are trained. With --preset "
    "it goes before what that says of the same flags.",
)
flags.DEFINE_integer(
    "jobs",
    None,
    "Runs at once at most (default: one for each core, if memory allows).",
    lower_bound=1,
)
flags.DEFINE_string(
    "slurm",
    None,
    "Write a SLURM job array to this file, with a task for each run that is "
    "not finished, and train nothing here.",
)


def main(argv: list[str]) -> int:
    """Trains the sweep; returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"These are no flags: {' '.join(argv[1:])}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet.silent_stderr():
        from experiments import runner
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _sweep()
    except runner.ERRORS as error:
        print(f"Error: {runner.in_a_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "Stopped; the same command goes on with the runs that are not "
            f"finished. Those that are: {FLAGS.results_dir}/results.jsonl",
            file=sys.stderr,
        )
        return 130


def _stop(*_) -> None:
    raise KeyboardInterrupt


def _sweep() -> int:
    from experiments import grid, job_array, pool, results, store

    given = run.own_flags()
    if given["overwrite"].present:
        raise ValueError(
            "--overwrite is not for a sweep, which skips what is finished; "
            "remove a run's folder, and its row, to train again"
        )
    if FLAGS.preset is None and FLAGS.grid is None:
        known = ", ".join(grid.PRESETS)
        raise ValueError(
            f"Give --grid='theta=0.5,1.5', --preset or both; known: {known}"
        )
    grids = [{}] if FLAGS.preset is None else grid.preset(FLAGS.preset)
    varied = grid.parse(FLAGS.grid or "")
    runs = grid.runs([each | varied for each in grids], given)
    folder = pathlib.Path(FLAGS.results_dir)
    results.check_outputs(FLAGS.results_dir, FLAGS.summary)
    if FLAGS.slurm:
        rows = store.Runs(FLAGS.summary).by_id()
        runs = [run for run in runs if run.settings.run_id not in rows]
        return job_array.write(
            FLAGS.slurm, runs, FLAGS.results_dir, FLAGS.summary
        )
    trained = pool.Pool(runs, FLAGS.results_dir, FLAGS.jobs, FLAGS.summary)
    trained.train()
    failed = [each.settings.run_id for each in trained.failed]
    for name in failed:
        print(f"Failed twice: {folder / name}/run.log", file=sys.stderr)
    print(f"{len(runs) - len(failed)} of {len(runs)} runs are finished")
    print(f"results: {folder / 'results.jsonl'}")
    return 1 if failed else 0


if __name__ == "__main__":
    app.run(main)
