"""The command line: what it refuses, trains and writes."""

import json
import math
import sys

import numpy as np
import pytest
from absl import flags
from command_line import SMALL, command, npz, plan, read, run_folder

import fda_tf
from experiments import results, run, store

# --- What it refuses


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--theta=-1", "--theta must be a number of at least 0, got -1"),
        ("--theta=nan", "--theta must be a number of at least 0, got nan"),
        ("--theta=much", "--theta=much is neither a number nor known: auto"),
        ("--theta=interval:0", "--theta=interval:0: TargetInterval"),
        ("--workers=0", "--workers must be a whole number of at least 1"),
        ("--task=lenet", "--task=lenet is unknown; known: lenet5_mnist5000"),
        ("--algorithm=fda", "--algorithm=fda is unknown; known: synchronous"),
        ("--algorithm=linear:2", "--algorithm=linear:2 is unknown; known: s"),
        ("--algorithm=linear:interval=2", "linear's parameter=interval is unk"),
        ("--algorithm=linear:theta=much", "--theta=much is neither a number"),
        ("--algorithm=sketch:sketch_width=x", "--sketch_width=x: invalid lit"),
        ("--algorithm=naive:overlap=maybe", "--overlap=maybe: expected True"),
        ("--compression=zip", "--compression must be bfloat16, int8"),
        ("--server=rmsprop", "--server must be one of sgd, momentum"),
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
        (
            "--summary=/proc/x.jsonl",
            "--summary=/proc/x.jsonl cannot be written",
        ),
        (
            "--summary=/dev/null/x.jsonl",
            "--summary=/dev/null/x.jsonl cannot be",
        ),
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
    with pytest.raises(flags.IllegalFlagValueError, match="simulated|cluster"):
        command("--backend=cloud")


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
    npz(tmp_path / "mnist5000.npz", **changes)
    code = command(f"--data_dir={tmp_path}", f"--results_dir={tmp_path}/out")
    assert code == 1
    assert message in capsys.readouterr().err


def test_corrupt_data(capsys, tmp_path):
    (tmp_path / "mnist5000.npz").write_bytes(b"PK\x03\x04 and no more")
    code = command(f"--data_dir={tmp_path}", f"--results_dir={tmp_path}/out")
    assert code == 1
    assert "mnist5000.npz" in capsys.readouterr().err


def test_foreign_summary(capsys, tmp_path):
    path = tmp_path / "summary.jsonl"
    path.write_text("a,b\n1,2\n")
    assert command(f"--results_dir={tmp_path}", f"--summary={path}") == 1
    assert "not a summary" in capsys.readouterr().err
    assert path.read_text() == "a,b\n1,2\n"


# --- What it trains and writes


def test_metrics_file(finished):
    rows = read(run_folder(finished, "linear") / "metrics.csv")
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
    rows = read(run_folder(finished, "synchronous") / "metrics.csv")
    assert {row["variance"] for row in rows} == {"nan"}
    assert {row["checks"] for row in rows} == {"0"}


def test_syncs_file(finished):
    folder = run_folder(finished, "linear")
    rows = read(folder / "syncs.csv")
    assert tuple(rows[0]) == results.SYNCS
    counted = [row for row in rows if row["cause"] != "end"]
    assert {row["cause"] for row in counted} == {"threshold"}
    last = read(folder / "metrics.csv")[-1]
    assert len(counted) == int(last["syncs"])
    assert sum(int(row["interval"]) for row in rows) == 12
    assert all(float(row["estimate"]) > 0.05 for row in counted)


def test_summary_file(finished):
    folder = run_folder(finished, "linear")
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
    folder = run_folder(finished, "synchronous")
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
    pictures = finished.glob("*.png")  # other tests may have run some more
    picture = min(pictures, key=lambda path: path.stat().st_mtime_ns)
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_finished_runs_are_not_run_again(finished, data, monkeypatch, capsys):
    monkeypatch.setattr(fda_tf, "simulate", None)
    before = (finished / "summary.jsonl").read_text()
    code = command(
        *SMALL, "--nostop", f"--data_dir={data}", f"--results_dir={finished}",
        f"--summary={finished}/summary.jsonl",
    )  # fmt: skip
    assert code == 0
    assert (finished / "summary.jsonl").read_text() == before
    assert "synchronous" in capsys.readouterr().out  # in the table all the same


def test_summary_has_a_row_per_run(finished):
    rows = store.Runs(finished / "summary.jsonl").by_id()
    assert len(rows) == 2
    for run_id, row in rows.items():
        path = finished / run_id / "summary.json"
        values = json.loads(path.read_text())
        assert {key: row[key] for key in values} == values
        assert row["task"] == "lenet5_mnist5000" and row["seed"] == 0


def test_summary_replaces_a_row(tmp_path):
    path = tmp_path / "folder" / "summary.jsonl"
    values = dict.fromkeys(results.SUMMARY, 1) | {"reached": True}
    runs, _ = plan()
    kept = store.Runs(path)
    for settings in runs:
        kept.add(store.row_of(settings, values))
    worse = values | {"reached": False, "steps": None}
    kept.add(store.row_of(runs[1], worse))
    rows = store.Runs(path).by_id()
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
    rows = read(run_folder(tmp_path, "naive") / "metrics.csv")
    assert [row["step"] for row in rows] == ["3"]
    out = capsys.readouterr().out
    assert "naive: reached the target" in out and "0.05" in out
