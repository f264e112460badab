"""README's own code, run as it stands."""

import pathlib
import re

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


def test_the_cluster_script_runs_alone(tmp_path, monkeypatch):
    import keras
    import numpy as np

    def load_data():
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (64, 28, 28), dtype=np.uint8)
        return (images, random.integers(0, 10, 64)), None

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(blocks()[1], names)
    assert names["history"].rows[-1]["step"] == 2000
    assert (tmp_path / "averaged.keras").exists()
