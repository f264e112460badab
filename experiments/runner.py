"""Does what the flags ask for: checks, data, training, files, the table."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

import fda_tf
import fda_tf.launch
from experiments import (
    config,
    provenance,
    results,
    show,
    store,
    table,
    training,
)  # fmt: skip
from experiments.config import Settings

# What is said in a line: what the user can mend, or a worker that was lost.
ERRORS = (
    ValueError,
    FloatingPointError,
    OSError,
    RuntimeError,
    tf.errors.OpError,
)


def in_a_line(error: Exception) -> str:
    """An error for a person: its first line, of TensorFlow's a sentence.

    Example:
        >>> in_a_line(tf.errors.UnavailableError(None, None, "Gone. See log."))
        'UnavailableError: Gone'
    """
    lines = [line for line in str(error).splitlines() if _tells(line)]
    line = lines[0].strip() if lines else type(error).__name__
    if isinstance(error, tf.errors.OpError):
        return f"{type(error).__name__}: {line.split('. ')[0].rstrip('.')}"
    return line


def _tells(line: str) -> bool:
    """Whether it is a line of words, not one of TensorFlow's tracebacks."""
    noise = ("Graph execution error", "Detected at node", " ", "\t", "<")
    return bool(line.strip()) and not line.startswith(noise)


def main(flags: Mapping[str, Any], command: Sequence[str]) -> int:
    """Trains every algorithm of the list, one after another.

    Args:
        flags: name -> value, as the command line gave them.
        command: this very command, for the workers of a cluster.

    Returns:
        The exit code: 0, or that of the first worker that failed.

    Raises:
        ValueError: for what is wrong with flags or data, before any training.
        KeyboardInterrupt: on Ctrl-C, after the table of what was finished.
    """
    runs, unused = config.plan(flags)
    process_group = _home(flags["backend"])
    config.check_parts(runs)
    starts_cluster = flags["backend"] == "cluster" and process_group is None
    if process_group is None:
        for name in unused:
            logging.warning("--%s is dropped: no algorithm here uses it", name)
    elif process_group.count != flags["workers"]:
        raise ValueError(
            f"--workers={flags['workers']}, but the cluster has "
            f"{process_group.count}; let them agree"
        )
    if process_group is None or process_group.is_chief:
        results.check_outputs(flags["results_dir"], flags["summary"])
    # Workers must agree on what to run, and not all may see the file: only
    # who starts them leaves runs out.
    kept = store.Runs(flags["summary"])
    done = {} if flags["overwrite"] or process_group else kept.by_id()
    todo = [run for run in runs if run.run_id not in done]
    finished = {run.run_id: done[run.run_id] for run in runs if run not in todo}
    job = _Job(flags, process_group, kept)
    if todo and starts_cluster:
        texts = ",".join(run.text for run in todo)
        return _launch([*command, f"--algorithm={texts}"], runs, finished, job)
    try:
        with show.progress(todo, job.chief) as progress:
            for run in todo:
                finished[run.run_id] = job.train(run, progress)
    except KeyboardInterrupt:
        if job.chief:
            raise
        return 130  # the chief says it
    finally:
        if job.chief:
            _report(runs, finished, flags)
    return 0


def _launch(
    command: Sequence[str],
    runs: Sequence[Settings],
    finished: dict[str, Mapping[str, Any]],
    job: "_Job",
) -> int:
    """Starts the workers, whose chief reports, unless Ctrl-C ends them all."""
    began = time.time()
    try:
        return fda_tf.launch.launch(command, workers=job.flags["workers"])
    except KeyboardInterrupt:
        folder = pathlib.Path(job.flags["results_dir"])
        for run in runs:
            values = results.read_summary(folder / run.run_id, began)
            if values is not None:
                finished[run.run_id] = values
        if len(finished) < len(runs):  # else the chief has done so
            _report(runs, finished, job.flags)
        raise
    finally:
        show.restore_cursor()


def _report(
    runs: Sequence[Settings],
    finished: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, Any],
) -> None:
    """Prints the table of those that are finished, if any is."""
    rows = [(r, finished[r.run_id]) for r in runs if r.run_id in finished]
    if rows:
        table.report(rows, flags["results_dir"], flags["picture"])


def steps_at_most(settings: Settings, samples: int) -> int:
    """In-parallel steps: those of all epochs, or --steps if that is fewer.

    Epoch e ends after step ceil(e n / (B K)), n being the samples.
    """
    together = settings.batch_size * settings.workers
    steps = -(-settings.epochs * samples // together)
    return min(steps, settings.steps or steps)


def _home(backend: str) -> Any:
    """Sets TensorFlow up; returns the processes if this is a worker's."""
    # Each run traces its own loop, which TensorFlow takes for an accident.
    tf.get_logger().setLevel("ERROR")
    described = fda_tf.launch.describes_job()
    if backend == "cluster":
        # connect() has to come before any other call of TensorFlow.
        return fda_tf.connect() if described else None
    if described:
        raise ValueError(
            "TF_CONFIG or SLURM says that this process is one worker of a "
            "cluster, where --backend=simulated would train all of them in "
            "each process; give --backend=cluster, or unset TF_CONFIG and "
            "start one task"
        )
    try:
        # fda_tf.simulate trains one worker on each core at a time. With one
        # thread for each of them, two cores do 680 steps of LeNet-5 a second
        # with TensorFlow's own kernels, and 490 with XLA's.
        training.one_thread()
    except RuntimeError:
        logging.info("TensorFlow is running already: its threads stay.")
    return None


class _Job:
    """The data of all runs, cut in pieces, and where they are trained."""

    def __init__(
        self, flags: Mapping[str, Any], process_group: Any, kept: store.Runs
    ):
        self.flags, self.process_group, self.kept = flags, process_group, kept
        self.chief = process_group is None or process_group.is_chief
        self.data = training.load(
            *(flags[n] for n in ("task", "workers", "seed", "split")),
            data_dir=flags["data_dir"],
        )

    def train(self, settings: Settings, progress: show.Progress) -> dict:
        """Trains one run, writes its files, returns its summary."""
        limit = steps_at_most(settings, self.data.samples)
        progress.start(settings, limit)
        with self._folder(settings) as folder:

            def on_evaluation(row):
                folder.evaluation(row)
                progress.update(row)
                hit = results.passes(row, settings.target_accuracy)
                return settings.stop and hit

            history = self._run(
                settings,
                steps=limit,
                on_evaluation=on_evaluation,
                on_progress=progress.update,
                on_synchronisation=folder.synchronisation,
            )
            values = results.summarise(
                history.rows,
                settings.target_accuracy,
                worker_steps_per_second=history.worker_steps_per_second,
                seconds=history.seconds,
            )
            folder.finish(values, history.variance, history.theta)
        if self.chief and self.kept.path:
            self.kept.add(store.row_of(settings, values))
        progress.finish(values)
        return values

    def _run(self, settings: Settings, **options: Any) -> Any:
        if self.process_group is None:
            return training.simulate(settings, self.data, **options)
        return training.train(
            settings, self.data, self.process_group, **options
        )

    def _folder(self, settings: Settings) -> results.RunFolder:
        """The run's files; workers other than the chief write none."""
        path = pathlib.Path(self.flags["results_dir"]) / settings.run_id
        return results.RunFolder(
            path if self.chief else None,
            {
                **self.flags,
                **dataclasses.asdict(settings),
                "run_id": settings.run_id,
                "data": self.data.source,
                "train_samples": self.data.samples,
                "test_samples": len(self.data.test[0]),
                **provenance.about(),
            },
        )
