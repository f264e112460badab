"""The check of committed ratios: what passes, warns and fails."""

import json
import subprocess
import sys

import pytest

from experiments.bench import check


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
    committed = json.loads(check.FIGURES.read_text())["figures"]
    assert {
        "import",
        "sketch/norm, d=1000000",
        "simulation/step, K=5",
        "linear/local",
        "sketch, cascade/local",
        "synchronisation/all-reduce",
    } <= committed.keys()


SLOW_SKETCH = """
from absl import app
from fda_tf.sketch import AMSSketch

fast = AMSSketch.sketch

def four_times(self, vector):
    return sum(fast(self, vector * scale) for scale in (1.0, 2.0, 3.0, 4.0))

AMSSketch.sketch = four_times
from experiments.bench import check
check.define_flags()
app.run(check.main)
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
