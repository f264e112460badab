"""What is said at the end: summaries, the table, the picture."""

import doctest
import json
import math

import numpy as np
import pytest
from command_line import SMALL, command, plan

from experiments import (
    config,
    published,
    results,
    runner,
    show,
    store,
    table,
)


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
    rows = store.Runs(finished / "summary.jsonl").by_id()
    runs, _ = plan(
        algorithm=["synchronous", "linear"], workers=2, batch_size=10,
        steps=12, theta=0.05, target_accuracy=0.05, stop=False,
    )  # fmt: skip
    runs = [(settings, rows[settings.run_id]) for settings in runs]
    out = _shown(runs, finished, capsys)
    for settings, _ in runs:
        assert f"\n  {finished / settings.run_id}/\n" in out
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


# --- Ours beside theirs


def test_ours_beside_the_published(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(
        "model,strategy,K,theta,distribution,target,reached,steps,"
        "syncs_completed\n"
        "LeNet-5,linear,5,0.5,IID,0.98,1,3000,100\n"
        "LeNet-5,linear,5,0.5,60% sorted,0.98,1,4000,200\n"
        "LeNet-5,FedAdam,5,0.0,IID,0.98,0,,\n"
    )

    def run(seed, steps, **changes):
        return {
            "task": "lenet5_mnist", "split": "iid", "workers": 5,
            "algorithm": "linear", "theta": 0.5, "target_accuracy": 0.98,
            "sampling": "passes", "seed": seed, "reached": True,
            "batch_size": 32, "learning_rate": 1e-3,
            "server_learning_rate": None, "local_epochs": None,
            "sketch_depth": None, "sketch_width": None,
            "steps_to_target": steps, "syncs_to_target": steps // 20,
            "steps": steps, "syncs": steps // 20, "best_accuracy": 0.9812,
        } | changes  # fmt: skip

    rows = [run(0, 2400), run(1, 3300), run(2, 3000)]
    rows += [run(0, 3000, split="sorted:0.6"), run(0, 60, theta="auto")]
    far = {"reached": False, "best_accuracy": 0.97123}
    far |= {"server_learning_rate": 1e-3, "local_epochs": 1}
    fedadam = {"algorithm": "fedadam", "theta": None} | far
    rows += [run(0, 5000, learning_rate=0.01, **fedadam)]
    # Not the authors' settings, so neither another seed of theirs.
    rows += [run(0, 5000, learning_rate=0.02, **fedadam)]
    rows += [run(3, 60, batch_size=64)]
    lines = published.tables(rows, str(path), "passes")
    assert [line for line in lines if line and "K |" not in line] == [
        "LeNet-5, IID, to 0.98:",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| 5 | fedadam | - | 1 | - | 1 of 1 not in 5000 (best 0.9712) | - "
        "| - | 1 of 1 not in 250 | - |",
        "| 5 | linear | 0.5 | 3 | 3000 | 3000 (2400 to 3300) | 1.00 "
        "| 100 | 150 (120 to 165) | 1.50 |",
        "LeNet-5, 60% sorted, to 0.98:",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| 5 | linear | 0.5 | 1 | 4000 | 3000 | 0.75 | 200 | 150 | 0.75 |",
    ]
