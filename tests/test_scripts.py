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


def test_a_band_is_the_range_and_a_deviation_at_each_end():
    assert scripts.band([1.0, 2.0, 3.0]) == (0.0, 4.0)


def test_lines_that_name_something_of_ours_are_counted():
    assert scripts.lines("lora")[0] == 7
