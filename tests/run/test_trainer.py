"""A training loop of one's own: alone as Keras' own, with others as FDA's."""

import pathlib
import re
import sys

import keras
import numpy as np
import pytest
import reference
import resume_more
import small
import tensorflow as tf

import fda_tf
from fda_tf.data import sources as data

BATCH = 8
decay = keras.optimizers.schedules.ExponentialDecay(0.8, 4, 0.5)


def batches(steps, shard=None):
    """The batches of a lone worker."""
    source = data.ArraySource([shard or small.data(60)], BATCH)
    return [source.batch(0, t) for t in range(steps)]


def lone(model=None, **options):
    """A trainer with no other workers."""
    return fda_tf.Trainer(
        model or small.rich_model(), batches(1)[0], **small.in_parts(options)
    )


def assert_same(model, other):
    for a, b in zip(small.kept(model), small.kept(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_alone_it_is_keras_own_step():
    trainer, stock = lone(), small.rich_model()
    stock._symbolic_build(data_batch=(*batches(1)[0], None))
    step = tf.function(stock.train_step)
    for batch in batches(12):
        logs, expected = trainer.step(batch), step(batch)
    assert {k: float(v) for k, v in logs.items()} == {
        k: float(v) for k, v in expected.items()
    }
    trainer.finish()
    assert_same(trainer.model, stock)
    assert int(trainer.model.optimizer.iterations) == 12
    counters = trainer.counters()
    assert counters["step"] == 12
    assert counters["wire_bytes"] == counters["eval_bytes"] == 0


@pytest.mark.parametrize("own", [False, True])
def test_theta_is_that_of_the_step_to_come(own):
    trainer = lone(
        small.linear_model(), sync=fda_tf.VarianceThreshold(decay, "naive")
    )
    seen = []
    for batch in batches(6):
        trainer.after_step() if own else trainer.step(batch)
        seen.append(float(trainer.loop.theta))
    to_come = [0.8 * 0.5 ** (t / 4) for t in range(1, 7)]
    np.testing.assert_allclose(seen, to_come)


def test_own_steps_tell_no_loss():
    trainer = lone(small.linear_model(), sync=fda_tf.policies.AdaComm(4, 8))
    message = r"AdaComm\(first=4, every=8\), which needs the .* Trainer.step"
    with pytest.raises(ValueError, match=message):
        trainer.after_step()
    assert trainer.counters()["step"] == 0
    trainer.step(batches(1)[0])
    assert trainer.counters()["step"] == 1


def test_the_last_batch_may_be_smaller():
    trainer = lone(small.linear_model())
    for n in (8, 8, 3):
        x, y = small.data(n)
        assert float(trainer.step((x, y))["loss"]) > 0
    assert trainer.counters()["step"] == 3


def run(folder, steps, stops=(), model=None):
    """A loop that keeps its losses; returns (its trainer, the losses)."""
    trainer, saved = lone(model), fda_tf.Checkpoint(folder)
    kept = trainer.resume(saved)
    losses = list(kept["history"][0]) if kept else []
    for step, batch in enumerate(batches(steps), 1):
        if kept and step <= kept["step"]:
            continue
        losses.append(np.float32(trainer.step(batch)["loss"]))
        if step in stops:
            assert trainer.save(saved, [np.float32(losses)], step=step)
    return trainer, losses


def test_it_goes_on_from_what_it_saved(tmp_path):
    whole, losses = run(tmp_path / "whole", 20)
    run(tmp_path / "stopped", 14, stops=[6, 12])
    again, others = run(tmp_path / "stopped", 20)
    assert fda_tf.Checkpoint(tmp_path / "stopped").steps() == [12, 6]
    assert others == losses and len(losses) == 20
    assert_same(again.model, whole.model)
    assert again.counters() == whole.counters()


def test_what_is_frozen_goes_on_as_it_was_drawn(tmp_path):
    begun, _ = run(tmp_path, 2, stops=[2], model=small.frozen_model(1))
    again, _ = run(tmp_path, 2, model=small.frozen_model(2))
    assert_same(again.model, begun.model)


def written():
    """The bytes that this process has written, wherever to."""
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts them")
def test_a_checkpoint_writes_the_state_once(tmp_path):
    model = keras.Sequential(
        [keras.Input((small.INPUTS,)), keras.layers.Dense(20_000)]
    )
    trainer = lone(small.compile_model(model, keras.optimizers.Adam()))
    trainer.step(batches(1)[0])
    before = written()
    trainer.save(fda_tf.Checkpoint(tmp_path))
    weights = model.count_params()
    assert weights == (small.INPUTS + 1) * 20_000
    state = 4 * weights * (1 + 2 + 1)  # the model, Adam's two slots, w_0
    sizes = [f.stat().st_size for f in tmp_path.glob("*/*")]
    assert state <= sum(sizes) <= 1.01 * state
    assert written() - before <= 1.01 * state


def test_facts_may_have_any_name(tmp_path):
    trainer, saved = lone(), fda_tf.Checkpoint(tmp_path)
    assert trainer.resume(saved) is None
    facts = {"settings": [1.5], "step": None, "theta": {"a": "b"}}
    assert trainer.save(saved, **facts)  # before the first step
    assert lone().resume(saved) == facts | {"history": []}


def test_what_cannot_be_kept_is_refused(tmp_path):
    trainer = lone()
    trainer.step(batches(1)[0])
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        trainer.save(fda_tf.Checkpoint(tmp_path), model=trainer.model)
    assert fda_tf.Checkpoint(tmp_path).steps() == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trainer, saved = lone(), fda_tf.Checkpoint(tmp_path)
    trainer.step(batches(1)[0])
    trainer.save(saved)
    with pytest.raises(ValueError, match="of another model or other settings"):
        lone(small.linear_model()).resume(saved)
    wide = small.rich_model()
    wide.layers[2].rate = 0.4
    with pytest.raises(ValueError, match=r"layer \d \(Dropout\) was"):
        lone(wide).resume(saved)
    slow = small.rich_model()
    slow.optimizer.learning_rate = 0.001  # as a callback may have set it
    assert lone(slow).resume(saved) is not None
    assert float(slow.optimizer.learning_rate) == np.float32(0.01)


# On two workers.


def test_its_loop_is_the_simulations(stopped):
    run = fda_tf.simulate(
        lambda: small.rich_model(1),
        small.shards(2, resume_more.SAMPLES),
        fda_tf.VarianceThreshold(0.05, "linear"),
        steps=25,
        batch_size=BATCH,
    )
    for worker in stopped[0]:
        got = worker["own loop"]["lone"]
        for mine, theirs in zip(
            got["weights"], small.kept(run.model), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
        assert got["counters"]["syncs"] == run.rows[-1]["syncs"] > 1


def test_own_steps_are_averaged_as_the_twins(stopped):
    shards = small.shards(2, resume_more.SAMPLES)
    sources = [data.ArraySource([s], BATCH, first=k)
               for k, s in enumerate(shards)]  # fmt: skip
    decisions, _, models = reference.fda(
        small.start(1),
        lambda k, t: [np.asarray(a) for a in sources[k].batch(k, t)],
        workers=2, steps=30, rate=small.RATE, theta=0.5, monitor="naive",
    )  # fmt: skip
    syncs = (np.flatnonzero(decisions) + 1).tolist()
    assert 1 <= len(syncs) < 30
    for worker in stopped[0]:
        did = worker["own step"]
        assert did["syncs"] == syncs
        mean = np.mean(models, 0).ravel()
        np.testing.assert_allclose(did["final"], mean, atol=1e-5)
        assert did["counters"]["step"] == did["counters"]["checks"] == 30


def test_the_average_is_lent(stopped):
    first, second = (worker["own step"] for worker in stopped[0])
    assert first["own"] != second["own"]
    mean = (np.float32(first["own"]) + np.float32(second["own"])) / 2
    for worker in (first, second):
        np.testing.assert_array_equal(worker["averages"], mean)
        np.testing.assert_array_equal(worker["lent"], mean)
        assert worker["back"] == worker["own"]


def test_all_agree_and_all_hear_of_a_bad_drift(stopped):
    for worker in stopped[0]:
        assert worker["own step"]["agree"] == [False, True]
        words = "the drift of worker 1 is NaN or infinite; all workers stop"
        assert re.search(words, worker["own step"]["error"])
