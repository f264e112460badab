"""What a fit of two workers says, and what its callbacks use again."""

import gc
import json
import re
import subprocess
import sys
import warnings
import weakref

import keras
import numpy as np
import processes
import pytest
import reuse_job
import small

import fda_tf

SECONDS = 500
# What TensorFlow's C++ says by itself, at its import and of the machine.
OF_THE_MACHINE = re.compile(
    r"I\d{4} |WARNING: All log messages before absl|To enable the following|"
    r".*failed call to cuInit"
)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """What the two workers did, and the lines that were shown of both."""
    folder = tmp_path_factory.mktemp("reuse")
    environment = processes.environment()
    del environment["TF_CPP_MIN_LOG_LEVEL"]  # the launcher has its own
    script = processes.HERE / "reuse_job.py"
    launcher = [sys.executable, "-m", "fda_tf.launch", "--workers=2"]
    done = subprocess.run(
        [*launcher, str(script), str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
    )
    # Read as text, each state of a progress bar would be a line.
    said = done.stdout.decode()
    assert done.returncode == 0, said[-3000:]
    reports = [json.loads((folder / f"{k}.json").read_text()) for k in (0, 1)]
    return reports, _lines(said)


def _lines(output):
    """Returns the lines that are not empty; a progress bar is one."""
    return [line for line in output.split("\n") if line]


def test_two_workers_say_what_stock_keras_does_and_one_line(job, capsys):
    x, y = small.data(48)
    with warnings.catch_warnings(record=True) as warned:
        reuse_job.fit(x, y, batch_size=8)
    stock = _lines(capsys.readouterr().out)
    shown = [line for line in job[1] if not OF_THE_MACHINE.match(line)]
    assert not warned
    assert len(stock) == 4  # "Epoch 1/2" and a progress bar, twice
    assert shown[0] == "fda_tf: 2 workers, SketchFDA, theta 0.01"
    assert len(shown) == len(stock) + 1, "\n".join(shown)


def test_the_launcher_itself_says_nothing():
    root = processes.ROOT
    launcher = [sys.executable, "-m", "fda_tf.launch", "--workers=1"]
    done = subprocess.run(
        [*launcher, sys.executable, "-c", "print(7)"],
        env=processes.environment(PYTHONPATH=str(root)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


@pytest.mark.parametrize("name", reuse_job.CASES)
def test_a_new_callback_does_as_if_all_were_compiled_anew(job, name):
    chief, other = (report[name] for report in job[0])
    used_again, anew = chief
    assert used_again["done"] == anew["done"]
    assert [r["done"] for r in other] == [r["done"] for r in chief]
    syncs = [json.loads(text)[1] for text in used_again["done"]]
    assert all(len(some) > 1 for some in syncs)


def test_a_step_is_traced_once_for_all_callbacks(job):
    for again, anew in job[0][1].values():
        first = anew["traces"] - (reuse_job.FITS - 1)  # what it builds, too
        assert again["traces"] == first


class OwnMonitor(fda_tf.monitors.NaiveMonitor):
    """One of a user's own: nobody knows what it holds."""


def _server():
    optimizer = keras.optimizers.SGD(0.5)  # whose rate a user may change
    algorithm = fda_tf.Algorithm(fda_tf.Every(2), server_optimizer=optimizer)
    return fda_tf.Averaging(algorithm)


def _loss():
    return fda_tf.Averaging(fda_tf.policies.AdaComm(first=2, every=3))


@pytest.mark.parametrize(
    ("one", "other", "samples", "again"),
    [
        (fda_tf.FDA, fda_tf.FDA, 48, True),
        (fda_tf.FDA, lambda: fda_tf.FDA(2.0), 48, False),
        (fda_tf.FDA, fda_tf.FDA, 40, False),  # epochs of another length
        (*[lambda: fda_tf.FDA(1.5, OwnMonitor())] * 2, 48, False),
        (_server, _server, 48, False),
        (_loss, _loss, 48, False),
    ],
)
def test_what_is_alike_is_used_again(one, other, samples, again):
    model, made, traces = reuse_job.build(), [], []
    for callback, n in ((one(), 48), (other(), samples)):
        data = fda_tf.shard(tuple(a[:n] for a in small.data(48)), 8)
        model.fit(data, verbose=0, callbacks=[callback])
        made.append(callback.made)
        traces.append(model.traces)
        assert callback.made.trainer.counters()["step"] == n // 8
    assert (made[0] is made[1]) == again
    # The policy's sums are in the step.
    assert traces[1] - traces[0] == (one is _loss)


def test_a_model_compiled_anew_is_traced_anew():
    model, data = reuse_job.build(), fda_tf.shard(small.data(48), 8)
    traces = []
    for _ in range(2):
        model.fit(data, verbose=0, callbacks=[fda_tf.FDA()])
        traces.append(model.traces)
        small.compile_model(model)
    assert traces[1] > traces[0]


def test_what_was_compiled_goes_when_the_model_does():
    model = reuse_job.build()
    data = fda_tf.shard(small.data(48), 8)
    model.fit(data, verbose=0, callbacks=[fda_tf.FDA()])
    kept = weakref.ref(vars(model)["_fda_tf_made"].trainer)
    del model
    gc.collect()
    assert kept() is None


def test_the_model_saves_and_loads_with_what_it_keeps(tmp_path):
    model, (x, y) = reuse_job.build(), small.data(48)
    model.fit(fda_tf.shard((x, y), 8), verbose=0, callbacks=[fda_tf.FDA()])
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path, {"Model": reuse_job.Model})
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def test_keras_warns_of_what_it_does_not_shuffle_but_not_of_a_shard():
    x, y = small.data(48)
    ours = fda_tf.shard((x, y), 8)

    def warned(data):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", append=True)
            small.linear_model().fit(data, verbose=0)
        return any("shuffle=True" in str(one.message) for one in found)

    assert not warned(ours) and not warned(ours.map(lambda x, y: (x, y)))
    # Keras itself warns of a dataset from some version on.
    own = ours.unbatch().batch(8)
    assert warned(own) == _stock_warns(own)


def _stock_warns(data):
    with warnings.catch_warnings(record=True) as found:
        warnings.resetwarnings()
        small.linear_model().fit(data, verbose=0)
    return any("shuffle=True" in str(one.message) for one in found)
