"""From grids and presets to the runs of a sweep, and what is refused."""

import doctest

import numpy as np
import pytest
from sweeps import command, runs

from experiments import datasets, grid, pool


@pytest.mark.parametrize("module", [grid, pool])
def test_examples(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted and not outcome.failed


def test_a_grid_s_runs_are_all_combinations_that_differ():
    found = runs(
        algorithm=["synchronous", "linear"], theta=["1", "2.5"],
        workers=["2", "3"],
    )  # fmt: skip
    keys = [
        (r.settings.algorithm, r.settings.theta, r.settings.workers)
        for r in found
    ]
    assert keys == [
        ("synchronous", None, 2), ("synchronous", None, 3),
        ("linear", 1.0, 2), ("linear", 1.0, 3),
        ("linear", 2.5, 2), ("linear", 2.5, 3),
    ]  # fmt: skip
    assert found[0].arguments == ("--algorithm=synchronous", "--workers=2")
    assert len({r.settings.run_id for r in found}) == 6


def test_what_the_command_line_gives_goes_before_the_grid_and_is_passed_on():
    (found,) = runs(
        "--workers=4", "--nostop", "--algorithm=naive", "--steps=7",
        algorithm=["linear", "sketch"], workers=["2", "3"], seed=["5"],
    )  # fmt: skip
    settings = found.settings
    assert (settings.workers, settings.algorithm) == (4, "naive")
    assert settings.seed == 5 and settings.steps == 7 and not settings.stop
    assert set(found.arguments) == {
        "--workers=4", "--algorithm=naive", "--seed=5", "--nostop", "--steps=7",
    }  # fmt: skip


def test_a_grid_goes_before_the_preset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = command(
        "--preset=small", "--grid=workers=2,3 theta=2", "--slurm=job",
        "--seed=4", f"--results_dir={tmp_path}",
    )  # fmt: skip
    assert code == 0 and "6 of 6 runs" in capsys.readouterr().out
    tasks = (tmp_path / "job").read_text()
    assert tasks.count("--seed=4") == 6 and tasks.count("--workers=3") == 3
    assert tasks.count("--theta=2") == 4 and "--theta=1" not in tasks


def test_without_algorithms_a_grid_has_the_default_ones():
    assert [r.settings.algorithm for r in runs(workers=["2"])] == [
        "synchronous", "linear", "sketch",
    ]  # fmt: skip


def test_what_no_algorithm_uses_is_said_and_dropped(caplog):
    (found,) = runs(algorithm=["linear"], interval=["2", "3"])
    assert found.arguments == ("--algorithm=linear",)
    assert "--interval is dropped" in caplog.text


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Give --grid='theta=0.5,1.5', --preset or both; known: costs_"),
        (["--preset=small", "--grid=sed=1"], "A grid has 'sed', which is no"),
        (["--preset=lenet5"], "--preset=lenet5 is unknown; known: costs_"),
        (["--grid=thta=1"], "'thta', which is no flag that may be varied; kn"),
        (["--grid=results_dir=a,b"], "'results_dir', which is no flag that"),
        (["--grid=theta"], "has the part 'theta'; expected each name once"),
        (["--grid=theta=1,"], "has the part 'theta=1,'"),
        (["--grid=theta=1 theta=2"], "has the part 'theta=2'"),
        (["--grid=theta=1,much"], "--theta=much is neither"),
        (["--grid=theta=auto algorithm=max"], "with monitor='max'"),
        (["--grid=workers=5,many"], "--workers=many: "),
        (["--grid=workers=2,0"], "--workers must be a whole number"),
        (["--grid=task=lenet"], "--task=lenet is unknown; known: lenet5_mn"),
        (["--grid=algorithm=fda"], "--algorithm=fda is unknown; known: sync"),
        (["--grid=split=half"], "the split 'half'; expected one like iid, so"),
        (["--grid=split=iid,natural"], "without the client of each"),
        (["--grid=workers=4001"], "4001 workers and 4000 samples"),
        (["--grid=seed=1", "--summary=/proc/a/b.jsonl"], "--summary=/proc/a"),
        (["--grid=seed=1", "--overwrite"], "--overwrite is not for a sweep"),
    ],
)
def test_refused_before_the_first_run(arguments, message, capsys, tmp_path):
    code = command(f"--results_dir={tmp_path}", *arguments)
    err = capsys.readouterr().err
    assert code == 1 and err.startswith("Error: ") and err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def any_data(monkeypatch):
    """Labels for any set."""

    def load(name, data_dir=None, classes=None):
        labels = np.arange(1000) % classes
        return datasets.Dataset(labels, labels, labels, labels)

    monkeypatch.setattr(datasets, "load", load)


@pytest.mark.parametrize("name", grid.PRESETS)
def test_presets_are_grids_of_known_tasks_and_flags(name, any_data):
    found = runs(grids=grid.preset(name))
    assert len(found) > 1
    assert grid.PRESETS[name].read_text().startswith("# ")


def test_a_preset_for_each_figure_of_the_paper(any_data):
    families = {"theta", "workers", "costs", "heterogeneity", "lenet5"}
    assert families < {name.partition("_")[0] for name in grid.PRESETS}
    for kind, split in (
        ("iid", "iid"), ("sorted60", "sorted:0.6"), ("label0", "label:0"),
    ):  # fmt: skip
        found = runs(grids=grid.preset(f"lenet5_{kind}"))
        # 3 K, 3 seeds: synchronous, FedAdam, and 2 monitors with 3 thetas.
        assert len(found) == 3 * 3 * (1 + 1 + 2 * 3)
        assert {r.settings.split for r in found} == {split}
        assert {r.settings.theta for r in found} == {None, 0.5, 1.5, 5.0}
