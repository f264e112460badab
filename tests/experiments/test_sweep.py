"""Sweeps: processes, retries, locks, kills, the table and the job array."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys

import processes
import pytest
from command_line import plan
from launched import eventually, runs
from processes import environment
from sweeps import command
from sweeps import runs as runs_of

from experiments import grid, job_array, pool, results, store

JOB = processes.HERE / "sweep_job.py"
TINY = (
    "--workers=2", "--batch_size=10", "--steps=6", "--theta=0.05",
    "--algorithm=linear", "--grid=learning_rate=0.002,0.003,1e38",
)  # fmt: skip


def jobs(*does, **changes):
    """Runs of `sweep_job.py` that do these, in order."""
    found = []
    for seed, what in enumerate(does):
        (settings,), _ = plan(algorithm=["linear"], seed=seed, **changes)
        words = (f"--run_id={settings.run_id}", f"--does={what}")
        found.append(grid.Run(settings, words))
    return found


def times(home, name):
    """RUN_ID and time of each line that the jobs wrote."""
    lines = (home / name).read_text().splitlines()
    return [(run, float(when)) for run, when in map(str.split, lines)]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains a pool of stand-ins; returns it."""
    monkeypatch.setattr(pool, "PROGRAM", (sys.executable, str(JOB)))

    def train(wanted, **options):
        found = pool.Pool(wanted, str(tmp_path), **options)
        found.train()
        return found

    return train


def test_a_run_that_fails_is_tried_once_more_and_named(train, tmp_path, capsys):
    wanted = jobs("fail", "finish", "fail once")
    assert train(wanted).failed == wanted[:1]
    begun = [run for run, _ in times(tmp_path, "begun")]
    names = [run.settings.run_id for run in wanted]
    assert [begun.count(name) for name in names] == [2, 1, 2]
    out = capsys.readouterr().out
    words = f"{names[0]}: failed again (exit code 1: Error: no such luck; see "
    assert words in out and f"{names[0]}/run.log" in out
    assert f"{names[2]}: failed (exit code 1" in out
    assert "2 of 3 done, 1 failed" in out
    # The next sweep tries what failed, and nothing else.
    train(wanted)
    begun = [run for run, _ in times(tmp_path, "begun")]
    assert [begun.count(name) for name in names] == [4, 1, 2]
    rows = store.read(tmp_path / "results.jsonl")
    assert [row["run_id"] for row in rows] == names[1:]


@pytest.mark.parametrize(
    "memory, jobs_at_once, most", [(10**12, 2, 2), (1, 2, 1), (10**12, 1, 1)]
)
def test_as_many_at_once_as_jobs_and_memory_allow(
    memory, jobs_at_once, most, train, tmp_path, monkeypatch
):
    monkeypatch.setattr(pool, "available_memory", lambda: memory)
    what = "meet" if most == 2 else "finish"
    train(jobs(what, what, what), jobs=jobs_at_once)
    events = [(when, 1) for _, when in times(tmp_path, "begun")]
    events += [(when, -1) for _, when in times(tmp_path, "ended")]
    running = [sum(n for _, n in sorted(events)[: i + 1]) for i in range(6)]
    assert max(running) == most


def test_memory_is_counted_from_the_models():
    def needs(**changes):
        return pool.memory(jobs("finish", **changes)[0])

    # Measured: 785 MB at K = 60; about 843 KB for each worker more.
    assert 0.8e9 < needs(workers=60) < 1.2e9
    more = (needs(workers=1060) - needs(workers=60)) / 1000
    assert 0.8e6 < more < 1.2e6
    assert needs(task="densenet121_cifar10", workers=2) > 3.3e9  # measured
    assert needs(task="vgg16star_mnist", backend="cluster") > 5e9
    assert 1e8 < pool.available_memory() < 1e14


def test_what_another_sweep_trains_is_waited_for(train, tmp_path, capsys):
    wanted = jobs("finish", "finish")
    folder = tmp_path / wanted[0].settings.run_id
    folder.mkdir()
    # It holds the lock, and finishes the run before it ends.
    other = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, pathlib, sys, time\n"
         "folder = pathlib.Path(sys.argv[1])\n"
         "lock = open(folder / '.lock', 'w')\n"
         "fcntl.flock(lock, fcntl.LOCK_EX)\n"
         "(folder / 'locked').touch()\n"
         "time.sleep(1.5)\n"
         "(folder / 'config.json').write_text('{}')\n"
         "(folder / 'summary.json').write_text('{}')\n", str(folder)]
    )  # fmt: skip
    assert eventually((folder / "locked").exists)
    train(wanted)
    assert other.wait() == 0
    begun = [run for run, _ in times(tmp_path, "begun")]
    assert begun == [wanted[1].settings.run_id]
    assert len(store.read(tmp_path / "results.jsonl")) == 2


def test_what_has_its_row_is_finished(train, tmp_path, capsys):
    wanted, kept = jobs("finish", "finish"), tmp_path / "kept" / "all.jsonl"
    names = [run.settings.run_id for run in wanted]
    values = dict.fromkeys(results.SUMMARY, 1)
    store.Runs(kept).add(store.row_of(wanted[0].settings, values))
    before = kept.read_text()
    train(wanted, kept=str(kept))
    assert "2 runs, 1 of them finished before" in capsys.readouterr().out
    assert [run for run, _ in times(tmp_path, "begun")] == names[1:]
    # Its own row comes below what was there, once, whoever else writes.
    train(wanted, kept=str(kept))
    assert kept.read_text().startswith(before)
    assert [row["run_id"] for row in store.read(kept)] == names


def test_half_a_run_is_no_row(tmp_path):
    for name in ("half", "whole"):
        (tmp_path / name).mkdir()
        config = {"task": name, "theta": 1.5, "stop": True}
        results.write_json(tmp_path / name / "config.json", config)
    values = dict.fromkeys(results.SUMMARY, 3)
    results.write_json(tmp_path / "whole" / "summary.json", values)
    store.collect(tmp_path)
    rows = store.Runs(tmp_path / "results.jsonl").by_id()
    assert list(rows) == ["whole"]
    row = rows["whole"]
    assert row["theta"] == 1.5 and row["stop"] is True and row["steps"] == 3
    assert row["weights"] is None


def children(pid):
    """The processes of a process, with theirs."""
    path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(word) for word in path.read_text().split()]
    return found + [more for child in found for more in children(child)]


def test_a_sweep_that_is_killed_goes_on_when_started_again(
    data, tmp_path, capfd
):
    flags = [*TINY, f"--data_dir={data}", f"--results_dir={tmp_path}"]
    first = subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", *flags, "--jobs=1"],
        env=environment(),
        cwd=JOB.parent.parent,
        start_new_session=True,
    )
    try:
        # One is finished, and the next one has begun to train.
        assert eventually(
            lambda: (
                len(list(tmp_path.glob("*/run.log"))) == 2
                and len(list(tmp_path.glob("*/config.json"))) == 2
            ),
            seconds=200,
        )
        under_way = children(first.pid)
        assert under_way
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert eventually(lambda: not any(map(runs, under_way)))
    (done,) = tmp_path.glob("*/summary.json")
    assert len(store.read(tmp_path / "results.jsonl")) == 1
    before = done.stat().st_mtime_ns

    assert command(*flags) == 1
    out, err = capfd.readouterr()
    assert "3 runs, 1 of them finished before" in out
    assert "2 of 3 runs are finished" in out
    (bad,) = tmp_path.glob("*-lr1e+38-*/run.log")
    assert f"Failed twice: {bad}" in err
    assert bad.read_text().count("\nError: ") == 2
    assert done.stat().st_mtime_ns == before
    rows = store.Runs(tmp_path / "results.jsonl").by_id()
    assert [row["learning_rate"] for row in rows.values()] == [0.002, 0.003]
    for name, row in rows.items():
        values = json.loads((tmp_path / name / "summary.json").read_text())
        assert {key: row[key] for key in values} == values
    assert not list(tmp_path.glob("*.png"))


def test_the_job_array_has_a_task_for_each_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["--split=label:0,8", "--nostop"]
    arguments = ["--grid=theta=1,3 algorithm=synchronous,linear", *asked]
    arguments.append("--summary=all of them.jsonl")
    assert command(*arguments, "--slurm=job.sbatch") == 0
    assert "3 of 3 runs to train: sbatch job.sbatch" in capsys.readouterr().out
    text = pathlib.Path("job.sbatch").read_text()
    for line in ("--array=0-2", "--cpus-per-task=2", "--mem=3G", "--ntasks=1"):
        assert f"\n#SBATCH {line}\n" in text
    # A python that says what it is called with.
    pathlib.Path("python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    pathlib.Path("python").chmod(0o755)
    wanted = runs_of(
        *asked, theta=["1", "3"], algorithm=["synchronous", "linear"]
    )
    for task, run in enumerate(wanted):
        code, words = array_task(task)
        assert code == 0
        assert words[:4] == ["-u", "-m", "experiments.sweep", "--jobs=1"]
        (one,) = [word for word in words if word.startswith("--grid=")]
        rest = [word for word in words[5:] if word != one]
        rest.remove("--summary=all of them.jsonl")
        (again,) = runs_of(*rest, grids=[grid.parse(one[7:])])
        assert again.settings == run.settings
    assert array_task(3)[0] == 2


def array_task(number):
    """Runs the script as a task of the array; its code and words."""
    done = subprocess.run(
        ["bash", "job.sbatch"],
        env={"PATH": f".:{os.environ['PATH']}"}
        | {"SLURM_ARRAY_TASK_ID": str(number)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.splitlines()


def test_the_job_array_leaves_out_what_is_finished(tmp_path, capsys):
    wanted = jobs("finish", "finish")
    folder = tmp_path / wanted[0].settings.run_id
    folder.mkdir()
    (folder / "summary.json").touch()
    path = tmp_path / "a job.sbatch"
    job_array.write(str(path), wanted, str(tmp_path))
    assert "#SBATCH --array=0-0\n" in path.read_text()
    assert f"sbatch {shlex.quote(str(path))}" in path.read_text()
    path.unlink()
    job_array.write(str(path), wanted[:1], str(tmp_path))
    assert not path.exists() and "All 1 runs" in capsys.readouterr().out
