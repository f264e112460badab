"""How the command line ends: failures, Ctrl-C, a cluster's workers."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from command_line import SMALL, command, read, run_folder

import fda_tf
from experiments import config, results, run, runner, show
from fda_tf.processes.process_group import ProcessGroup

ERRORS = [
    (
        TimeoutError("Worker 0 waited 5 s; not there: worker 1. Start all."),
        "Worker 0 waited 5 s; not there: worker 1. Start all.",
    ),
    (RuntimeError("A worker was lost.\nAnd more"), "A worker was lost."),
    (OSError(28, "No space left on device"), "[Errno 28] No space left on"),
    (
        tf.errors.UnavailableError(
            None,
            None,
            "Graph execution error:\n\nDetected at node X defined at (most "
            'recent call last):\n  File "x", line 1\n<stack traces '
            "unavailable>\nCollective ops is aborted by: reset. Restart it.",
        ),
        "UnavailableError: Collective ops is aborted by: reset",
    ),
]


@pytest.mark.parametrize("error, words", ERRORS)
def test_failures_are_said_in_a_line(
    error, words, data, tmp_path, monkeypatch, capsys
):
    def simulate(*_, **__):
        raise error

    monkeypatch.setattr(fda_tf, "simulate", simulate)
    code = command(*SMALL, f"--data_dir={data}", f"--results_dir={tmp_path}")
    err = capsys.readouterr().err
    assert code == 1 and err.startswith(f"Error: {words}")
    assert err.count("\n") == 1


def test_a_batch_larger_than_a_shard_is_warned_of(data, tmp_path, caplog):
    code = command(
        *SMALL, "--algorithm=naive", "--steps=1", "--batch_size=31",
        f"--data_dir={data}", f"--results_dir={tmp_path}",
    )  # fmt: skip
    assert code == 0
    assert "larger than the smallest shard (30 samples)" in caplog.text


def test_bad_drift_is_said_in_a_line(data, tmp_path, capsys):
    code = command(
        *SMALL, "--algorithm=linear", "--learning_rate=1e38",
        f"--data_dir={data}", f"--results_dir={tmp_path}",
    )  # fmt: skip
    err = capsys.readouterr().err
    assert code == 1 and err.startswith("Error: ") and err.count("\n") == 1
    assert "worker 0" in err and "tep 1" in err
    assert not (run_folder(tmp_path, "linear") / "summary.json").exists()


def test_interrupted_run_is_readable(data, tmp_path, monkeypatch, capsys):
    original = results.RunFolder.evaluation

    def evaluation(self, row):
        original(self, row)
        if row["step"] >= 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(results.RunFolder, "evaluation", evaluation)
    code = command(
        *SMALL, "--nostop", f"--data_dir={data}", f"--results_dir={tmp_path}"
    )
    assert code == 130
    out, err = capsys.readouterr()
    assert f"Stopped; what was measured is in {tmp_path}" in err
    assert "to test accuracy" not in out  # no table: nothing is finished
    folder = run_folder(tmp_path, "synchronous")
    assert len(results.read_metrics(folder)) == 2
    assert not (folder / "summary.json").exists()
    assert json.loads((folder / "config.json").read_text())["workers"] == 2


def interrupt(*_, **__):
    """Ctrl-C comes now."""
    raise KeyboardInterrupt


def test_ctrl_c_shows_what_was_finished(data, tmp_path, monkeypatch, capsys):
    original = fda_tf.simulate

    def simulate(*arguments, **options):
        monkeypatch.setattr(fda_tf, "simulate", interrupt)
        return original(*arguments, **options)

    monkeypatch.setattr(fda_tf, "simulate", simulate)
    code = command(*SMALL, f"--data_dir={data}", f"--results_dir={tmp_path}")
    assert code == 130
    out, err = capsys.readouterr()
    shown = out[out.index("to test accuracy 0.05") :]
    assert "synchronous" in shown and "linear" not in shown
    assert err.startswith("Stopped") and err.count("\n") == 1


def test_ctrl_c_of_the_launcher_shows_what_was_finished(
    finished, data, tmp_path, monkeypatch, capsys
):
    def launch(command, workers):
        # What one of the runs wrote, and one of another day.
        for name, day in (("linear", 0), ("synchronous", -86_400)):
            (settings,) = [run for run in asked if run.algorithm == name]
            folder = tmp_path / settings.run_id
            folder.mkdir()
            text = (run_folder(finished, name) / "summary.json").read_text()
            (folder / "summary.json").write_text(text)
            when = time.time() + 1 + day
            os.utime(folder / "summary.json", (when, when))
        raise KeyboardInterrupt

    asked, shown_again, original = [], [], config.plan
    # The chief's live table hides the cursor, and the chief is ended.
    monkeypatch.setattr(show, "restore_cursor", lambda: shown_again.append(1))

    def plan(flags):
        asked.extend(original(flags)[0])
        return original(flags)

    monkeypatch.setattr(config, "plan", plan)
    monkeypatch.setattr(fda_tf.launch, "launch", launch)
    code = command(
        "--backend=cluster", *SMALL, f"--data_dir={data}",
        f"--results_dir={tmp_path}",
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 130 and err.startswith("Stopped")
    assert "linear" in out and "synchronous" not in out and shown_again


def test_only_the_chief_says_stopped(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "_home", lambda _: ProcessGroup(1, "ab"))
    monkeypatch.setattr(fda_tf, "train", interrupt)
    arguments = [*SMALL, f"--data_dir={data}", f"--results_dir={tmp_path}"]
    assert command("--backend=cluster", *arguments) == 130
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(runner, "_home", lambda _: ProcessGroup(0, "ab"))
    assert command("--backend=cluster", *arguments) == 130
    assert "Stopped" in capsys.readouterr().err


# --- Clusters


def test_the_workers_of_a_cluster_get_the_same_flags(
    data, tmp_path, monkeypatch
):
    started = []

    def launch(command, workers, env=None):
        started.append((command, workers))
        return 7

    monkeypatch.setattr(fda_tf.launch, "launch", launch)
    arguments = [*SMALL, f"--data_dir={data}", f"--results_dir={tmp_path}"]
    assert command("--backend=cluster", "--nostop", *arguments) == 7
    ((words, workers),) = started
    assert workers == 2 and words[1:3] == ["-m", "experiments.run"]
    with flagsaver.flagsaver():
        flags.FLAGS(["run", *words[3:]])
        assert flags.FLAGS.backend == "cluster" and not flags.FLAGS.stop
        assert flags.FLAGS.algorithm == [
            "synchronous", "linear:theta=0.05",
        ]  # fmt: skip
        assert flags.FLAGS.theta == 0.05 and flags.FLAGS.interval is None


@pytest.mark.parametrize(
    "workers", [2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_cluster_agrees_with_simulation(workers, data, tmp_path):
    arguments = [
        "--algorithm=sketch", f"--workers={workers}", "--nostop",
        "--steps=20", "--batch_size=5", "--theta=0.02", "--sketch_width=10",
        f"--data_dir={data}", f"--results_dir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", "--backend=cluster"]
        + arguments,
        cwd=pathlib.Path(run.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert command(*arguments) == 0
    for algorithm in ("sketch",):
        (there,) = tmp_path.glob(f"*-{algorithm}-*-cluster")
        (here,) = tmp_path.glob(f"*-{algorithm}-*-simulated")
        decisions = [
            [(row["step"], row["cause"]) for row in read(home / "syncs.csv")]
            for home in (there, here)
        ]
        assert decisions[0] == decisions[1] and len(decisions[0]) > 2
        pairs = zip(
            results.read_metrics(there),
            results.read_metrics(here),
            strict=True,
        )
        for ours, theirs in pairs:
            for name in set(results.METRICS) - {"seconds"}:
                assert ours[name] == pytest.approx(theirs[name], 1e-3, 1e-4)
