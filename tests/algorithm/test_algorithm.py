"""One noun: every part of an `Algorithm` is passed on, compared and kept."""

import dataclasses
import inspect
import json

import keras
import pytest
import small

import fda_tf
from fda_tf.processes import agreement
from fda_tf.workers import description

BATCH = 8
# Another value of each part, than the one of `algorithm()`.
OTHERS = {
    "sync": lambda: fda_tf.Every(steps=3),
    "server_optimizer": lambda: keras.optimizers.SGD(0.5),
    "compression": lambda: "int8",
    "guard": lambda: fda_tf.OutlierGuard(2.0),
    "statistics": lambda: "local",
}
FIELDS = [field.name for field in dataclasses.fields(fda_tf.Algorithm)]


def algorithm(**parts):
    return fda_tf.Algorithm(**{"sync": fda_tf.Every(steps=2)} | parts)


def simulate(algorithm, steps=4, **options):
    return fda_tf.simulate(
        small.rich_model,
        small.shards(2),
        algorithm,
        steps=steps,
        batch_size=BATCH,
        **options,
    )


def test_every_part_has_another_value_here():
    assert set(OTHERS) == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_workers_and_checkpoints_compare_each_part(name, tmp_path):
    other = algorithm(**{name: OTHERS[name]()})
    worker = fda_tf.Trainer(small.rich_model(), small.data(BATCH)).worker
    ours, theirs = (
        description.describe(worker, each) for each in (algorithm(), other)
    )
    unlike = agreement.unlike(ours, theirs)
    assert unlike and all(key.split(".")[0] == name for key in unlike)
    checkpoint = fda_tf.Checkpoint(tmp_path)
    simulate(algorithm(), checkpoint=checkpoint)
    again = algorithm(**{name: OTHERS[name]()})
    with pytest.raises(ValueError, match=rf"(?s){name}|server/|residual/"):
        simulate(again, steps=6, checkpoint=checkpoint)


@pytest.mark.parametrize("name", FIELDS)
def test_fda_takes_each_part(name):
    parameters = inspect.signature(fda_tf.FDA).parameters
    if name == "sync":  # of which FDA has the arguments
        own = inspect.signature(fda_tf.VarianceThreshold).parameters
        assert own.keys() <= parameters.keys()
        return
    value = OTHERS[name]()
    config = fda_tf.FDA(**{name: value}).algorithm.get_config()
    assert (
        config
        == fda_tf.Algorithm(
            fda_tf.FDA().algorithm.sync, **{name: OTHERS[name]()}
        ).get_config()
    )


@dataclasses.dataclass(frozen=True, repr=False)
class Sixth(fda_tf.Algorithm):
    """An algorithm with one part more."""

    decay: float = 0.0


def test_a_sixth_part_is_one_field(tmp_path):
    """It reaches the loop, the workers' agreement and checkpoints at once."""
    one, other = (
        Sixth(fda_tf.VarianceThreshold(0.1, "linear"), decay=d)
        for d in (0.1, 0.2)
    )
    assert one.get_config()["decay"] == 0.1
    trainer = fda_tf.Trainer(small.rich_model(), small.data(BATCH), one)
    assert trainer.loop.algorithm.decay == 0.1
    unlike = agreement.unlike(
        description.describe(trainer.worker, one),
        description.describe(trainer.worker, other),
    )
    assert unlike == ["decay"]
    model, fda = small.linear_model(), fda_tf.Averaging(one)
    data = fda_tf.shard(small.data(), BATCH)
    model.fit(data, verbose=0, callbacks=[fda])
    assert fda.made.trainer.loop.algorithm.decay == 0.1
    checkpoint = fda_tf.Checkpoint(tmp_path)
    simulate(one, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="decay was 0.1, is 0.2"):
        simulate(other, steps=6, checkpoint=checkpoint)


def test_it_tells_all_that_it_is_as_json():
    whole = fda_tf.Algorithm(
        fda_tf.VarianceThreshold("auto", "sketch", max_interval=9),
        server_optimizer=keras.optimizers.SGD(0.5, momentum=0.25),
        compression=fda_tf.compression.TopK(0.5),
        guard=fda_tf.OutlierGuard(2.0, "clip"),
    )
    config = whole.get_config()
    assert json.loads(json.dumps(config)) == config
    sync = config["sync"]["config"]
    assert sync["theta"]["class_name"] == "Auto"
    assert sync["monitor"]["class_name"] == "SketchMonitor"
    assert sync["max_interval"]["config"] == {"steps": 9, "epochs": None}
    assert config["server_optimizer"]["config"]["momentum"] == 0.25
    assert config["compression"]["config"] == {"fraction": 0.5}
    assert config["guard"]["config"] == {"factor": 2.0, "action": "clip"}
    assert config["statistics"] == "average"


def test_a_part_that_cannot_tell_is_refused_in_words():
    class Mine(fda_tf.monitors.LinearMonitor):
        def __init__(self, growth):
            super().__init__()
            self._growth = growth

    sync = fda_tf.VarianceThreshold(1.0, Mine(2.0))
    with pytest.raises(ValueError, match="Mine takes 'growth' and has no attr"):
        fda_tf.Algorithm(sync).get_config()


@pytest.mark.parametrize("thing", ["linear", 1.5, fda_tf.OutlierGuard()])
def test_what_is_no_algorithm_is_refused(thing):
    with pytest.raises(ValueError, match="algorithm=.*expected fda_tf.Algo"):
        simulate(thing)
