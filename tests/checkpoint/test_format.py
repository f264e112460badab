"""A checkpoint of this format goes on being read, and another is refused.

`stored/format_N` was written by the fda_tf that had format N first:

    PYTHONPATH=.:tests/helpers python tests/checkpoint/test_format.py
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
import small

import fda_tf
from fda_tf.checkpoint import file_format

STORED = pathlib.Path(__file__).parent / "stored"
STEPS, STORED_AT = 12, 6


def run(folder=None, steps=STEPS):
    """A run with a state of each kind, as small as can be."""
    saved = folder and fda_tf.Checkpoint(folder, every=STORED_AT, keep=1)
    return fda_tf.simulate(
        small.rich_model,
        small.shards(2, samples=80),
        fda_tf.Algorithm(
            fda_tf.VarianceThreshold(0.05, "linear"),
            compression=fda_tf.compression.TopK(0.5),
        ),
        steps=steps,
        batch_size=8,
        checkpoint=saved,
    )


def test_a_stored_checkpoint_goes_on(tmp_path):
    stored = STORED / f"format_{file_format.FORMAT}"
    assert stored.is_dir(), "a new format needs a fixture: see above"
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    again, lone = run(tmp_path), run()
    assert [s.step for s in again.syncs] == [s.step for s in lone.syncs]
    np.testing.assert_allclose(  # another machine rounds in its own way
        small.flat(again.model), small.flat(lone.model), atol=1e-4
    )


def test_another_format_is_refused_by_both_numbers(tmp_path):
    stored = STORED / f"format_{file_format.FORMAT}"
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    from forged import forge_path

    (manifest,) = tmp_path.rglob("*.json")
    assert json.loads(manifest.read_text())["fda_tf_checkpoint"] > 1
    forge_path(manifest, fda_tf_checkpoint=1)
    ours = f"reads version {file_format.FORMAT}"
    with pytest.raises(ValueError, match=f"(?s)format version 1.*{ours}"):
        run(tmp_path)


if __name__ == "__main__":
    run(STORED / f"format_{file_format.FORMAT}", steps=STORED_AT)
