"""The closed forms of what training costs, and the command that answers."""

import json
import subprocess
import sys

import pytest

from experiments.bench import costs, estimate, fits

KNOWN = {
    "collective": {"start": 0.001, "hop": 0.002, "byte": 1e-7},
    "synchronisation": {"parameter": 1e-6},
    "state": {
        "linear": {"a": 0.1, "b": 1e-5},
        "cascade, quiet": {"a": 0.0, "b": 2e-5},
        "sketch, whole": {"a": 0.2, "b": 3e-5},
        "bytes_per_second": 1e9,
    },
    "share_above": 0.25,
    "intervals": [
        {
            **{"model": "small", "d": 1e4, "steps": [1, 1.1, 2]},
            **{"linear": [1, 2, 3], "sketch": [4, 5, 6]},
        },
        {
            **{"model": "big", "d": 1e8, "steps": None},
            **{"linear": [7, 8, 9], "sketch": [7, 8, 9]},
        },
    ],
}
JOB = costs.Job(parameters=1000, workers=4, step=0.5, rate=1e6, latency=0.01)


def test_a_ring_by_hand():
    # 6 hops of 12 ms, 1 ms to start, 10 to ask; 6,000 bytes at 1.1 us each.
    assert costs.collective(JOB, KNOWN, 4000.0) == pytest.approx(0.0896)
    assert costs.synchronisation(JOB, KNOWN) == pytest.approx(0.0906)


def test_a_gather_by_hand():
    # 3 hops, and three times 1,015.625 bytes.
    job = costs.Job(**{**vars(JOB), "compression": "int8"})
    expected = 0.011 + 3 * 0.012 + 3046.875 * 1.1e-6 + 0.001
    assert costs.synchronisation(job, KNOWN) == pytest.approx(expected)


def test_checks_by_hand():
    def ring(floats):
        return 0.083 + 1.5 * 4 * floats * 1.1e-6

    assert costs.check(JOB, KNOWN, "linear") == pytest.approx(0.11 + ring(3))
    above = 2 * 0.23 + ring(7) + ring(1252)
    expected = 0.75 * (0.02 + ring(2)) + 0.25 * above
    assert costs.check(JOB, KNOWN, "sketch") == pytest.approx(expected)
    # Twice the memory bandwidth halves what each parameter costs.
    fast = costs.Job(**{**vars(JOB), "memory": 2e9})
    assert costs.state(fast, KNOWN, "linear") == pytest.approx(0.105)


def test_rows_by_hand():
    rows = estimate.rows(JOB, KNOWN, 100, 32, 5, {"linear": 50, "sketch": 1000})
    synchronous, local, fedavg, linear, sketch = rows
    assert synchronous["seconds"] == pytest.approx(100 * (0.5 + 0.0906))
    assert local["seconds"] == pytest.approx(50 + 100 / 32 * 0.0906)
    assert fedavg["seconds"] == pytest.approx(50 + 0.0906)
    checks = 20 * costs.check(JOB, KNOWN, "linear")
    assert linear["seconds"] == pytest.approx(50 + checks + 2 * 0.0906)
    assert linear["mb_sent"] == pytest.approx((2 * 6000 + 20 * 18) / 1e6)
    assert linear["round_s"] == pytest.approx(linear["seconds"] / 2)
    assert sketch["round_steps"] == 100  # no round is longer than an epoch
    assert synchronous["times_synchronous"] == 1


def test_intervals_are_those_of_the_nearest_in_size():
    found = costs.interval(9e5, KNOWN, "sketch")
    assert found["model"] == "small" and found["median"] == 5
    assert found["steps"] == 1.1
    assert costs.interval(2e6, KNOWN, "linear")["model"] == "big"


def test_fits_find_what_made_the_points():
    x = [1e5, 1e6, 1e8]
    fit = fits.line(x, [2e-3 + 3e-9 * v for v in x])
    assert fit["a"] == pytest.approx(2e-3) and fit["b"] == pytest.approx(3e-9)
    assert fits.line([1, 2], [1, 3])["a"] == 0  # no cost is below 0
    law = fits.power(x, [5e-4 * v**0.5 for v in x])
    assert law["c"] == pytest.approx(5e-4) and law["p"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="at least two different x"):
        fits.line([1, 1], [2, 3])


def _rows(synchronous, local, fda):
    named = {"synchronous": synchronous, "local SGD, H = 32": local}
    named |= {"FDA, linear": 9e9, "FDA, sketch": fda}
    more = {"steps_s": 10.0, "checks_s": 4.0, "round_steps": 20}
    return [{"method": m, "seconds": s, **more} for m, s in named.items()]


def test_the_verdict_counts_the_steps_that_fda_takes_more():
    yes = estimate.verdict(_rows(30.0, 5.0, 10.0), 1, 1.5)
    assert yes.startswith("Yes: for an epoch FDA, sketch takes 1/3 of ")
    assert "2 times those of local SGD, H = 32." in yes
    assert "1.5 times synchronous training's steps: 1/2 of its" in yes
    assert "check every 4 steps" in yes and "theta would hardly" not in yes
    no = estimate.verdict(_rows(12.0, 15.0, 10.0), 6, 1.5)
    assert no.startswith("No: for an epoch FDA, sketch takes 1/1.2 of ")
    assert "1.25 times its seconds" in no and "theta would hardly" in no
    unknown = estimate.verdict(_rows(12.0, 15.0, 10.0), 1, None)
    assert unknown.startswith("Yes") and "is not known" in unknown


def test_no_round_is_shorter_than_from_check_to_check():
    rows = estimate.rows(JOB, KNOWN, 100, 32, 80, {"linear": 50, "sketch": 90})
    assert [row["round_steps"] for row in rows[3:]] == [80, 90]


def run(**changed):
    values = {
        "parameters": "25e6",
        "step_ms": "90",
        "workers": "8",
        "mbit": "1000",
        "latency_ms": "20",
    } | changed
    given = [f"--{name}={value}" for name, value in values.items()]
    command = [sys.executable, "-X", "importtime", "-m"]
    return subprocess.run(
        [*command, "experiments.bench.estimate", *given],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_answers_without_tensorflow():
    done = run()
    assert not done.returncode, done.stderr
    assert "argparse" in done.stderr  # what was imported is all there
    assert "tensorflow" not in done.stderr
    assert "FDA" in done.stdout and "Assumed" in done.stdout
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert rows[0]["method"] == "synchronous" and rows[0]["seconds"] > 0


def test_bad_input_is_refused_in_words():
    done = run(
        workers="1", mbit="0", step_ms="nan", latency_ms="-1", samples="0"
    )
    assert done.returncode == 1 and not done.stdout
    for words in (
        "--workers=1: expected at least 2; alone, nothing is sent",
        "--mbit=0: expected a number above 0",
        "--step_ms=nan: expected a number above 0",
        "--latency_ms=-1: expected milliseconds, 0 or more",
        "--samples=0: expected 1 or more",
    ):
        assert words in done.stderr
    assert "--parameters=inf: expected" in run(parameters="inf").stderr
