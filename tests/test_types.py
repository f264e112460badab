"""A type checker sees the public surface, as an editor does."""

import pathlib
import subprocess
import sys

import processes
import pytest

USE = processes.HERE / "typed_use.py"
# A mistake of a user's, by what the checker says of it.
MISTAKES = {
    'Unexpected keyword argument "thta"': "fda_tf.FDA(thta=1.5)",
    'Unexpected keyword argument "cap"': "fda_tf.VarianceThreshold(1.5, cap=3)",
    'has incompatible type "str"; expected "int"': (
        'fda_tf.train(build(), (x, x), steps="3")'
    ),
    'Module has no attribute "EveryStep"': "fda_tf.EveryStep()",
    '"Synchronisation" has no attribute "exact"': "history.syncs[0].exact",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What mypy says of a user's file, and of it with mistakes added."""
    wrong = tmp_path_factory.mktemp("types") / "wrong.py"
    mistakes = [f"    {mistake}\n" for mistake in MISTAKES.values()]
    wrong.write_text(USE.read_text() + "".join(mistakes))
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--ignore-missing-imports"]
        + ["--follow-imports=silent", "--cache-dir", str(wrong.parent)]
        + [str(USE), str(wrong)],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return found.stdout + found.stderr


def test_what_users_write_is_clean(said):
    assert "checked 2 source files" in said
    assert USE.name not in said, said


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_seen(said, words):
    assert words in said, said


def test_the_wheel_says_that_it_is_typed():
    assert (processes.ROOT / "fda_tf" / "py.typed").exists()
    text = pathlib.Path(processes.ROOT, "setup.cfg").read_text()
    assert "py.typed" in text
