"""README's own code, run as it stands."""

import pathlib
import re

import keras
import numpy as np
import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def blocks():
    """Returns README's Python blocks, in order."""
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_simulation_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parent.parent)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(blocks()[0], names)
    row = names["history"].rows[-1]
    assert row["step"] == 300 and row["val_accuracy"] > 0.6
    assert 0 < row["syncs"] < row["checks"] == 300
    assert (tmp_path / "averaged.keras").exists()
    assert "'cause': 'threshold'" in capsys.readouterr().out


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
