"""The front page: what `fda_tf` offers, documents and imports."""

import importlib
import inspect
import re

import processes
import pytest

import fda_tf

TEXTS = [
    path
    for folder, ending in (
        ("fda_tf", "**/*.py"),
        (".", "README.md"),
        (".", "CONTRIBUTING.md"),
        ("docs", "**/*.md"),
        ("experiments", "**/*.md"),
        ("experiments/notebooks", "*.ipynb"),
    )
    for path in sorted((processes.ROOT / folder).glob(ending))
]


def test_all_is_what_there_is():
    assert sorted(fda_tf.__all__) == sorted(set(fda_tf.__all__))
    for name in fda_tf.__all__:
        assert hasattr(fda_tf, name)


@pytest.mark.parametrize("name", fda_tf.__all__)
def test_public_things_are_documented(name):
    thing = getattr(fda_tf, name)
    if callable(thing) or inspect.ismodule(thing):
        doc = inspect.getdoc(thing)
        assert doc and doc.splitlines()[0].endswith("."), name


def test_the_version_is_that_of_the_metadata():
    from importlib import metadata

    assert metadata.version("fda_tf") == fda_tf.__version__


@pytest.mark.parametrize("function", [fda_tf.simulate, fda_tf.train])
def test_signatures_show_all_options_and_know_no_others(function):
    shown = inspect.signature(function).parameters
    assert {"algorithm", "validation_data", "on_evaluation"} <= set(shown)
    assert all(p.kind is not p.VAR_KEYWORD for p in shown.values())
    with pytest.raises(TypeError, match="unexpected keyword .*'thta'"):
        function(None, None, steps=1, thta=1.0)


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.name)
def test_what_texts_name_is_there(path):
    """Docstrings, messages and pages: what they say to write works."""
    found = re.findall(r"\bfda_tf((?:\.[A-Za-z_]\w*)+)", path.read_text())
    for dotted in found:
        thing = fda_tf
        for name in dotted[1:].split("."):
            if not hasattr(thing, name):
                try:  # a module that nobody has loaded yet
                    importlib.import_module(f"{thing.__name__}.{name}")
                except (ImportError, AttributeError):
                    pytest.fail(f"{path} names fda_tf{dotted}")
            thing = getattr(thing, name)
