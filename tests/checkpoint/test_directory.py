"""Checkpoints on disk: what is read is what was written, or nothing is."""

import contextlib
import hashlib
import itertools
import os
import pathlib
import pickle
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc

import ml_dtypes
import numpy as np
import processes
import pytest
from checkpoint_job import state
from forged import forge_path, seal
from processes import environment, run_workers

from fda_tf.checkpoint import directory, file_format

JOB = str(processes.HERE / "checkpoint_job.py")
PART = "step-000000002/worker-00000-of-00001"


@pytest.fixture
def saved(tmp_path):
    """Three checkpoints of a lone worker, after steps 1, 2 and 3."""
    made = directory.Checkpoint(tmp_path)
    for step in (1, 2, 3):
        made.write(step, 0, 1, *state(step, 0, 1000))
    return made


def files(saved):
    """All files and folders, by their names in the directory."""
    every = saved.directory.rglob("*")
    return sorted(str(path.relative_to(saved.directory)) for path in every)


def assert_holds(saved, step, worker, workers, size):
    """The part is there, and is bit for bit what the job's `state` makes."""
    arrays, facts = saved.read(step, worker, workers)
    expected, told = state(step, worker, size)
    assert facts == told and list(arrays) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def forge(saved, **changes):
    """Writes step 2's manifest anew, with other contents and a true seal."""
    forge_path(saved.directory / f"{PART}.json", **changes)


# What goes in comes out.

ARRAYS = {
    "float32": np.float32([[1.5, -0.0], [np.inf, 2**-149]]),
    "bits of a NaN": np.uint32([0x7FC00123]).view(np.float32),
    "a number": np.array(7),
    "a scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), np.int8),
    "Fortran's order": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "every other": np.arange(10)[::2],
    "big-endian": np.arange(3, dtype=">i2"),
    "booleans": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "strings": np.array(["theta", "é"]),
    "bytes": np.array([b"ab", b"c"]),
    "dates": np.array(["2025-03-25"], "datetime64[D]"),
    "bfloat16": np.array([[1.0], [-2.5]], ml_dtypes.bfloat16),
    "bfloat16 number": np.array(3, ml_dtypes.bfloat16),
    "float8": np.array([0.5, 2], ml_dtypes.float8_e4m3fn),
    "int4": np.array([-8, 7], ml_dtypes.int4),
    "no width": np.zeros(3, "V0"),
    "../../name/of any: kind\n": np.ones(1),
}


def test_arrays_come_back_bit_for_bit(tmp_path):
    saved = directory.Checkpoint(tmp_path)
    saved.write(1, 0, 1, ARRAYS, {})
    arrays, _ = saved.read(1, 0, 1)
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        back = arrays[name]
        assert (back.dtype, back.shape) == (array.dtype, array.shape), name
        assert back.tobytes() == array.tobytes(), name
        assert back.flags.writeable


def test_facts_come_back(tmp_path):
    saved = directory.Checkpoint(tmp_path)
    facts = {
        "history": [{"loss": 0.1, "variance": float("inf")}],
        "seed": 2**70,
        "name": "é\ud800",
        "none": None,
    }
    saved.write(1, 0, 1, {}, facts)
    assert saved.read(1, 0, 1) == ({}, facts)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_larger_than_a_piece(tmp_path, monkeypatch, order):
    monkeypatch.setattr(file_format, "PIECE", 100)
    array = np.arange(9 * 13, dtype=np.int32).reshape(9, 13, order=order)
    saved = directory.Checkpoint(tmp_path)
    saved.write(1, 0, 1, {"a": array}, {})
    np.testing.assert_array_equal(saved.read(1, 0, 1)[0]["a"], array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_no_second_copy_in_memory(tmp_path, monkeypatch, order):
    monkeypatch.setattr(file_format, "PIECE", 100_000)
    array = np.ones((1000, 1000), np.float64, order)  # 80 pieces
    saved = directory.Checkpoint(tmp_path)
    tracemalloc.start()
    try:
        saved.write(1, 0, 1, {"a": array}, {})
        wrote = tracemalloc.get_traced_memory()[1]
        saved.read(1, 0, 1)
        read = tracemalloc.get_traced_memory()[1] - array.nbytes
    finally:
        tracemalloc.stop()
    assert wrote < 500_000 and read < 500_000  # 8,000,000 were a copy


def test_the_files_are_as_documented(saved):
    data = (saved.directory / f"{PART}.data").read_bytes()
    arrays, facts = state(2, 0, 1000)
    assert data == arrays["weights"].tobytes() + arrays["step"].tobytes()
    manifest = (saved.directory / f"{PART}.json").read_text()
    content = {
        "fda_tf_checkpoint": 2,
        "step": 2,
        "worker": 0,
        "workers": 1,
        "bytes": 4008,
        "sha256": hashlib.sha256(data).hexdigest(),
        "arrays": [
            {"name": "weights", "dtype": "<f4", "shape": [1000]},
            {"name": "step", "dtype": "<i8", "shape": []},
        ],
        "facts": facts,
    }
    assert manifest == seal(content)


def test_a_step_can_be_written_again(saved):
    saved.write(2, 0, 1, *state(2, 0, 7))
    assert_holds(saved, 2, 0, 1, 7)


# What cannot be kept is refused before anything is written.

RECORD = np.zeros(2, [("mean", "f4"), ("count", "i4")])
BAD = [
    ({"a": np.array([{}, print])}, {}, "'a'.*object: it holds Python objects"),
    ({"a": np.array([None])}, {}, "'a'.*nothing that needs pickle"),
    ({"a": RECORD}, {}, "'a'.*does not tell its fields"),
    ({"a": np.array(["x"], np.dtypes.StringDType())}, {}, "'a'.*StringDType"),
    ({"a": [1.0]}, {}, "'a'.*is a list: expected a NumPy array"),
    ({3: np.ones(1)}, {}, "key 3: expected a string"),
    ({}, {"loss": np.float32(1)}, r"float32.*Give.*float\(x\)"),
    ({}, {"model": print}, "facts cannot be written as JSON"),
]


@pytest.mark.parametrize("arrays, facts, message", BAD)
def test_state_that_cannot_be_kept(saved, arrays, facts, message):
    before = files(saved)
    with pytest.raises(ValueError, match=message):
        saved.write(4, 0, 1, arrays, facts)
    assert files(saved) == before


@pytest.mark.parametrize("settings, message", [
    ({"directory": 3}, "directory=3: expected the path"),
    ({"directory": ""}, "directory='': expected the path"),
    ({"directory": b"/tmp"}, "directory=b'/tmp': expected the path"),
    ({"directory": "~no-such-user/x"}, "no-such-user.*expected the path"),
    ({"every": 0}, "every=0: expected a whole number of steps, at least 1"),
    ({"every": 2.5}, "every=2.5: expected a whole number"),
    ({"keep": 0}, "keep=0: expected a whole number of checkpoints"),
    ({"keep": None}, "keep=None: expected a whole number"),
])  # fmt: skip
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        directory.Checkpoint(**{"directory": "x"} | settings)


@pytest.mark.parametrize("place", [(-1, 0, 1), (1, 1, 1), (1, -1, 2)])
def test_a_part_of_no_worker(tmp_path, place):
    with pytest.raises(ValueError, match="from 0 to workers - 1"):
        directory.Checkpoint(tmp_path).write(*place, {}, {})


def test_home_and_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    at_home = directory.Checkpoint("~/run")
    monkeypatch.chdir(tmp_path)
    here = directory.Checkpoint("run")
    monkeypatch.chdir("/")
    for made, folder in ((at_home, "home/run"), (here, "run")):
        made.prepare()
        assert made.directory == tmp_path / folder
        assert (tmp_path / folder).is_dir() and not files(made)


# What is torn, damaged or another's is never taken.


def cut(path, _):
    path.write_bytes(path.read_bytes()[:1200])


def halve(path, _):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def grow(path, _):
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path, _):
    path.write_bytes(b"")


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


def move_here(path, _):
    """The neighbour's file under this name."""
    path.write_bytes(
        path.parents[1].joinpath("step-000000001", path.name).read_bytes()
    )


def lose(path, _):
    path.unlink()


DAMAGE = [
    (cut, ".data", 0, "data is torn: 1200 of 4008 bytes"),
    (grow, ".data", 0, "data is torn: 4009 of 4008 bytes"),
    (empty, ".data", 0, "data is torn: 0 of 4008 bytes"),
    (lose, ".data", 0, "data is missing"),
    *((flip, ".data", at, "data is damaged.* 4008 bytes do not fit")
      for at in (0, 0.5, 0.9999)),
    (move_here, ".data", 0, "data is damaged"),
    (halve, ".json", 0, "json is torn or damaged"),
    (grow, ".json", 0, "json is torn or damaged"),
    (empty, ".json", 0, "json is torn or damaged: its 0 bytes"),
    *((flip, ".json", at / 40, "json is torn or damaged") for at in range(40)),
    (move_here, ".json", 0, "another's: it says.* step 1, worker 0, workers 1"),
]  # fmt: skip


@pytest.mark.parametrize("action, ending, at, message", DAMAGE)
def test_damage_is_named_and_passed_over(
    saved, caplog, action, ending, at, message
):
    action(saved.directory / f"{PART}{ending}", at)
    with pytest.raises(ValueError, match=message) as refusal:
        saved.read(2, 0, 1)
    assert PART in str(refusal.value)
    assert "remove this one" in str(refusal.value)
    assert list(saved.found(0)) == [(3, 1), (1, 1)]
    (warning,) = caplog.messages
    assert PART in warning and warning.endswith("taking the one before it.")
    assert str(refusal.value).startswith(warning.partition(";")[0])


def test_only_the_newest_is_read_unless_more_are_asked_for(saved, caplog):
    cut(saved.directory / f"{PART}.data", 0)
    assert next(saved.found(0)) == (3, 1)
    assert not caplog.messages


def test_data_without_a_manifest_is_no_checkpoint(saved, caplog):
    (saved.directory / f"{PART}.json").unlink()
    assert list(saved.found(0)) == [(3, 1), (1, 1)]
    assert saved.workers_of(2) == [] and not caplog.messages
    with pytest.raises(ValueError, match=f"{PART}.json is missing"):
        saved.read(2, 0, 1)


def test_another_format_is_an_error_and_not_passed_over(saved):
    forge(saved, fda_tf_checkpoint=3)
    message = f"{PART}.json has format version 3; this fda_tf reads version 2"
    with pytest.raises(ValueError, match=message):
        saved.read(2, 0, 1)
    with pytest.raises(ValueError, match=message):
        list(saved.found(0))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize(
    "dtype",
    [
        "O",
        "|O8",
        "f4,O",
        "ml_dtypes.finfo",
        "ml_dtypes.x",
        "builtins.eval",
        "x",
    ],
)
def test_nothing_in_a_file_is_ever_run(saved, tmp_path, dtype):
    armed = tmp_path / "ran"
    data = pickle.dumps(Bomb(armed))
    (saved.directory / f"{PART}.data").write_bytes(data)
    forge(
        saved,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        arrays=[{"name": "a", "dtype": dtype, "shape": [1]}],
    )
    with pytest.raises(ValueError, match=f"{PART}.json: array 'a' has dtype"):
        saved.read(2, 0, 1)
    assert not armed.exists()
    pickle.loads(data)  # it would have
    assert armed.exists()


@pytest.mark.parametrize("shape", [[-1], [1001], [999], "x", [10**30]])
def test_shapes_that_do_not_fit_the_data(saved, shape):
    entries = [{"name": "a", "dtype": "<f4", "shape": shape}]
    forge(saved, arrays=entries)
    with pytest.raises(ValueError, match=f"{PART}.json"):
        saved.read(2, 0, 1)


# Workers, steps and runs.


def test_workers_do_not_see_each_others_parts(tmp_path):
    saved = directory.Checkpoint(tmp_path)
    for worker, workers in ((0, 2), (1, 2), (0, 3), (2, 3), (0, 1)):
        saved.write(5, worker, workers, *state(5, worker, 10 * workers))
    saved.write(10**10, 1, 3, *state(10**10, 1, 4))
    assert saved.workers_of(5) == [1, 2]
    assert saved.workers_of(10**10) == saved.workers_of(6) == []
    assert list(saved.found(0)) == [(5, 1), (5, 2), (5, 3)]
    assert list(saved.found(1)) == [(10**10, 3), (5, 2)]
    assert list(saved.found(1, 3)) == [(10**10, 3)]
    assert list(saved.found(2, 2)) == []
    assert_holds(saved, 5, 1, 2, 20)
    (tmp_path / "step-000000005/worker-00001-of-00002.data").unlink()
    assert saved.workers_of(5) == [1]


def test_an_empty_directory_and_none_have_nothing(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        saved = directory.Checkpoint(folder)
        assert list(saved.found(0)) == saved.workers_of(1) == []
        saved.prune(0, 1)
        saved.rewind(0, 0, 1)
        saved.discard(1, 0, 1)


STRANGE = (
    "notes.txt",
    "step-000000002/notes.txt",
    "step-2/worker-00000-of-00001.json",
    "step-0000000002/worker-00000-of-00001.json",
    "step-000000003/worker-0-of-1.json",
    "step-000000003/worker-000000-of-00001.json",
    "step-000000003/worker-00001-of-00001.json",
    "step-000000003/worker-000007-of-00008.json",
    "step-000000003/worker-00000-of-00001.jsonx",
    "step-000000003/worker-00000-of-00001xjson",
    "step-000000003/worker-00000-of-00002.data.tmp",
    "step-000000009",
)


def test_prune_keeps_the_newest_and_what_is_not_ours(saved, caplog):
    for name in STRANGE:
        path = saved.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    saved.write(1, 0, 2, *state(1, 0, 10))
    saved.prune(0, 1, but=1)
    assert list(saved.found(0)) == [(3, 1), (1, 2)]
    for name in STRANGE:
        assert (saved.directory / name).read_text() == "mine"
    saved.discard(3, 0, 1)
    assert list(saved.found(0, 1)) == list(saved.found(7)) == []
    assert not caplog.messages


def test_prune_leaves_keep_and_no_empty_folders(saved):
    made = directory.Checkpoint(saved.directory, keep=2)
    made.prune(0, 1)
    assert list(made.found(0)) == [(3, 1), (2, 1)]
    assert not (made.directory / "step-000000001").exists()


def test_prune_clears_what_a_killed_process_left(saved):
    before = files(saved)
    for name in (
        "step-000000003/worker-00000-of-00001.data.tmp",
        "step-000000004/worker-00000-of-00001.json.tmp",
        "step-000000005/worker-00000-of-00001.data",
    ):
        path = saved.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("left")
    (saved.directory / "step-000000006").mkdir()
    saved.prune(0, 1)  # keeps 3: none of these counts as one
    assert files(saved) == before


def test_rewind_removes_the_future_of_this_worker_alone(saved):
    saved.write(3, 1, 2, *state(3, 1, 10))
    saved.rewind(1, 0, 1)
    assert list(saved.found(0)) == [(1, 1)]
    assert list(saved.found(1)) == [(3, 2)]
    assert not (saved.directory / "step-000000002").exists()


# Disks and processes that fail.


def test_all_is_on_the_disk_before_it_gets_its_name(saved, monkeypatch):
    acts = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(handle):
        path = pathlib.Path(f"/proc/self/fd/{handle}").readlink()
        acts.append(("fsync", path.name))
        fsync(handle)

    def logged_replace(old, new):
        acts.append(("replace", new.name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    saved.write(7, 0, 1, *state(7, 0, 10))
    assert acts == [
        ("fsync", "worker-00000-of-00001.data.tmp"),
        ("fsync", "worker-00000-of-00001.json.tmp"),
        ("replace", "worker-00000-of-00001.data"),
        ("replace", "worker-00000-of-00001.json"),
        ("fsync", "step-000000007"),
        ("fsync", saved.directory.name),
    ]


def test_a_folder_that_another_worker_removes_as_it_is_made(saved, monkeypatch):
    mkdir, made = pathlib.Path.mkdir, []

    def unlucky(path, **settings):
        mkdir(path, **settings)
        made.append(path)
        if len(made) == 1:
            path.rmdir()

    monkeypatch.setattr(pathlib.Path, "mkdir", unlucky)
    saved.write(4, 0, 1, *state(4, 0, 10))
    assert_holds(saved, 4, 0, 1, 10)


@contextlib.contextmanager
def small_disk():
    """No file may grow past 10,000 bytes: pytest's own output, too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("size, facts", [(5000, {}), (10, {"a": "b" * 20_000})])
def test_a_full_disk_leaves_all_as_it_was(saved, step, size, facts):
    before = files(saved)
    arrays, _ = state(step, 0, size)
    message = f"step-00000000{step}/worker-00000.*tmp"
    with pytest.raises(OSError, match=message), small_disk():
        saved.write(step, 0, 1, arrays, facts)
    assert files(saved) == before
    for step in (1, 2, 3):
        assert_holds(saved, step, 0, 1, 1000)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/run"):
        saved = directory.Checkpoint(tmp_path / name)
        with pytest.raises(
            ValueError, match=f"{name}' cannot be written: .*Giv"
        ):
            saved.prepare()


def run_job(*arguments):
    ((code, output),) = run_workers("checkpoint_job.py", arguments, [{}], 60)
    assert code == 0, output
    return output.splitlines()


def test_a_directory_that_only_others_may_write():
    with tempfile.TemporaryDirectory() as folder:
        lines = run_job("refused", folder)
    assert lines[0].startswith("ValueError Checkpoint: directory=")
    assert "cannot be written: Permission denied. Give" in lines[0]
    for line, step in zip(lines[1:3], (1, 2), strict=True):
        assert line.startswith("PermissionError")
        assert f"step-00000000{step}" in line
    assert lines[3] == "[(1, 1)]"


@pytest.mark.parametrize("step, before", [(4, [3, 2, 1]), (3, [2, 1])])
def test_killed_before_each_act_of_writing(saved, step, before):
    """Of a new step and of one that is there: whole, or not at all."""
    acts = [
        line.split()
        for line in run_job("crash", str(saved.directory), str(step))
    ]
    codes = [int(action[1]) for action in acts]
    assert codes == [1] * (len(acts) - 1) + [0] and len(acts) > 5
    sound = [[int(step) for step in action[2:]] for action in acts]
    assert sound[0] == [3, 2, 1] and sound[-1] == [step, *before]
    assert {tuple(steps) for steps in sound} <= {
        (step, *before), tuple(before), (3, 2, 1)
    }  # fmt: skip
    saved.prune(0, 1)
    assert len(files(saved)) == 9  # three folders with a pair each


def test_killed_at_random_moments_while_writing(tmp_path, caplog):
    """20 times; each process goes on from what the one before it left."""
    saved, chance = directory.Checkpoint(tmp_path), random.Random(3)
    size, unfinished = 500_000, 0
    for _ in range(20):
        arguments = ["go_on", str(tmp_path), "0", "1", "100000", str(size)]
        process = subprocess.Popen(
            [sys.executable, JOB, *arguments],
            env=environment(), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        first = int(process.stdout.readline())
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        told = [first, *map(int, process.communicate()[0].split())]
        steps = [step for step, _ in saved.found(0)]
        assert steps[0] in (told[-1], told[-1] + 1)  # killed before it told
        assert steps == list(range(steps[0], 0, -1))[: len(steps)]
        assert len(steps) >= min(3, steps[0])
        assert_holds(saved, steps[0], 0, 1, size)
        unfinished += any(name.endswith(".tmp") for name in files(saved))
    assert unfinished  # the moments were what they should be
    assert not caplog.messages
    saved.prune(0, 1)
    assert len(files(saved)) == 9  # three folders with a pair each


def test_workers_write_at_once_to_one_directory(tmp_path):
    command = [sys.executable, JOB, "go_on", str(tmp_path)]
    started = [
        subprocess.Popen(
            [*command, str(worker), "4", "50", "1000"],
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        for worker in range(4)
    ]
    assert [process.wait(60) for process in started] == [0] * 4
    saved = directory.Checkpoint(tmp_path)
    for step, worker in itertools.product((50, 49, 48), range(4)):
        assert saved.workers_of(step) == [4]
        assert_holds(saved, step, worker, 4, 1000)
    assert len(files(saved)) == 3 * (1 + 2 * 4)
