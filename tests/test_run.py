"""The command line: what it refuses, what it trains, what it writes."""

import csv
import dataclasses
import doctest
import json
import math
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

import fda_tf
from experiments import config, results, run, runner, show, summary, table
from experiments.algorithms import ALGORITHMS
from experiments.tasks import TASKS

FLAGS = {
    "task": "lenet5_mnist5000",
    "algorithm": ["synchronous", "linear", "sketch"],
    "workers": 5,
    "split": "iid",
    "sampling": "passes",
    "stop": True,
    "seed": 0,
    "backend": "simulated",
}


def command(*arguments):
    """Runs the command line in this process; returns its exit code."""
    with flagsaver.flagsaver():
        flags.FLAGS(["run", *arguments])
        return run.main(["run"])


def plan(**changes):
    return config.plan(FLAGS | changes)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- Settings


def test_help_names_everything():
    text = run.__doc__ + flags.FLAGS.module_help(run)
    for name in (*ALGORITHMS, *TASKS, *config.SPECIAL):
        assert name in text
    for field in dataclasses.fields(config.Settings):
        assert f"--{field.name}:" in text or f"--[no]{field.name}:" in text


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "field", ["theta", "epochs", "target_accuracy", "learning_rate"]
)
def test_help_has_the_defaults_of_each_task(name, field):
    text = flags.FLAGS[field].help
    assert f"{getattr(TASKS[name], field):g} for {name}" in text


def test_help_has_the_defaults_of_each_algorithm():
    for name, algorithm in ALGORITHMS.items():
        for field, value in algorithm.uses.items():
            if field == "learning_rate":
                text = flags.FLAGS[field].help
                ours = text[text.index("SGD") :].split("for")
            elif value is not None:
                ours = flags.FLAGS[field].help.split("default:")[1].split("for")
            else:
                continue
            (said,) = [
                before
                for before, after in zip(ours, [*ours[1:], ""], strict=True)
                if name in after or len(ours) == 1
            ]
            assert said.rstrip(" )").endswith(f"{value:g}")


def test_flags_agree_with_the_tables():
    assert flags.FLAGS["backend"].parser.enum_values == list(config.BACKENDS)
    assert flags.FLAGS["sampling"].parser.enum_values == list(config.SAMPLINGS)
    assert list(config.SAMPLINGS) == ["passes", "independent"]


def test_defaults_are_the_task_s():
    runs, unused = plan()
    assert [run.algorithm for run in runs] == FLAGS["algorithm"]
    assert [run.theta for run in runs] == [None, 3.0, 3.0]
    assert runs[2].sketch_depth == 5 and runs[2].sketch_width == 250
    assert runs[0].target_accuracy == 0.95 and runs[0].batch_size == 32
    assert not unused


def test_flags_beat_defaults():
    (fedadam,), _ = plan(
        algorithm=["fedadam"], learning_rate=0.5, server_learning_rate=0.25
    )
    assert fedadam.learning_rate == 0.5
    assert fedadam.server_learning_rate == 0.25
    assert fedadam.local_epochs == 1


def test_unused_flags_are_dropped():
    runs, unused = plan(algorithm=["local_sgd", "linear"], sketch_width=9)
    assert unused == ["sketch_width"]
    assert all(run.sketch_width is None for run in runs)
    with_it, _ = plan(algorithm=["linear"], theta=2.0, interval=3)
    without, _ = plan(algorithm=["linear"], theta=2.0)
    assert with_it[0].run_id == without[0].run_id


def test_run_id_is_readable():
    run_id = plan(algorithm=["sketch"], split="sorted:0.6")[0][0].run_id
    for part in ("lenet5_mnist5000", "sketch", "theta3.0", "K5", "sorted0.6"):
        assert f"{part}-" in run_id
    assert "/" not in run_id and ":" not in run_id


def test_run_id_of_small_numbers():
    run = plan(algorithm=["linear"], theta=1e-5, split="dirichlet:1e-9")[0][0]
    assert "-theta1e-05-" in run.run_id and "-dirichlet1e-9-" in run.run_id
    assert config.short("label:-3") == "label%2d3"
    assert config.short("a-e-1/..") == "a%2de%2d1%2f.."


def test_run_id_never_collides():
    other = {
        "task": ["lenet5_mnist"],
        "algorithm": [["linear"], ["naive"]],
        "theta": [1.25, 12.5, 125.0, 1e-5, 1e5, 1e-50, math.inf],
        "workers": [6, 15],
        "split": ["label:0", "label:0,8", "label:8", "shards:2", "natural"],
        "sampling": ["independent"],
        "stop": [False],
        "seed": [1, 11],
        "backend": ["cluster"],
        "batch_size": [3, 320],
        "epochs": [2, 20],
        "steps": [2, 20],
        "target_accuracy": [0.9, 0.99],
        "learning_rate": [0.1, 0.01],
        "sketch_depth": [3],
        "sketch_width": [3, 25],
    }
    ids = [plan(algorithm=["sketch"])[0][0].run_id]
    for name, values in other.items():
        for value in values:
            changes = {"algorithm": ["sketch"], name: value}
            ids.append(plan(**changes)[0][0].run_id)
    for name in ALGORITHMS:
        for field in ("interval", "local_epochs", "server_learning_rate"):
            if field in ALGORITHMS[name].uses:
                for value in (3, 33):
                    changes = {"algorithm": [name], field: value}
                    ids.append(plan(**changes)[0][0].run_id)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_have_parts(name):
    (settings,), _ = plan(algorithm=[name])
    parts = ALGORITHMS[name].parts(settings)
    optimizer = parts.optimizer()
    assert parts.optimizer() is not optimizer  # workers share no slots
    rate = float(optimizer.learning_rate)
    assert rate == pytest.approx(settings.learning_rate)
    if name in fda_tf.MONITORS:
        assert parts.sync.theta == 3.0
        assert isinstance(parts.sync.monitor, fda_tf.MONITORS[name])


def test_the_paper_s_rates():
    rates = {
        name: plan(algorithm=[name])[0][0] for name in ("fedavgm", "fedadam")
    }
    assert rates["fedavgm"].learning_rate == 0.0316
    assert rates["fedavgm"].server_learning_rate == 0.316
    assert rates["fedadam"].learning_rate == 0.01
    assert rates["fedadam"].server_learning_rate == 1e-3
    server = ALGORITHMS["fedavgm"].parts(rates["fedavgm"]).server
    assert server.optimizer.momentum == 0.9


@pytest.mark.parametrize(
    "samples, epochs, steps, expected",
    [(4000, 2, None, 50), (4001, 1, None, 26), (4000, 2, 7, 7), (1, 1, 9, 1)],
)
def test_steps_at_most(samples, epochs, steps, expected):
    (settings,), _ = plan(algorithm=["naive"], epochs=epochs, steps=steps)
    assert runner.steps_at_most(settings, samples) == expected


# --- What it refuses


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--theta=-1", "--theta must be a number of at least 0, got -1"),
        ("--theta=nan", "--theta must be a number of at least 0, got nan"),
        ("--workers=0", "--workers must be a whole number of at least 1"),
        ("--task=lenet", "--task=lenet is unknown; known: lenet5_mnist5000"),
        ("--algorithm=fda", "--algorithm=fda is unknown; known: synchronous"),
        ("--algorithm=", "--algorithm is empty"),
        ("--split=half", "iid, sorted:0.6"),
        ("--split=natural", "client"),
        ("--workers=4001", "4001"),
        ("--target_accuracy=1", "--target_accuracy must be between 0 and 1"),
        ("--target_accuracy=nan", "--target_accuracy must be between 0 and"),
        ("--sketch_depth=0", "--sketch_depth must be odd"),
        ("--sketch_depth=4", "--sketch_depth must be odd"),
        ("--sketch_width=0", "--sketch_width must be a whole number of at"),
        ("--seed=-1", "--seed must be from 0"),
        ("--epochs=0", "--epochs must be"),
        ("--steps=0", "--steps must be"),
        ("--batch_size=0", "--batch_size must be"),
        ("--learning_rate=0", "--learning_rate must be a number above 0"),
        ("--learning_rate=inf", "--learning_rate must be a number above 0"),
        ("--data_dir=/no/such/folder", "/no/such/folder"),
        ("--results_dir=/dev/null/results", "cannot be written to"),
        ("--summary=/proc/x.csv", "--summary=/proc/x.csv cannot be written"),
        ("--summary=/dev/null/x.csv", "--summary=/dev/null/x.csv cannot be"),
        ("--data_dir=/proc/self/fd", "no mnist5000.npz; its .npz files: none"),
    ],
)
def test_bad_flags(argument, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(fda_tf, "simulate", None)  # before any training
    code = command(f"--results_dir={tmp_path}", argument)
    err = capsys.readouterr().err
    assert code == 1
    assert message in err
    assert err.startswith("Error: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "variable, value",
    [("TF_CONFIG", "{}"), ("SLURM_STEP_NUM_TASKS", "2")],
)
def test_a_cluster_s_worker_does_not_simulate(
    variable, value, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(fda_tf, "simulate", None)
    monkeypatch.setenv(variable, value)
    assert command(f"--results_dir={tmp_path}") == 1
    err = capsys.readouterr().err
    assert "TF_CONFIG or SLURM says" in err and "--backend=cluster" in err


def test_bad_flags_on_the_way_in():
    with pytest.raises(flags.IllegalFlagValueError, match="a number|float"):
        command("--theta=much")
    with pytest.raises(flags.IllegalFlagValueError, match="simulated|cluster"):
        command("--backend=cloud")


def _npz(path, **changes):
    arrays = {
        "x_train": np.zeros((20, 28, 28), np.uint8),
        "y_train": np.arange(20) % 10,
        "x_test": np.zeros((10, 28, 28), np.uint8),
        "y_test": np.arange(10),
    }
    np.savez(path, **(arrays | changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y_train": np.arange(20)}, "0 to 9"),
        ({"y_test": np.arange(10) - 1}, "0 to 9"),
        ({"x_train": np.zeros((20, 3, 3), np.uint8)}, "shape"),
        ({"x_train": np.zeros((0, 28, 28), np.uint8)}, "shape"),
        ({"y_train": np.array([{}] * 20)}, "pickled"),
    ],
)
def test_bad_data(changes, message, capsys, tmp_path):
    _npz(tmp_path / "mnist5000.npz", **changes)
    code = command(f"--data_dir={tmp_path}", f"--results_dir={tmp_path}/out")
    assert code == 1
    assert message in capsys.readouterr().err


def test_corrupt_data(capsys, tmp_path):
    (tmp_path / "mnist5000.npz").write_bytes(b"PK\x03\x04 and no more")
    code = command(f"--data_dir={tmp_path}", f"--results_dir={tmp_path}/out")
    assert code == 1
    assert "mnist5000.npz" in capsys.readouterr().err


def test_foreign_summary(capsys, tmp_path):
    path = tmp_path / "summary.csv"
    path.write_text("a,b\n1,2\n")
    assert command(f"--results_dir={tmp_path}", f"--summary={path}") == 1
    assert "not a summary" in capsys.readouterr().err
    assert path.read_text() == "a,b\n1,2\n"


# --- What it trains and writes

SMALL = (
    "--algorithm=synchronous,linear", "--workers=2", "--batch_size=10",
    "--steps=12", "--theta=0.05", "--target_accuracy=0.05",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 images of two blots, to train on in a moment."""
    folder = tmp_path_factory.mktemp("data")
    labels = np.arange(60) % 2
    images = np.zeros((60, 28, 28), np.uint8)
    images[labels == 0, 4:12, 4:12] = 255
    images[labels == 1, 16:24, 16:24] = 255
    _npz(
        folder / "mnist5000.npz",
        x_train=images, y_train=labels, x_test=images, y_test=labels,
    )  # fmt: skip
    return folder


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """Results of one real call of the command line."""
    folder = tmp_path_factory.mktemp("results")
    code = command(
        *SMALL, "--nostop", f"--data_dir={data}", f"--results_dir={folder}",
        f"--summary={folder}/summary.csv",
    )  # fmt: skip
    assert code == 0
    return folder


def _folder(results_dir, algorithm):
    (found,) = results_dir.glob(f"*-{algorithm}-*/")
    return found


def test_metrics_file(finished):
    rows = read(_folder(finished, "linear") / "metrics.csv")
    assert tuple(rows[0]) == results.METRICS
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    for row in rows:
        assert all(math.isfinite(float(value)) for value in row.values())
        assert int(row["checks"]) == int(row["step"])
        # 2 workers send 2 floats a check, and up and down d floats a sync.
        assert int(row["paper_state_bytes"]) == int(row["checks"]) * 2 * 8
        d = 4 * 61_706
        assert int(row["paper_model_bytes"]) == int(row["syncs"]) * 4 * d
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)


def test_no_check_is_nan(finished):
    rows = read(_folder(finished, "synchronous") / "metrics.csv")
    assert {row["variance"] for row in rows} == {"nan"}
    assert {row["checks"] for row in rows} == {"0"}


def test_syncs_file(finished):
    folder = _folder(finished, "linear")
    rows = read(folder / "syncs.csv")
    assert tuple(rows[0]) == results.SYNCS
    counted = [row for row in rows if row["cause"] != "end"]
    assert {row["cause"] for row in counted} == {"threshold"}
    last = read(folder / "metrics.csv")[-1]
    assert len(counted) == int(last["syncs"])
    assert sum(int(row["interval"]) for row in rows) == 12
    assert all(float(row["estimate"]) > 0.05 for row in counted)


def test_summary_file(finished):
    folder = _folder(finished, "linear")
    values = json.loads((folder / "summary.json").read_text())
    assert tuple(values) == results.SUMMARY
    rows = read(folder / "metrics.csv")
    assert values["reached"] and values["steps_to_target"] == 3
    assert values["steps"] == 12 and values["checks"] == 12
    assert values["bytes_to_target"] == results.paper_bytes(rows[0])
    assert values["total_bytes"] == results.paper_bytes(rows[-1])
    assert values["wire_bytes_to_target"] == int(rows[0]["wire_bytes"])
    best = max(float(row["test_accuracy"]) for row in rows)
    assert values["best_accuracy"] == best
    assert values["peak_rss_bytes"] > 1e8
    assert values["worker_steps_per_second"] > 0 and values["seconds"] > 0


def test_config_file(finished, data):
    folder = _folder(finished, "synchronous")
    values = json.loads((folder / "config.json").read_text())
    own = flags.FLAGS.get_flags_for_module(sys.modules[run.__name__])
    assert {flag.name for flag in own} < set(values)
    assert values["algorithm"] == "synchronous" and values["seed"] == 0
    assert values["theta"] is None and values["workers"] == 2
    assert values["batch_size"] == 10 and values["learning_rate"] == 2e-3
    assert values["run_id"] == folder.name
    assert values["train_samples"] == 60 and "git_commit" in values
    assert values["data"] == str(data / "mnist5000.npz")
    assert {"tensorflow", "keras", "numpy", "python"} < set(values["versions"])


def test_picture_is_beside(finished):
    (picture,) = finished.glob("*.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_finished_runs_are_not_run_again(finished, data, monkeypatch, capsys):
    monkeypatch.setattr(fda_tf, "simulate", None)
    before = (finished / "summary.csv").read_text()
    code = command(
        *SMALL, "--nostop", f"--data_dir={data}", f"--results_dir={finished}",
        f"--summary={finished}/summary.csv",
    )  # fmt: skip
    assert code == 0
    assert (finished / "summary.csv").read_text() == before
    assert "synchronous" in capsys.readouterr().out  # in the table all the same


def test_summary_has_a_row_per_run(finished):
    rows = summary.read(finished / "summary.csv")
    assert len(rows) == 2
    for run_id, row in rows.items():
        path = finished / run_id / "summary.json"
        values = json.loads(path.read_text())
        assert {key: row[key] for key in values} == values
        assert row["task"] == "lenet5_mnist5000" and row["seed"] == 0


def test_summary_replaces_a_row(tmp_path):
    path = tmp_path / "folder" / "summary.csv"
    values = dict.fromkeys(results.SUMMARY, 1) | {"reached": True}
    runs, _ = plan()
    for settings in runs:
        summary.append(path, settings, values)
    summary.append(path, runs[1], values | {"reached": False, "steps": None})
    rows = summary.read(path)
    assert list(rows) == [settings.run_id for settings in runs]
    assert rows[runs[1].run_id]["reached"] is False
    assert rows[runs[1].run_id]["steps"] is None
    assert rows[runs[2].run_id]["theta"] == 3.0


def test_stops_at_its_target(data, tmp_path, capsys):
    code = command(
        *SMALL, "--algorithm=naive", f"--data_dir={data}",
        f"--results_dir={tmp_path}",
    )  # fmt: skip
    assert code == 0
    rows = read(_folder(tmp_path, "naive") / "metrics.csv")
    assert [row["step"] for row in rows] == ["3"]
    out = capsys.readouterr().out
    assert "naive: reached the target" in out and "0.05" in out


def test_bad_drift_is_said_in_a_line(data, tmp_path, capsys):
    code = command(
        *SMALL, "--algorithm=linear", "--learning_rate=1e38",
        f"--data_dir={data}", f"--results_dir={tmp_path}",
    )  # fmt: skip
    err = capsys.readouterr().err
    assert code == 1 and err.startswith("Error: ") and err.count("\n") == 1
    assert "worker 0" in err and "tep 1" in err
    assert not (_folder(tmp_path, "linear") / "summary.json").exists()


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
    assert "accuracy" not in out  # no table: nothing is finished
    folder = _folder(tmp_path, "synchronous")
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
            text = (_folder(finished, name) / "summary.json").read_text()
            (folder / "summary.json").write_text(text)
            when = time.time() + 1 + day
            os.utime(folder / "summary.json", (when, when))
        raise KeyboardInterrupt

    asked, original = [], config.plan

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
    assert "linear" in out and "synchronous" not in out


def test_only_the_chief_says_stopped(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "_home", lambda _: fda_tf.Replicas(1, "ab"))
    monkeypatch.setattr(fda_tf, "train", interrupt)
    arguments = [*SMALL, f"--data_dir={data}", f"--results_dir={tmp_path}"]
    assert command("--backend=cluster", *arguments) == 130
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(runner, "_home", lambda _: fda_tf.Replicas(0, "ab"))
    assert command("--backend=cluster", *arguments) == 130
    assert "Stopped" in capsys.readouterr().err


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
        assert flags.FLAGS.algorithm == ["synchronous", "linear"]
        assert flags.FLAGS.theta == 0.05 and flags.FLAGS.interval is None


@pytest.mark.parametrize("workers", [2, 4])
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


# --- Arithmetic


def _row(step, accuracy):
    return {
        "step": step, "syncs": step // 10, "checks": step,
        "paper_state_bytes": step, "paper_model_bytes": 100 * (step // 10),
        "wire_bytes": 7 * step, "val_accuracy": accuracy,
    }  # fmt: skip


def test_summarise():
    rows = [_row(10, 0.5), _row(20, 0.75), _row(30, 0.625)]
    kind = {"worker_steps_per_second": 3.0, "seconds": 4.0}
    values = results.summarise(rows, 0.5, **kind)
    assert values["reached"] and values["steps_to_target"] == 20
    assert values["syncs_to_target"] == 2
    assert values["bytes_to_target"] == 220
    assert values["wire_bytes_to_target"] == 140
    assert values["best_accuracy"] == 0.75
    assert values["steps"] == 30 and values["total_bytes"] == 330
    values = results.summarise(rows, 0.75, **kind)
    assert not values["reached"]
    for name in ("steps", "syncs", "bytes", "wire_bytes"):
        assert values[f"{name}_to_target"] is None


def test_table_says_how_many_times_fewer():
    sent = [None, 5.0e6, 1.0e6]
    runs = [
        (settings, {"bytes_to_target": count, "total_bytes": 30e6})
        for settings, count in zip(plan()[0], sent, strict=True)
    ]
    assert table.sent(runs) == ["30 MB, target not reached", "5 MB", "1 MB"]
    runs[0][1]["bytes_to_target"] = 25e6
    assert table.sent(runs) == [
        "25 MB", "5 MB, 5\u00d7 fewer", "1 MB, 25\u00d7 fewer",
    ]  # fmt: skip


def _shown(runs, folder, capsys):
    table.report(runs, str(folder))
    return capsys.readouterr().out


def test_table_of_a_run_that_did_not_reach_its_target(tmp_path, capsys):
    kind = {"worker_steps_per_second": 3.0, "seconds": 4.0}
    rows = [_row(10, 0.5), _row(20, 0.75), _row(30, 0.625)]
    runs = [
        (plan(algorithm=["linear"])[0][0], results.summarise(rows, t, **kind))
        for t in (0.6, 0.9)
    ]
    reached, missed = [
        line.split()
        for line in _shown(runs, tmp_path, capsys).splitlines()
        if line.split()[:1] == ["linear"]
    ]
    assert reached == ["linear", "0.7500", "20", "2", "220", "B"]
    missed_words = "linear 0.7500 30 3 330 B, target not reached"
    assert missed == missed_words.split()


def test_table_says_where_the_results_are(finished, tmp_path, capsys):
    rows = summary.read(finished / "summary.csv")
    runs, _ = plan(
        algorithm=["synchronous", "linear"], workers=2, batch_size=10,
        steps=12, theta=0.05, target_accuracy=0.05, stop=False,
    )  # fmt: skip
    runs = [(run, rows[run.run_id]) for run in runs]
    out = _shown(runs, finished, capsys)
    for run, _ in runs:
        assert f"\n  {finished / run.run_id}/\n" in out
    out = _shown(runs[:1], finished, capsys)
    assert f"\nresults: {finished / runs[0][0].run_id}/\n" in out
    out = _shown(runs, tmp_path, capsys)
    assert "\nresults: only in --summary\n" in out


def test_one_worker_sends_nothing(data, tmp_path, capsys):
    code = command(
        *SMALL, "--algorithm=linear", "--workers=1",
        f"--data_dir={data}", f"--results_dir={tmp_path}",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0
    assert "images, 1 worker, iid" in out
    assert "picture: none, no run here has sent anything" in out


def test_pictures_never_collide():
    changes = (
        {}, {"algorithm": ["linear"]}, {"theta": 2.0}, {"batch_size": 7},
        {"steps": 9}, {"stop": False}, {"target_accuracy": 0.9},
        {"sketch_width": 9}, {"sampling": "independent"}, {"workers": 6},
    )  # fmt: skip
    names = [table.picture_name(plan(**change)[0]) for change in changes]
    assert len(set(names)) == len(names)
    assert names[0].startswith("lenet5_mnist5000-K5-iid-seed0-simulated-")
    assert table.picture_name(plan()[0]) == names[0]


@pytest.mark.parametrize("module", [config, results, runner, show])
def test_examples(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted and not outcome.failed


def test_json_is_strict(tmp_path):
    path = tmp_path / "x.json"
    value = {"a": math.nan, "b": math.inf, "c": np.float32(0.5), "d": (1,)}
    results.write_json(path, value)
    assert json.loads(path.read_text()) == {
        "a": None, "b": "inf", "c": 0.5, "d": [1],
    }  # fmt: skip
