"""Scripts of others' making: two processes against one, and the simulation."""

import pytest

from experiments.bench import scripts


@pytest.mark.slow
@pytest.mark.parametrize("name", scripts.NAMES)
def test_two_processes_train_as_one_and_as_the_simulation(name, tmp_path):
    row = scripts.measure(name, str(tmp_path))
    assert row["equal"]  # the weights and the History of both
    assert row["within"], row
    assert row["syncs"] == row["twin_syncs"] > 0
    assert row["twin_apart"] == 0
