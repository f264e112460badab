"""The code of README and docs/, run as it stands."""

import pathlib
import re

import keras
import numpy as np
import pytest
import runs
import small

from experiments import datasets

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"


def blocks(name="README.md"):
    """Returns the Python blocks of a document, in order."""
    text = (ROOT / name).read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_simulation_runs(tmp_path, monkeypatch, capsys):
    data = datasets.load("mnist5000")  # in MNIST's place
    parts = (data.x_train, data.y_train), (data.x_test, data.y_test)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: parts)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(blocks()[0], names)
    row = names["history"].rows[-1]
    assert row["step"] == 300 and row["val_accuracy"] > 0.6
    assert 0 < row["syncs"] < row["checks"] == 300
    assert (tmp_path / "averaged.keras").exists()
    assert "cause='threshold'" in capsys.readouterr().out


@pytest.fixture
def images(tmp_path, monkeypatch):
    """An empty folder to run in, and random images in MNIST's place."""

    def load_data():
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (64, 28, 28), dtype=np.uint8)
        part = pixels, random.integers(0, 10, 64)
        return part, part

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_fit_script_runs_alone(images):
    names = {}
    exec(blocks()[1], names)
    history = names["model"].history.history
    assert 3 < len(history["val_loss"]) <= 10
    assert {"variance", "theta", "syncs", "mb_sent"} <= set(history)
    assert (images / "best.keras").exists()
    assert list((images / "checkpoints").iterdir())


def test_the_loop_script_runs_alone(images):
    names = {}
    exec(blocks()[2], names)
    assert names["history"].rows[-1]["step"] == 2000
    assert (images / "averaged.keras").exists()


def test_a_script_that_was_moved_runs_alone(images):
    (block,) = re.findall(r"```diff\n(.*?)```", README.read_text(), re.DOTALL)
    moved = [line[1:] for line in block.splitlines() if line[0] != "-"]
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    names = {"keras": keras, "model": model}
    exec("\n".join(moved), names)
    assert len(names["data"]) == -(-57 // 32)  # 7 of 64 are held out
    assert len(model.history.history["val_loss"]) == 10


def test_a_monitor_of_ones_own_trains():
    names = {}
    (block,) = blocks("docs/methods.md")
    exec(block, names)
    run = runs.simulate(names["sync"])
    syncs = [s.step for s in run.syncs if s.cause == "threshold"]
    assert 2 < len(syncs) < runs.STEPS
    assert run.rows[-1]["state_bytes"] == runs.STEPS * runs.WORKERS * 4 * 11
    pieces = small.as_tensors([9.0, 1.0], [2.0], [3.0, 4.0])
    state = names["LastWeights"](4).state(pieces, 1.0)
    assert state.numpy().tolist() == [30.0, 1.0, 2.0, 3.0, 4.0]
