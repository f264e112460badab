"""What models hold beside variables, and what callbacks do to them in fit."""

import copy

import held_cases
import keras
import numpy as np
import processes
import pytest
import small
from runs import simulate

import fda_tf
from fda_tf.core.loop import Loop
from fda_tf.data import sources
from fda_tf.workers import simulated


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Returns name -> what each of two workers did."""
    folder = tmp_path_factory.mktemp("held")
    return processes.by_name(processes.reports("held_job.py", folder, 2))


def right(done, name):
    """Returns what the workers did, which was the same."""
    first, second = done[name]
    assert "error" not in first, first
    assert first == second
    return first


REFUSED = {
    "Normalization": "in constants in layer 'normalization'",
    "Normalization in a model": "in constants in layer 'normalization'",
    "Discretization": "(Discretization)",
    "StringLookup": "layer 'string_lookup'",
    "TextVectorization": "layer 'text_vectorization'",
    "an array": "in constants in layer 'centred'",
    "a tensor": "in constants in layer 'centred'",
    "a number": "(Centred)",  # Keras takes it for a setting
    "saved by a layer": "in assets of layer 2 ('tokens')",
    "an array in the loss": "in constants in the train step",
    "second optimizer": "in optimizer 0 (SGD)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_learned_on_a_part_of_the_data_is_refused(done, name):
    for worker in done[name]:
        assert REFUSED[name] in worker["error"], worker
        if "layer '" in REFUSED[name]:
            assert "adapt on the whole data, or on the chief" in worker["error"]


def test_what_was_learned_on_all_of_it_trains_as_in_the_simulation(done):
    run = simulate(
        fda_tf.VarianceThreshold(0.1, "linear", fda_tf.Every(epochs=1)),
        lambda: held_cases.normalized(small.data()),
        workers=2,
        steps=30,
        batch_size=8,
    )
    got = right(done, "adapted alike")["weights"]
    for a, b in zip(got, run.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_models_are_not_saved_within_an_epoch(done):
    for worker in done["save_freq"]:
        assert 'Give save_freq="epoch"' in worker["error"]


def test_a_callback_may_compile_the_model_anew_between_epochs(done):
    within, between = (
        right(done, f"compiled {place}") for place in ("within", "between")
    )
    assert within["weights"] == between["weights"]
    assert within["history"]["loss"][1:] == between["history"]["loss"]


def test_else_it_is_refused_on_all_workers(done):
    for worker in done["compiled by one"]:
        assert "whether a callback compiled it anew" in worker["error"]
    for worker in done["compiled within an epoch"]:
        assert "Compile the model anew in on_epoch_end" in worker["error"]


def test_a_copy_of_a_callback_trains_as_it(done):
    assert right(done, "copied")["syncs"]


def test_a_copy_has_nothing_of_a_fit(tmp_path):
    checkpoint = fda_tf.Checkpoint(tmp_path)
    fda = fda_tf.FDA(0.3, "linear", check_every=2, checkpoint=checkpoint)
    other = copy.deepcopy(fda)
    assert other.algorithm.get_config() == fda.algorithm.get_config()
    assert other.checkpoint.directory == fda.checkpoint.directory


def test_logs_that_differ_are_refused(done):
    for worker in done["own evaluate"]:
        assert "val_mine" in worker["error"]


def test_one_worker_saves_and_all_wait_for_it(done):
    assert "one.keras" in right(done, "saved")["files"]
    for worker in done["cannot be saved"]:
        assert "a.doc" in worker["error"]


def test_a_build_that_learns_anew_at_each_call_is_refused():
    parts = iter(small.shards(2))
    source = sources.ArraySource(small.shards(2), 8)
    with pytest.raises(ValueError, match="'normalization'.*adapt outside"):
        simulated.Simulation(
            lambda: held_cases.normalized(next(parts)), source, 2, lanes=2
        )


def test_a_run_goes_on_with_what_was_learned_only(tmp_path):
    def run(part, steps):
        return simulate(
            fda_tf.Every(steps=2),
            lambda: held_cases.normalized(part),
            workers=2,
            steps=steps,
            checkpoint=fda_tf.Checkpoint(tmp_path, every=3),
        )

    run(small.data(), 3)
    assert run(small.data(), 6).rows[-1]["step"] == 6
    with pytest.raises(ValueError, match="constants in layer 'normalization'"):
        run(small.shards(2)[0], 9)


def test_a_table_from_a_file_is_told_by_what_is_in_it(tmp_path):
    def held(name, words):
        path = tmp_path / name  # of one path there is one table in a process
        path.write_text("\n".join(words))
        layer = keras.layers.StringLookup(vocabulary=str(path))
        inputs = keras.Input((1,), dtype="string")
        ids = keras.layers.Embedding(9, 2)(layer(inputs))
        model = held_cases.on_top(inputs, keras.layers.Flatten()(ids))
        x, y = held_cases.words(small.data(8))
        return fda_tf.Trainer(model, (x, y)).worker.held

    from fda_tf.processes.agreement import unlike

    first = held("1", ["a", "b"])
    assert not unlike(first, held("2", ["a", "b"]))
    other = held("3", ["b", "a"])
    assert "constants in layer 'string_lookup'" in unlike(first, other)


class Unseeded(keras.layers.Layer):
    """Draws from Keras' global generator."""

    def call(self, x):
        return x + 0.1 * keras.random.normal(keras.ops.shape(x))


def unseeded():
    inputs = keras.Input((small.INPUTS,))
    return held_cases.on_top(inputs, Unseeded()(inputs))


def test_a_layer_with_no_seed_trains_alike_on_any_number_of_cores():
    weights = []
    for lanes in (1, 2):
        source = sources.ArraySource(small.shards(4), 8)
        home = simulated.Simulation(unseeded, source, 4, lanes=lanes)
        loop = Loop(home, fda_tf.Every(steps=3), None)
        loop.run(7)
        weights.append(np.array(home.gather(lambda s: s.weights[0])))
        assert len(home.lanes) == 1
    np.testing.assert_array_equal(*weights)
    assert (weights[0][0] != weights[0][1]).any()
