"""Which checkpoint workers go on from; they are threads here."""

import concurrent.futures
import functools
import threading

import numpy as np
import pytest
from forged import forge_path

from fda_tf.checkpoint import latest
from fda_tf.checkpoint.directory import Checkpoint


class Threads:
    """What a `ProcessGroup` offers, among threads of one process."""

    def __init__(self, index, count, barrier, slots):
        self.index, self.count = index, count
        self._barrier, self._slots = barrier, slots

    def gather_json(self, value):
        """Returns every thread's value."""
        self._slots[self.index] = value
        self._barrier.wait()
        everyone = list(self._slots)
        self._barrier.wait()
        return everyone

    def gather(self, value):
        """Returns every thread's number."""
        return np.array(self.gather_json(value))


def on_all(workers, function):
    """Returns function(replicas)'s result, or its error, on each worker."""
    barrier, slots = threading.Barrier(workers, timeout=20), [None] * workers

    def run(k):
        try:
            return function(Threads(k, workers, barrier, slots))
        except ValueError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, range(workers)))


def newest(folder, workers):
    """What each worker finds, where folder is one for all, or a function."""
    where = folder if callable(folder) else lambda k: folder
    return on_all(
        workers, lambda r: latest.newest(Checkpoint(where(r.index)), r)
    )


def write(folder, steps, workers, only=None):
    """Writes the parts of all workers, or only of some."""
    for step in steps:
        for k in range(workers) if only is None else only:
            arrays = {
                "weights/0": np.float32([step, k, 2**24]),
                "statistics/0": np.float32([k]),
                "rest_0/0": np.int64([k]),
                "history/0": np.float32([7]),
            }
            facts = {
                latest.OURS: {"statistics": "local" if step % 2 else "average"}
            }
            Checkpoint(folder).write(step, k, workers, arrays, facts)


def damage(folder, step, worker, workers):
    name = f"worker-{worker:05d}-of-{workers:05d}.data"
    path = folder / f"step-{step:09d}" / name
    path.write_bytes(path.read_bytes()[:-1])


def assert_found(found, step, workers):
    """All workers go on from the same step, each with its own part."""
    assert [f.step for f in found] == [step] * len(found)
    assert [f.workers for f in found] == [workers] * len(found)
    parts = [int(f.arrays["rest_0/0"][0]) for f in found]
    assert parts == [k % workers for k in range(len(found))]


@pytest.fixture(params=["one folder", "a folder each"])
def folders(request, tmp_path):
    """Where each worker writes."""
    shared = request.param == "one folder"
    return lambda k: tmp_path if shared else tmp_path / str(k)


def write_each(folders, steps, workers):
    for k in range(workers):
        write(folders(k), steps, workers, only=[k])


def test_nothing_is_found_where_nothing_is(folders):
    assert newest(folders, 2) == [None, None]


def test_the_newest_of_all(folders):
    write_each(folders, [10, 20, 30], 3)
    assert_found(newest(folders, 3), 30, 3)


def test_a_run_stopped_before_its_first_step(folders):
    write_each(folders, [0], 2)
    assert_found(newest(folders, 2), 0, 2)


def test_one_was_killed_while_all_wrote(folders):
    write_each(folders, [10, 20], 3)
    for k in (0, 2):
        write(folders(k), [30], 3, only=[k])
    assert_found(newest(folders, 3), 20, 3)
    # What the others had is gone: new parts must not complete it.
    write(folders(1), [30], 3, only=[1])
    assert_found(newest(folders, 3), 20, 3)


def test_one_part_is_damaged_while_the_others_are_sound(folders, caplog):
    write_each(folders, [10, 20, 30, 40], 3)
    damage(folders(1), 40, 1, 3)
    damage(folders(2), 30, 2, 3)
    assert_found(newest(folders, 3), 20, 3)
    warned = [m for m in caplog.messages if "taking the one before it" in m]
    assert len(warned) == 2
    assert Checkpoint(folders(0)).steps() == [20, 10]


def test_killed_while_writing_the_very_first(folders):
    write(folders(0), [10], 2, only=[0])
    assert newest(folders, 2) == [None, None]
    assert Checkpoint(folders(0)).steps() == []


@pytest.mark.parametrize("kept", [1, 2])
def test_a_worker_that_lost_its_parts_is_no_reason_to_begin_anew(folders, kept):
    for k in range(2):
        steps = [10 * (k + 1)] if kept == 1 else [10, 20] if k else []
        write(folders(k), steps, 2, only=[k])
    told = "worker 0 1, worker 1 1" if kept == 1 else "worker 0 0, worker 1 2"
    for error in newest(folders, 2):
        assert isinstance(error, ValueError)
        assert "no checkpoint of which every worker's part is" in str(error)
        assert told in str(error) and "to begin anew, give an" in str(error)
    assert Checkpoint(folders(1)).steps()  # nothing was removed


def test_another_format_is_refused_by_all(folders):
    write_each(folders, [10], 2)
    path = folders(1) / "step-000000010/worker-00001-of-00002.json"
    forge_path(path, fda_tf_checkpoint=3)
    first, second = newest(folders, 2)
    assert "has format version 3; this fda_tf reads version 2" in str(second)
    assert str(first) == f"Worker 1: {second}"


def test_a_folder_that_cannot_be_read_is_refused_by_all(tmp_path, monkeypatch):
    write(tmp_path, [10], 2)
    steps = Checkpoint.steps

    def refused(self):
        if threading.current_thread().name.endswith("_1"):
            raise PermissionError(13, "Permission denied", str(self.directory))
        return steps(self)

    monkeypatch.setattr(Checkpoint, "steps", refused)
    for error in newest(tmp_path, 2):
        assert isinstance(error, ValueError)
        assert "Permission denied" in str(error)


# Other numbers of workers.


@pytest.mark.parametrize("old, new", [(4, 2), (2, 3), (1, 2), (3, 1)])
def test_another_number_of_workers_begins_with_the_mean(tmp_path, old, new):
    write(tmp_path, [10, 20], old)
    found = newest(tmp_path, new)
    assert_found(found, 20, old)
    mean = (old - 1) / 2
    for part in found:
        weights = part.arrays["weights/0"]
        assert weights.dtype == np.float32
        assert weights.tolist() == [20, mean, 2**24]
        assert part.arrays["statistics/0"].tolist() == [mean]
        assert [a.tolist() for a in part.history()] == [[7]]


def test_local_statistics_are_no_mean(tmp_path):
    write(tmp_path, [11], 4)
    kept = [f.arrays["statistics/0"].tolist() for f in newest(tmp_path, 3)]
    assert kept == [[0], [1], [2]]


def spoil(folder, step, worker, workers, name="weights/0"):
    """Makes a number of one worker's part infinite."""
    arrays, facts = Checkpoint(folder).read(step, worker, workers)
    arrays[name][0] = np.inf
    Checkpoint(folder).write(step, worker, workers, arrays, facts)


@pytest.mark.parametrize("name", ["weights/0", "statistics/0"])
@pytest.mark.parametrize("step", [20, 21])  # statistics averaged, and not
def test_models_that_are_not_finite_are_left_out(tmp_path, caplog, step, name):
    write(tmp_path, [step], 4)
    spoil(tmp_path, step, 1, 4, name)
    found = newest(tmp_path, 5)
    for part, worker in zip(found, [0, 2, 3, 0, 2], strict=True):
        assert part.worker == part.arrays["rest_0/0"][0] == worker
        mean = (0 + 2 + 3) / 3
        np.testing.assert_array_equal(
            part.arrays["weights/0"], np.float32([step, mean, 2**24])
        )
        kept = worker if step == 21 else np.float32(mean)
        assert part.arrays["statistics/0"].tolist() == [kept]
    (warning,) = [r for r in caplog.records if r.levelname == "WARNING"]
    words = f"step {step} the model of worker 1 is NaN or infinite"
    assert words in warning.getMessage()


def test_where_no_model_is_finite_none_is_taken(tmp_path):
    write(tmp_path, [10, 20], 2)
    for k in range(2):
        spoil(tmp_path, 20, k, 2)
    for error in newest(tmp_path, 3):
        assert isinstance(error, ValueError)
        assert "step 20 the models of all 2 workers are NaN" in str(error)
        assert "Remove that step's folder, to go on from an" in str(error)


def test_the_newest_is_taken_whoever_made_it(tmp_path, caplog):
    write(tmp_path, [10, 50], 2)
    write(tmp_path, [20, 40], 4)
    write(tmp_path, [30], 3)
    write(tmp_path, [60], 4, only=[0, 1, 3])  # no whole one
    assert_found(newest(tmp_path, 2), 50, 2)
    assert_found(newest(tmp_path, 3), 50, 2)
    assert_found(newest(tmp_path, 4), 50, 2)
    damage(tmp_path, 50, 1, 2)
    assert_found(newest(tmp_path, 3), 40, 4)
    assert "worker-00001-of-00002.data is torn" in caplog.text
    assert_found(newest(tmp_path, 2), 40, 4)


def test_our_own_later_parts_are_removed_for_others_set(tmp_path):
    write(tmp_path, [10], 2)
    write(tmp_path, [20], 4)
    write(tmp_path, [30], 2, only=[0])
    assert_found(newest(tmp_path, 2), 20, 4)
    assert Checkpoint(tmp_path).steps() == [20, 10]


@pytest.mark.parametrize("copied", [[0, 1, 3], range(4)])
def test_parts_that_not_all_can_see_are_refused(tmp_path, copied):
    """In the first case nobody sees them all, in the second worker 0 does."""
    write(tmp_path / "0", [10], 4, only=copied)
    write(tmp_path / "1", [10], 4, only=[1])
    for error in newest(lambda k: tmp_path / str(k), 2):
        assert isinstance(error, ValueError)
        assert "parts of checkpoints of 4 workers, but no whole" in str(error)
        assert "each of the 2 workers" in str(error)
        assert "into one folder that every worker sees" in str(error)


def test_all_or_none():
    def fail(process_group, kind):
        if process_group.index == 1:
            raise kind("mine")
        return process_group.index

    def run(kind):
        return on_all(
            3,
            lambda r: latest.all_or_none(r, functools.partial(fail, r, kind)),
        )

    assert list(map(str, run(ValueError))) == [
        "Worker 1: mine", "mine", "Worker 1: mine",
    ]  # fmt: skip
    told = run(OSError)
    assert str(told[1]) == "The checkpoint cannot be used: mine"
    assert on_all(2, lambda r: latest.all_or_none(r, lambda: r.index)) == [0, 1]
