"""The check of committed ratios, and the pairs that all benchmarks rest on."""

import doctest
import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import processes, store
from experiments.bench import (
    check,
    costs,
    estimate,
    exchange,
    fits,
    measured,
    netlab,
    overhead,
    sketch,
)

WITH_EXAMPLES = (
    check, costs, estimate, exchange, fits, measured, netlab, overhead, sketch,
)  # fmt: skip


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_blocks_in_turn():
    ran = []
    blocks = {n: lambda n=n: ran.append(n) or len(ran) for n in ("a", "b", "c")}
    pairs = measured.in_turn(blocks, "a", 20)
    assert list(pairs) == ["b", "c"] and len(ran) == 80
    for i in range(0, 80, 2):  # neighbours: the base and another
        assert ran[i : i + 2].count("a") == 1
    for name in "bc":
        assert all(abs(own - base) == 1 for own, base in pairs[name])
        assert {own > base for own, base in pairs[name]} == {True, False}


def test_the_first_process_to_fail_ends_all_and_is_quoted():
    program = "import os, sys, time\n"
    program += "own = '\"index\": 1' in os.environ['TF_CONFIG']\n"
    program += "sys.exit('what was wrong') if own else time.sleep(60)"
    with pytest.raises(SystemExit, match="process 1:\nwhat was wrong"):
        processes.run([sys.executable, "-c", program], 2, timeout=30)
    with pytest.raises(SystemExit, match=r"more than 0\.5 s:\nprocess 0:"):
        processes.run(
            [sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5
        )


def add(a, b, times=1):
    """What `test_a_function_is_called_in_a_process` calls."""
    return {"sum": times * (a + b), "job": bool(os.environ["TF_CONFIG"])}


def test_a_function_is_called_in_each_process(monkeypatch):
    folder = pathlib.Path(__file__).parent
    root = pathlib.Path(store.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{root}")
    assert processes.call(add, 1, 2, times=3) == [{"sum": 9, "job": False}]
    both = processes.call(add, 1, 2, workers=2)
    assert both == [{"sum": 3, "job": True}] * 2


def test_flags_are_read_by_their_defaults(monkeypatch, capsys):
    got = []
    flags = {
        "sizes": (["1e4"], "Some."), "count": (3, "."), "rate": (float, "."),
        "only": ((), "Again and again."), "quick": (False, "."),
    }  # fmt: skip
    words = ["--sizes=", "--only=a, b", "--only=c", "--rate=1e3", "--quick"]
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    measured.command(lambda options: got.append(vars(options)), **flags)
    assert got == [
        {"sizes": [], "only": ["a, b", "c"], "rate": 1e3, "quick": True}
        | {"count": 3}
    ]
    monkeypatch.setattr(sys, "argv", ["bench", "--count=many"])
    with pytest.raises(SystemExit):
        measured.command(print, **flags)
    assert "invalid int value: 'many'" in capsys.readouterr().err


def test_of_rows_with_one_key_the_last_counts(tmp_path):
    path = tmp_path / "folder" / "rows.jsonl"
    kept = store.Store(path, "name", "seed")
    for value in (1, float("inf")):
        kept.add({"name": "a", "seed": 0, "value": value})
    kept.add({"name": "b", "seed": 0, "value": None})
    again = store.Store(path, "name", "seed")
    assert len(store.read(path)) == 3 and again.rows == kept.rows
    assert again[{"name": "a", "seed": 0}]["value"] == "inf"
    assert {"name": "a", "seed": 1} not in again
    path.write_text('["a"]\n')
    with pytest.raises(ValueError, match="is not a summary .* no object"):
        store.read(path)


@pytest.mark.parametrize("name", ["auto", "rivals", "compressions"])
def test_the_committed_rows_are_read(name):
    folder = pathlib.Path(store.__file__).parent / "summaries"
    key = ("algorithm", "task") if name == "auto" else ("method",)
    kept = store.Store(folder / f"{name}.jsonl", *key, "seed", "workers")
    assert len(kept.rows) > 10


def test_what_is_worse_warns_and_fails():
    rows = check.compare(
        {"a": 2.9, "b": 3.1, "c": 6.1, "d": 1.0, "e": float("nan")},
        {"a": 2.0, "b": 2.0, "c": 2.0, "e": 1.0},
    )
    verdicts = [row["verdict"] for row in rows]
    assert verdicts == ["ok", "WARNING", "FAILURE", "new", "FAILURE"]
    assert rows[1]["times"] == pytest.approx(1.55)


def test_what_looks_bad_is_measured_again(monkeypatch):
    values = {"steady": [1.0, 9.0], "once": [9.0, 1.1], "ever": [9.0, 8.0]}
    found = {
        name: lambda _, name=name: {name: values[name].pop(0)}
        for name in values
    }
    monkeypatch.setattr(check, "MEASUREMENTS", found)
    fresh = check.measure(list(values), True, dict.fromkeys(values, 1.0))
    assert fresh == {"steady": 1.0, "once": 1.1, "ever": 8.0}


def test_the_quick_figures_are_committed():
    committed = json.loads(check.FIGURES.read_text())["quick"]
    assert committed.keys() == {
        "importing fda_tf/TensorFlow",
        "sketch/norm, d=1000000",
        "simulation/step, K=5",
        "a check, linear/local step",
        "a check, sketch/local step",
        "synchronisation/all-reduce, 10 tensors",
    }


SLOW_SKETCH = """
from fda_tf.algorithm.sketch import AMSSketch

fast = AMSSketch.sketch

def eight_times(self, vector):
    return sum(fast(self, vector * scale) for scale in range(1, 9))

AMSSketch.sketch = eight_times
from experiments.bench import check, measured
measured.command(check.main, **check.FLAGS)
"""


@pytest.mark.slow
def test_a_slow_sketch_fails():
    done = subprocess.run(
        [sys.executable, "-c", SLOW_SKETCH, "--quick", "--only=sketches"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout
    assert "sketch/norm, d=1000000: more than 3 times" in done.stderr
