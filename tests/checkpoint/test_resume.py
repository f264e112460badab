"""A simulation that was stopped ends as one that never was."""

import signal

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

import fda_tf
from fda_tf.checkpoint import run_state

STEPS = 40
threshold = fda_tf.VarianceThreshold


class Stop(Exception):
    """What stops a run, wherever it is."""


def stop_at(step):
    """A callback that stops the run at a step or, in its calls, after it."""

    def look(row):
        if row["step"] >= step:
            raise Stop

    return look


def batches(shards):
    """The shards as batched datasets."""
    return [tf.data.Dataset.from_tensor_slices(s).batch(8) for s in shards]


def run(folder=None, every=None, build=small.rich_model, data=None, **options):
    """A run of three workers, in 7.5 steps an epoch."""
    shards = small.shards(3, samples=180)
    saved = fda_tf.Checkpoint(folder, every=every) if folder else None
    settings = {"sync": threshold(0.05, "linear"), "steps": STEPS}
    return fda_tf.simulate(
        build,
        data(shards) if data else shards,
        batch_size=8,
        validation_data=small.data(60, seed=5),
        checkpoint=saved,
        **small.in_parts(settings | options),
    )


def stopped(*arguments, **options):
    """Begins a run, which is to stop."""
    with pytest.raises(Stop):
        run(*arguments, **options)


def everything(history):
    """What a run did, in words: NaN is NaN; only its time may differ."""
    untimed = {"seconds": None}
    rows = [row | untimed for row in history.rows]
    arrays = (*small.kept(history.model), history.variance, history.theta)
    return repr([[a.tolist() for a in arrays], rows, history.syncs])


def assert_equal(again, lone):
    """Two runs did the same, bit for bit."""
    assert everything(again) == everything(lone)


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """One resident model, which is compiled in half the time of two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.sched_getaffinity", lambda _: {0})
        yield


@pytest.fixture(scope="module")
def lone():
    """What the run does that nobody stops."""
    history = run()
    assert 1 < len(history.syncs) < STEPS  # some checks are quiet
    assert len(history.rows) == 6
    return history


@pytest.mark.parametrize("stop, every, left", [
    # on_progress, where it stops, comes before the checkpoint of its step.
    pytest.param(1, 1, [], marks=pytest.mark.slow),
    (6, 4, [4]),
    pytest.param(8, 4, [4], marks=pytest.mark.slow),  # an evaluation
    pytest.param(9, 4, [8, 4], marks=pytest.mark.slow),
    (31, None, [30, 23, 15]),
])  # fmt: skip
def test_stopped_at_a_step(tmp_path, lone, stop, every, left):
    stopped(tmp_path, every, on_progress=stop_at(stop))
    assert steps(tmp_path) == left
    assert_equal(run(tmp_path, every), lone)


def steps(folder):
    return fda_tf.Checkpoint(folder).steps()


@pytest.mark.slow
def test_stopped_again_and_again(tmp_path, lone):
    for step in (3, 9, 16, 24):
        stopped(tmp_path, 2, on_progress=stop_at(step))
    assert_equal(run(tmp_path, 2), lone)


def test_stopped_by_sigterm(tmp_path, lone):
    def end(row):
        if row["step"] == 15:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        run(tmp_path, 100, on_evaluation=end)
    assert ended.value.code == 143
    assert steps(tmp_path) == [15]
    assert_equal(run(tmp_path, 100), lone)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.slow
def test_sigterm_at_the_very_end(tmp_path, lone):
    def end(row):
        if row["step"] == STEPS:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        run(tmp_path, on_evaluation=end)
    assert_equal(run(tmp_path), lone)


def test_the_newest_checkpoint_is_torn(tmp_path, lone, caplog):
    stopped(tmp_path, 4, on_progress=stop_at(14))
    (data,) = (tmp_path / "step-000000012").glob("*.data")
    data.write_bytes(data.read_bytes()[:1000])
    assert_equal(run(tmp_path, 4), lone)
    assert "data is torn: 1000 of" in caplog.text
    assert "taking the one before it" in caplog.text


@pytest.mark.slow
def test_a_run_that_is_over_is_not_run_again(tmp_path, lone):
    run(tmp_path)
    started = []
    again = run(tmp_path, on_progress=started.append)
    assert not started
    assert_equal(again, lone)


@pytest.mark.slow
def test_more_steps_go_on_as_if_never_stopped(tmp_path, lone):
    run(tmp_path, steps=23, evaluate_every=23)
    more = run(tmp_path)
    assert more.variance.tolist() == lone.variance.tolist()
    assert more.syncs == lone.syncs
    for a, b in zip(*map(small.kept, (more.model, lone.model)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_that_a_callback_ended_stays_ended(tmp_path):
    ended = run(tmp_path, on_evaluation=lambda row: row["step"] >= 15)
    assert len(ended.variance) == 15
    assert_equal(run(tmp_path), ended)


def adam_server():
    return keras.optimizers.Adam(0.05)


decay = keras.optimizers.schedules.ExponentialDecay(0.06, 10, 0.5)
OTHERS = {
    "datasets": {"data": batches},
    "independent": {"sampling": "independent"},
    "server": {"server_optimizer": adam_server, "build": small.linear_model},
    "sketch": {"sync": threshold(0.05, "sketch")},
    "theta schedule": {"sync": threshold(decay, "exact")},
    "epochs": {"sync": fda_tf.Every(epochs=1.5)},
    "local": {"statistics": "local", "sync": fda_tf.Every(steps=7)},
    "linear model": {"build": small.linear_model, "sync": threshold(0.2)},
}


QUICK = ("server",)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in OTHERS
])  # fmt: skip
def test_other_settings(tmp_path, name):
    def options():
        made = OTHERS[name]
        return {
            k: v() if k == "server_optimizer" else v for k, v in made.items()
        }

    history = run(**options())
    assert 1 < len(history.syncs) < STEPS
    stopped(tmp_path, 5, on_progress=stop_at(18), **options())
    assert steps(tmp_path) == [15, 10, 5]
    assert_equal(run(tmp_path, 5, **options()), history)


def test_what_is_frozen_goes_on_as_it_was_drawn(tmp_path, monkeypatch):
    """In all models, of which two cores have two."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})

    def options(seed):
        def build():
            return small.frozen_model(seed)

        return {"build": build, "steps": 8, "sync": fda_tf.Every(steps=3)}

    stopped(tmp_path, 4, on_progress=stop_at(5), **options(1))
    assert_equal(run(tmp_path, 4, **options(2)), run(**options(1)))


# What is not the same run is refused.


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The directory of a run that is not over."""
    folder = tmp_path_factory.mktemp("begun")
    run(folder, steps=8, straggler_rate=0.2)
    return folder


def four(shards):
    return small.shards(4, samples=180)


@pytest.mark.parametrize("options, message", [
    ({"data": four}, "is of a simulation of 3 workers; expected .* of 4 work"),
    ({"build": small.linear_model}, r"is of another model or .*float32"),
    ({"sync": threshold(0.06, "linear")}, "sync.theta was 0.05, is 0.06"),
    ({"sync": threshold(0.05, "naive")}, "monitor/0 is float32.*, not known"),
    ({"seed": 1}, "data's seed was 0, is 1 .* another checkpoint directory"),
    ({"sampling": "independent"}, "data's sampling was passes"),
    ({"statistics": "local"}, "statistics was average, is local"),
    ({"weighting": "samples"}, "weighting was equal, is samples"),
    ({"straggler_rate": 0.3}, "straggler_rate was 0.2, is 0.3"),
])  # fmt: skip
def test_another_run_is_refused(begun, options, message):
    with pytest.raises(ValueError, match=message):
        run(begun, **{"straggler_rate": 0.2} | options)
    assert steps(begun) == [8]


def test_with_another_version_settings_count_too(begun, monkeypatch):
    monkeypatch.setattr(fda_tf.version, "__version__", "0.0.1")
    with pytest.raises(ValueError, match="sync.theta was 0.05, is 0.06"):
        run(begun, straggler_rate=0.2, sync=threshold(0.06, "linear"))


def test_with_another_version_what_keras_describes_is_left_out(caplog):
    told = ("optimizer", "loss", "layer 0 (Dense)", "server_optimizer", "sync")
    ours, theirs = (
        dict.fromkeys([*run_state.VERSIONS, *told, "data's seed"], number)
        for number in (1, 2)
    )
    assert run_state._unlike_settings(ours, theirs, same_workers=True) == [
        "sync was 2, is 1", "data's seed was 2, is 1",
    ]  # fmt: skip
    assert "optimizers, loss and layers" in caplog.text
    alike = theirs | dict.fromkeys(run_state.VERSIONS, 1)
    unlike = run_state._unlike_settings(ours, alike, same_workers=False)
    assert len(unlike) == len(told)
