"""Runs with known numbers, for the tests of reports."""

import dataclasses

import numpy as np
from command_line import plan
from matplotlib.text import Text

from experiments import results
from experiments.report import loading


def settings(algorithm="linear", **changes):
    """The settings of a run of the command line."""
    fields = {name: changes.pop(name) for name in ("steps",) if name in changes}
    (made,), _ = plan(algorithm=[algorithm], **changes)
    return dataclasses.replace(made, **fields)


def rows(sent, accuracies):
    """The rows of metrics.csv: an evaluation each ten steps."""
    return [
        dict.fromkeys(results.METRICS, 0.0)
        | {
            "step": 10.0 * i, "syncs": float(i), "paper_model_bytes": count,
            "test_accuracy": accuracy,
        }
        for i, (count, accuracy) in enumerate(
            zip(sent, accuracies, strict=True), start=1
        )
    ]  # fmt: skip


def summary(sent, steps=30, syncs=3, reached=True):
    """What summary.json says of a run that sent so much to its target."""
    known = {
        "reached": reached, "best_accuracy": 0.96, "steps": steps,
        "total_bytes": sent,
    }  # fmt: skip
    to_target = {
        "steps_to_target": steps, "syncs_to_target": syncs,
        "bytes_to_target": sent, "wire_bytes_to_target": sent,
    }  # fmt: skip
    if not reached:
        to_target = dict.fromkeys(to_target)
    return dict.fromkeys(results.SUMMARY, 0) | known | to_target


def run(algorithm="linear", sent=4e6, curve=True, **changes):
    """A run that sent so much to its target, in 30 steps."""
    options = {
        name: changes.pop(name)
        for name in ("reached", "syncs")
        if name in changes
    }
    made = settings(algorithm, **changes)
    found = rows([sent / 4, sent / 2, sent], [0.5, 0.8, 0.96]) if curve else ()
    known = algorithm in ("linear", "sketch")
    variance = np.tile(np.arange(10, dtype=np.float32), 3)
    return loading.Run(
        made,
        summary(sent, **options),
        found,
        [10, 20],
        variance if curve and known else np.full(30 * curve, np.nan),
        np.full(30 * curve, made.theta or np.nan),
    )


def text_of(artist):
    """All that is written in a figure."""
    return [
        found.get_text()
        for found in artist.findobj(Text)
        if found.get_text() and found.get_visible()
    ]
