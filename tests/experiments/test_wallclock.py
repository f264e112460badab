"""Wall clock: what made-up runs took; and a real one, which is slow."""

import doctest
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import small

from experiments import config, store, style
from experiments.bench import (
    gradients,
    netlab,
    wallclock_counts,
    wallclock_picture,
    wallclock_runs,
)

JOB = {
    "task": "lenet5_mnist", "mbit": 10.0, "seed": 0, "hosts": 4,
    "target": 0.98, "every": 50, "steps": 100, "seconds": 60.0,
}  # fmt: skip


def _run(method, seconds=3.0, reached=True, **more):
    """A line of the benchmark: 100 steps of 5 ms, 4 hosts on 2 cores."""
    return {
        **JOB, "method": method, "reached": reached, "steps_taken": 100,
        "seconds_taken": seconds, "syncs": 2, "messages": 100, "blocks": 2,
        "sent_bytes": 1_066_000, "sent_packets": 1000,
        "sent_content": 1_000_000, "wire_bytes": 963_500, "frame_bytes": 300.0,
        "idle_bytes_per_second": 300.0, "alone_step_ms": 5.0,
        "local_step_ms": 10.0,
        "cores": 2, "others": 0.1,
        "curve": [[50, seconds / 2, 0.9], [100, seconds, 0.981]],
    } | more  # fmt: skip


@pytest.mark.parametrize("module", [wallclock_counts, wallclock_picture])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_what_a_run_took():
    others = [_run("fedavg", local_step_ms=8.0), _run("linear", others=0.0)]
    others.append(_run("linear", others=0.0, local_step_ms=12.0))
    seconds = wallclock_runs.step_seconds(others)
    assert seconds == {("lenet5_mnist", 4): (0.011, 0.005)}
    seconds = wallclock_runs.step_seconds(others[:2])  # alone on the machine
    cost = wallclock_runs.costs(_run("sketch"), seconds)
    assert cost["compute s"] == 1.0
    assert cost["waiting s"] == 2.0
    assert cost["s, a core each"] == 2.5
    assert cost["cable s"] == pytest.approx(1.066 * 8 / 4 / 10)
    # 963,500 of tensors, 112 frames of 300, 3 s of 300: of 1,000,000.
    assert cost["explained"] == pytest.approx(0.998)


def test_the_table_has_medians_over_seeds():
    found = [_run("sketch", s, seed=s) for s in (2, 3, 9)] + [_run("fedavg")]
    rows = wallclock_runs.table(found)
    assert [row["method"] for row in rows] == ["fedavg", "sketch"]
    assert rows[1]["s"] == 3 and rows[1]["runs"] == 3
    assert rows[1]["seconds of each"] == [2, 3, 9]


def test_a_run_is_done_that_reached_its_target_or_its_limits():
    job, longer = JOB | {"method": "sketch"}, {"steps": 200}
    done, late = _run("sketch"), _run("sketch", reached=False)
    assert wallclock_runs.is_done(job | longer, done)
    assert wallclock_runs.is_done(job, late)
    assert not wallclock_runs.is_done(job | longer, late)
    assert not wallclock_runs.is_done(job, None)
    assert not wallclock_runs.is_done(job, done, others=0.05)


def test_the_committed_runs_are_of_known_methods():
    folder = pathlib.Path(style.__file__).parent
    path = folder / "summaries" / "wallclock.jsonl"
    kept = store.Store(path, *wallclock_runs.KEY)
    methods = {run["method"] for run in kept.rows.values()}
    assert methods == {*wallclock_runs.METHODS, gradients.NAME}
    for method in wallclock_runs.METHODS:
        assert config.settings(method).text == method
    assert len(wallclock_runs.table(kept.rows.values())) == 68


def test_the_picture_names_each_method_and_rate():
    runs = [
        _run(method, seconds=s, mbit=mbit)
        for s, method in enumerate(wallclock_runs.METHODS, 1)
        for mbit in (10.0, 1000.0)
    ]
    with style.drawing():
        figure = wallclock_picture.figure(runs, "LeNet-5")
        figure.draw_without_rendering()
    assert [a.get_title("left") for a in figure.axes[:2]] == [
        "10 mbit",
        "1000 mbit",
    ]
    named = [text.get_text() for text in figure.axes[2].get_yticklabels()]
    expected = list(map(wallclock_picture.name_of, wallclock_runs.METHODS))
    assert named == expected


def test_the_optimizer_steps_by_the_mean_gradient():
    x, y = small.data()
    ends = []
    for rate, factor in ((0.3, 0.5), (0.15, 1.0)):
        model = small.linear_model(optimizer=keras.optimizers.SGD(rate))
        gradients.averaged(model, lambda g, f=factor: [f * b for b in g])
        model.fit(x, y, batch_size=60, epochs=2, shuffle=False, verbose=0)
        ends.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(*ends, rtol=1e-5)
    assert np.abs(ends[0] - small.start().ravel()).max() > 0.01


@pytest.mark.slow
@pytest.mark.skipif(not netlab.can_be(), reason=netlab.NEEDS)
def test_the_meter_and_the_cards_agree(tmp_path):
    command = [sys.executable, "-m", "experiments.bench.wallclock"]
    command += ["--tasks=lenet5_mnist5000", "--hosts=2", "--rates=100"]
    methods = ["gradients", "local_sgd:interval=8", "sketch"]
    command += [f"--methods={','.join(methods)}", "--steps=60", "--every=20"]
    command += [f"--output={tmp_path}/runs.jsonl"]
    for seconds in (400, 60):  # the second time, nothing is left to be run
        # By SIGTERM it takes its hosts away; by SIGKILL it could not.
        limited = ["timeout", str(seconds), *command]
        done = subprocess.run(limited, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout.splitlines()[-1])["rows"]
        assert sorted(row["method"] for row in rows) == sorted(methods)
        assert all(0.95 < row["explained"] < 1.05 for row in rows)
