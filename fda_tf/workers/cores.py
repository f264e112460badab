"""How simulated workers share the cores: one resident model, a lane, a core."""

import os
from collections.abc import Sequence
from typing import Any

import keras
from absl import logging

from fda_tf.processes import agreement
from fda_tf.workers.local_model import Worker, is_seed
from fda_tf.workers.model_requirements import check_model

_SHARED = (
    "build() returned a model that shares {} with that of an earlier call. "
    "Make everything that training changes inside build(), anew at each call: "
    "simulated workers run on several models."
)


def count() -> int:
    """Returns how many cores this process may use; of all, but on Linux."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lanes_of(models: Sequence[keras.Model], source: Any) -> list[Worker]:
    """Returns the models as workers that share nothing they change."""
    lanes: list[Worker] = []
    owners: dict[int, str] = {}
    for model in models:
        check_model(model)
    for model in models:
        shared = [m for m in models if m is not model]
        if len(shared) < len(models) - 1 or any(
            m.optimizer is model.optimizer is not None for m in shared
        ):
            raise ValueError(_SHARED.format("its optimizer or all of itself"))
        lane = Worker(model, source.spec())
        common = owners.keys() & lane.changing().keys()
        if common and all(is_seed(owners[i]) for i in common):
            return _one_lane(lanes)
        if common:
            raise ValueError(_SHARED.format(owners[common.pop()]))
        owners |= lane.changing()
        if lane.shapes() != (lanes or [lane])[0].shapes():
            raise ValueError(
                "build() returned models of different shapes: "
                f"{lanes[0].shapes()} and {lane.shapes()}. Let it return the "
                "same architecture at each call."
            )
        unlike = agreement.unlike((lanes or [lane])[0].held, lane.held)
        if unlike:
            raise ValueError(
                f"build() returned models that differ in {unlike[0]}. What a "
                "layer learns by adapt(), and any array that the model is "
                "given, must be the same at each call: adapt outside build()."
            )
        lanes.append(lane)
    return lanes


def _one_lane(lanes: list[Worker]) -> list[Worker]:
    """Returns the first of the models, where all draw from one generator.

    Each worker then has a state of it in turn, and the numbers are the same
    on any number of cores.
    """
    logging.warning(
        "The models that build() makes share a random state, as layers do "
        "that call keras.random without a seed: one core alone trains all "
        "workers. To use all cores, give it a seed that is made inside "
        "build(): seed=keras.random.SeedGenerator(1)."
    )
    return lanes[:1]
