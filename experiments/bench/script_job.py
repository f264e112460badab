"""Runs a script of experiments/scripts, as a worker or alone.

A seed is added to those that the script gives to Keras and to `shard`. With
`twin` the same is then simulated, with two workers, by the first seed. Weights
are left in a folder.
"""

import pathlib
import runpy
from typing import Any
from unittest import mock

import keras
import numpy as np

import fda_tf
from experiments import scripts
from experiments.bench import script_twins

FOLDER = pathlib.Path(scripts.__file__).parent


def run(name: str, seed: int) -> dict[str, Any]:
    """Returns what a script has when it is through, by name."""
    seed_keras, shard_own = keras.utils.set_random_seed, fda_tf.shard

    def set_random_seed(own):
        seed_keras(own + seed)

    def shard(*args, **kwargs):
        own = kwargs.pop("seed", 0)
        return shard_own(*args, seed=own + seed, **kwargs)

    with (
        mock.patch.object(keras.utils, "set_random_seed", set_random_seed),
        mock.patch.object(fda_tf, "shard", shard),
    ):
        return runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


def report(ran: dict[str, Any], file: pathlib.Path) -> dict[str, Any]:
    """Returns what a script did, as JSON can hold it; keeps its weights."""
    np.savez(file, *ran["model"].get_weights())
    fda, history = ran.get("fda"), ran.get("history")
    if "trainer" in ran:  # it does not count the one at the end
        syncs = int(ran["trainer"].counters()["syncs"]) + 1
    else:
        syncs = len(fda.syncs)
    return {
        "score": ran["score"],
        "history": history and history.history,
        "syncs": syncs,
        "weights": str(file),
    }


def do(name: str, folder: str, twin: bool = False, seeds=(0, 1, 2)) -> dict:
    """Runs the script once for each seed, then the simulation."""
    group = fda_tf.connect()
    found = []
    for seed in seeds:
        file = f"{name}-{group.count}-{group.index}-{seed}.npz"
        ran = run(name, seed)
        found.append(report(ran, pathlib.Path(folder) / file))
    if not twin:
        return {"runs": found}
    weights, syncs = script_twins.simulate(name, ran, seeds[0])
    path = str(pathlib.Path(folder) / f"{name}-twin.npz")
    np.savez(path, *weights)
    return {"runs": found, "twin": {"weights": path, "syncs": syncs}}
