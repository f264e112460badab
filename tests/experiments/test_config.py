"""From flags to runs: defaults, names, the algorithms' parts."""

import dataclasses
import math
import re

import pytest
from absl import flags
from command_line import FLAGS, plan

import fda_tf
from experiments import config, run, runner
from experiments.algorithms import ALGORITHMS
from experiments.tasks import TASKS


def test_help_names_everything():
    text = run.__doc__ + flags.FLAGS.module_help(run)
    text = " ".join(text.split())
    for name in (*ALGORITHMS, *TASKS, *config.SPECIAL):
        assert name in text
    for field in dataclasses.fields(config.Settings):
        assert f"--{field.name}:" in text or f"--[no]{field.name}:" in text


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "field", ["theta", "epochs", "target_accuracy", "learning_rate"]
)
def test_help_has_the_defaults_of_each_task(name, field):
    text = flags.FLAGS[field].help
    assert f"{getattr(TASKS[name], field):g} for {name}" in text


def test_help_has_the_other_defaults():
    for name, algorithm in ALGORITHMS.items():
        for field, value in algorithm.uses.items():
            if value is not None:
                text = flags.FLAGS[field].help.rpartition("default: ")[2]
                assert re.search(rf"{value:g}( for .*{name}|\))", text)


def test_flags_agree_with_the_tables():
    assert flags.FLAGS["backend"].parser.enum_values == list(config.BACKENDS)
    assert flags.FLAGS["sampling"].parser.enum_values == list(config.SAMPLINGS)
    assert list(config.SAMPLINGS) == ["passes", "independent"]


def test_defaults_are_the_task_s():
    runs, unused = plan()
    assert [run.algorithm for run in runs] == FLAGS["algorithm"]
    assert [run.theta for run in runs] == [None, 3.0, 3.0]
    assert runs[2].sketch_depth == 5 and runs[2].sketch_width == 250
    assert runs[0].target_accuracy == 0.95 and runs[0].batch_size == 32
    assert not unused


def test_theta_by_name():
    thetas = fda_tf.thetas
    for text, kind in (
        ("auto", thetas.Auto),
        ("hpc", thetas.PerParameter),
        ("fdaopt:4", thetas.FdaOpt),
        ("bytes:1e3", thetas.TargetBytes),
    ):
        (run,), _ = plan(algorithm=["linear"], theta=text)
        assert run.theta == text
        assert isinstance(ALGORITHMS["linear"].of_run(run).sync.theta, kind)


def test_flags_beat_defaults():
    (fedadam,), _ = plan(
        algorithm=["fedadam"], learning_rate=0.5, server_learning_rate=0.25
    )
    assert fedadam.learning_rate == 0.5
    assert fedadam.server_learning_rate == 0.25
    assert fedadam.local_epochs == 1


@pytest.mark.parametrize(
    "text, more",
    [
        ("sketch", {}),
        ("linear:theta=auto:check_every=16", {"check_every": 16}),
        ("linear:theta=epochs:2.0", {"theta": "epochs:2.0"}),
        ("sketch:overlap=True:cascade=False", {"cascade": False}),
        ("local_sgd:interval=3:server=yogi:server_learning_rate=0.5", {}),
        ("adacomm:change_every=7", {"interval": 20}),
        ("fedavg:compression=int8:feedback", {"local_epochs": 1}),
        ("post_local:mu=0.1", {"synchronous_steps": 10}),
    ],
)
def test_a_text_says_an_algorithm(text, more):
    settings = config.settings(text)
    assert {name: getattr(settings, name) for name in more} == more
    row = ALGORITHMS[settings.algorithm]
    made = row.of_run(settings)
    again = config.settings(settings.text)  # parameters are in an order
    assert again == settings and again.run_id == settings.run_id
    assert again.run_id != config.settings("naive").run_id
    assert row.of_run(again).get_config() == made.get_config()


def test_a_text_goes_before_the_flags():
    runs, unused = plan(algorithm=["linear", "linear:theta=2"], theta=5.0)
    assert [run.theta for run in runs] == [5.0, 2.0] and not unused
    assert config.names(runs) == ["linear:theta=5.0", "linear:theta=2.0"]
    assert config.names(runs[:1]) == ["linear"]


def test_what_a_text_gives_is_in_the_algorithm():
    text = "local_sgd:interval=3:server=momentum:server_momentum=0.5"
    settings = config.settings(f"{text}:mu=0.25:compression=topk:0.25")
    row = ALGORITHMS["local_sgd"]
    made = row.of_run(settings)
    assert made.sync == fda_tf.Every(steps=3)
    assert made.server_optimizer.momentum == 0.5
    assert float(made.server_optimizer.learning_rate) == 1.0
    assert repr(made.compression) == "TopK(fraction=0.25)"
    assert row.local_optimizer(settings).mu == 0.25
    settings = config.settings("linear:max_interval=9:overlap=true")
    sync = ALGORITHMS["linear"].of_run(settings).sync
    assert sync.max_interval == fda_tf.Every(steps=9) and sync.overlap


def test_unused_flags_are_dropped():
    runs, unused = plan(algorithm=["local_sgd", "linear"], sketch_width=9)
    assert unused == ["sketch_width"]
    assert all(run.sketch_width is None for run in runs)
    with_it, _ = plan(algorithm=["linear"], theta=2.0, interval=3)
    without, _ = plan(algorithm=["linear"], theta=2.0)
    assert with_it[0].run_id == without[0].run_id


def test_run_id_is_readable():
    run_id = plan(algorithm=["sketch"], split="sorted:0.6")[0][0].run_id
    for part in ("lenet5_mnist5000", "sketch", "theta3.0", "K5", "sorted0.6"):
        assert f"{part}-" in run_id
    assert "/" not in run_id and ":" not in run_id


def test_run_id_of_small_numbers():
    run = plan(algorithm=["linear"], theta=1e-5, split="dirichlet:1e-9")[0][0]
    assert "-theta1e-05-" in run.run_id and "-dirichlet1e-9-" in run.run_id
    assert config.short("label:-3") == "label%2d3"
    assert config.short("a-e-1/..") == "a%2de%2d1%2f.."


def test_run_id_never_collides():
    other = {
        "task": ["lenet5_mnist"],
        "algorithm": [["linear"], ["naive"]],
        "theta": [1.25, 12.5, 125.0, 1e-5, 1e5, 1e-50, math.inf, "auto"],
        "workers": [6, 15],
        "split": ["label:0", "label:0,8", "label:8", "shards:2", "natural"],
        "sampling": ["independent"],
        "stop": [False],
        "seed": [1, 11],
        "backend": ["cluster"],
        "batch_size": [3, 320],
        "epochs": [2, 20],
        "steps": [2, 20],
        "target_accuracy": [0.9, 0.99],
        "learning_rate": [0.1, 0.01],
        "sketch_depth": [3],
        "sketch_width": [3, 25],
    }
    ids = [plan(algorithm=["sketch"])[0][0].run_id]
    for name, values in other.items():
        for value in values:
            changes = {"algorithm": ["sketch"], name: value}
            ids.append(plan(**changes)[0][0].run_id)
    for name in ALGORITHMS:
        for field in ("interval", "local_epochs", "server_learning_rate"):
            if field in ALGORITHMS[name].uses:
                for value in (3, 33):
                    changes = {"algorithm": [name], field: value}
                    ids.append(plan(**changes)[0][0].run_id)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_have_parts(name):
    (settings,), _ = plan(algorithm=[name])
    row = ALGORITHMS[name]
    optimizer = row.local_optimizer(settings)
    assert (
        row.local_optimizer(settings) is not optimizer
    )  # workers share no slots
    rate = float(optimizer.learning_rate)
    assert rate == pytest.approx(settings.learning_rate)
    if name in fda_tf.monitors.MONITORS:
        sync = row.of_run(settings).sync
        assert sync.theta == 3.0
        assert isinstance(sync.monitor, fda_tf.monitors.MONITORS[name])


def test_the_paper_s_rates():
    rates = {
        name: plan(algorithm=[name])[0][0] for name in ("fedavgm", "fedadam")
    }
    assert rates["fedavgm"].learning_rate == 0.0316
    assert rates["fedavgm"].server_learning_rate == 0.316
    assert rates["fedadam"].learning_rate == 0.01
    assert rates["fedadam"].server_learning_rate == 1e-3
    server = ALGORITHMS["fedavgm"].of_run(rates["fedavgm"]).server_optimizer
    assert server.momentum == 0.9


@pytest.mark.parametrize(
    "samples, epochs, steps, expected",
    [(4000, 2, None, 50), (4001, 1, None, 26), (4000, 2, 7, 7), (1, 1, 9, 1)],
)
def test_steps_at_most(samples, epochs, steps, expected):
    (settings,), _ = plan(algorithm=["naive"], epochs=epochs, steps=steps)
    assert runner.steps_at_most(settings, samples) == expected
