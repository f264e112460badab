"""Clusters of real processes that were stopped end as ones that never were."""

import json
import re
import subprocess
import sys

import numpy as np
import processes
import pytest
import resume_cases
import resume_more
import small

import fda_tf

CASES, TRAINS = resume_cases.cases(), resume_more.trains()
STEPS = {name: case.steps for name, case in CASES.items()}
STEPS |= {name: steps for name, (_, _, steps, _, _) in TRAINS.items()}
STEPS |= {"own loop": [15, 10, 5], "full disk": [12, 8, 4]}
QUICK = ("SIGTERM", "train, SIGTERM", "own loop")
OTHERS = [name for name in STEPS if name not in QUICK]


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """What two workers did in all other cases."""
    folder = tmp_path_factory.mktemp("slow")
    return processes.run_resume_job(folder, OTHERS, seconds=900)


def assert_same(again, lone):
    """What was done is the same, bit for bit; of History, what there is."""
    assert "error" not in lone and "exit" not in lone, lone
    assert "error" not in again and "exit" not in again, again
    epochs = again.get("epochs", [])
    if epochs:
        assert lone["epochs"][-len(epochs) :] == epochs
        assert lone["position"] == again["position"]
        assert again["history"] == {
            name: values[-len(epochs) :]
            for name, values in lone["history"].items()
        }
    for name in lone.keys() - {"epochs", "history", "position"}:
        assert repr(lone[name]) == repr(again[name]), name  # NaN is NaN


def check(worker, name):
    """One worker's run went on, from where it was stopped."""
    did = worker[name]
    assert did["steps"] == STEPS[name]
    assert_same(did["again"], did["lone"])
    if name == "own loop":
        assert 1 < did["lone"]["counters"]["syncs"] < 25
    else:
        checked = [s for s in did["lone"]["syncs"] if s[2] != "end"]
        # Without checks there is no variance; the optimizer counts the steps.
        steps = len(did["lone"]["variance"]) or did["lone"]["optimizer"][0]
        assert 1 <= len(checked) < steps


@pytest.mark.parametrize("name", QUICK)
def test_it_goes_on(stopped, name):
    for worker in stopped[0]:
        check(worker, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_it_goes_on_in_other_cases(slow, name):
    for worker in slow[0]:
        check(worker, name)


@pytest.mark.parametrize("name", [n for n in QUICK if "SIGTERM" in n])
def test_sigterm_ends_all_in_good_order(stopped, name):
    for worker in stopped[0]:
        assert worker[name]["stopped"] == {"exit": 143}


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in OTHERS if "SIGTERM" in n])
def test_sigterm_ends_all_whenever_it_comes(slow, name):
    for worker in slow[0]:
        assert worker[name]["stopped"] == {"exit": 143}


@pytest.mark.slow
def test_a_run_that_is_over_is_not_run_again(slow):
    for worker in slow[0]:
        for name in ("over", "ended early"):
            assert worker[name]["again"]["epochs"] == []
        assert worker["ended early"]["lone"]["epochs"] == [0, 1]
        assert worker["over, more epochs"]["again"]["epochs"] == [1, 2]


@pytest.mark.slow
def test_a_full_disk_ends_no_training(slow):
    for k, worker in enumerate(slow[0]):
        assert "Stop" in worker["full disk"]["stopped"]["error"]
        for step in (16, 20, 24):
            words = (
                f"Worker 1 cannot write its part of the checkpoint of step "
                f"{step} to .*full disk.* The last good"
            )
            assert bool(re.search(words, slow[1][k])) == (k == 1)


REFUSED = {
    "fit, model": "is of another model or other settings: .* is missing",
    "fit, theta": "other settings: sync.theta was 0.2, is 0.3",
    "fit, optimizer": "other settings: optimizer was .*, is .*clipnorm",
    "fit, folder": "directory=.*file.* cannot be written",
    "train, monitor": "monitor/0 is float32.*, not known",
    "train, folder": "directory=.*file.* cannot be written",
    "own loop, folder": "directory=.*file.* cannot be written",
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_worker_refuses_in_words(stopped, name):
    for k, worker in enumerate(stopped[0]):
        error = worker["refusals"][name]["error"]
        assert re.search(REFUSED[name], error), error
        assert ("Worker 1" in error) == ("folder" in name and k == 0), error


def test_a_checkpoint_of_some_workers_only_is_refused(stopped):
    for worker in stopped[0]:
        error = worker["refusals"]["train, checkpoint"]["error"]
        assert "Worker 1 differs from worker 0 in checkpoint: " in error


# Processes that die.


def test_a_killed_worker_costs_nothing_but_time(stopped, tmp_path):
    command = [sys.executable, "-m", "fda_tf.launch", "--workers=2"]
    job = str(processes.HERE / "resume_job.py")
    done = subprocess.run(
        [*command, "--max_restarts=1", job, str(tmp_path), "kill"],
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    for k, before in enumerate(stopped[0]):
        report = json.loads((tmp_path / f"2-{k}.json").read_text())
        assert report["kill"]["epochs"] == [1, 2]  # it went on from step 12
        assert_same(report["kill"], before["SIGTERM"]["lone"])


# Other numbers of workers.


def parts(folder, step, workers):
    """Returns what each worker's part holds."""
    saved = fda_tf.Checkpoint(folder)
    return [saved.read(step, k, workers)[0] for k in range(workers)]


def flat(part, *kinds):
    names = [n for kind in kinds for n in part if n.startswith(f"{kind}/")]
    return np.concatenate([np.ravel(part[name]) for name in names])


def check_taken_over(now, said, before, step):
    """All went on from the average of what the files say."""
    mean = [
        np.mean([flat(part, kind) for part in before], 0, np.float64)
        for kind in ("weights", "statistics")
    ]
    old, count = len(before), len(now)
    for k, worker in enumerate(now):
        opened = worker["other workers"]["opened"]
        model = [np.ravel(v) for v in opened["model"]]
        np.testing.assert_array_equal(
            np.concatenate(model), np.float32(np.concatenate(mean))
        )
        np.testing.assert_array_equal(opened["w0"], np.float32(mean[0]))
        assert opened["interval"] == 0 and opened["step"] == step
        slots = flat(before[k % old], "rest_0", "rest_1")
        for slot in opened["slots"]:
            assert np.isin(np.float32(slot), np.float32(slots)).all()
    seeds = [str(w["other workers"]["opened"]["seeds"]) for w in now]
    assert len(set(seeds)) == count and "[]" not in seeds
    words = (
        f"The checkpoint of step {step} is of {old} workers; there are {count}"
        " now. All begin a new round from the average of those models."
    )
    for k, output in enumerate(said):
        assert (words in output) == (k == 0)


def test_one_worker_and_two_go_on_from_each_other(stopped):
    """What was sent is what was sent, whoever goes on."""
    chief, other = (worker["one and two"] for worker in stopped[0])
    assert other == {"two": chief["two"]}
    d = small.start().size
    half = 8 * (d // 2)  # bytes of the numbers sent, and of their places
    sent = {
        "state_bytes": 2 * 4 * 2,  # of two workers, by the linear monitor
        "model_bytes": 2 * (half + 4 * d),
        "paper_state_bytes": 2 * 4 * 2,
        "paper_model_bytes": 2 * 2 * 4 * d,
        "syncs": 1,
        "checks": 1,
    }
    for name, step, times in (
        ("one", 3, 0),
        ("two", 6, 3),
        ("one again", 9, 3),
    ):
        counters = chief[name]
        assert counters["step"] == step
        assert {n: counters[n] for n in sent} == {
            n: times * number for n, number in sent.items()
        }


@pytest.mark.slow
def test_other_numbers_of_workers(tmp_path):
    def take_over(workers):
        names = ["other workers"]
        return processes.run_resume_job(tmp_path, names, workers)

    take_over(4)
    four = parts(tmp_path / "fit", 8, 4)
    two_now, said = take_over(2)
    check_taken_over(two_now, said, four, 8)
    two = parts(tmp_path / "fit", 16, 2)
    three_now, said = take_over(3)
    check_taken_over(three_now, said, two, 16)
    for worker in three_now:
        opened = worker["other workers"]["opened"]
        # Epoch 3's step 4 of 10 is its step 2 of 7.
        assert opened["kept"] == {"epoch": 2, "done": 4, "start": 20}
        fit, train = (worker["other workers"][n] for n in ("fit", "train"))
        assert fit["epochs"] == [2]
        assert len(fit["variance"]) == 16 + 5
        assert fit["position"] == 21
        assert [row["step"] for row in train["rows"]] == [10, 20, 30, 40]
        assert len(train["variance"]) == 40
        for name in ("fit", "train"):
            first = three_now[0]["other workers"][name]
            did = worker["other workers"][name]
            assert did["weights"] == first["weights"]
            assert np.isfinite(np.concatenate(did["weights"], None)).all()
