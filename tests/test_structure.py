"""Imports of the library run one way, and private names stand in one file."""

import ast
import graphlib
import pathlib
import re

import pytest

import fda_tf

ROOT = pathlib.Path(fda_tf.__file__).parent
# From the bottom up: a file imports its own level and those before it.
LEVELS = (
    "version",
    "validate",
    "tf_internals",
    "keras_internals",
    "tensors",
    "processes",
    "algorithm",
    "data",
    "workers",
    "core",
    "checkpoint",
    "run",
    "fit",
    "launch",
)


def _files():
    return {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
        for path in ROOT.rglob("*.py")
        if path != ROOT / "__init__.py"
    }


def _imports(path, files):
    """Yields the modules of ours that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                both = f"{node.module}.{name.name}", node.module
                yield from [m for m in both if m in files][:1]
        elif isinstance(node, ast.Import):
            yield from [n.name for n in node.names if n.name in files]


def _graph():
    files = _files()
    return {name: set(_imports(p, files)) for name, p in files.items()}


def _level(module):
    return LEVELS.index(module.split(".")[1])


def test_imports_run_one_way():
    upward = [
        f"{module} imports {other}"
        for module, others in _graph().items()
        for other in others
        if _level(other) > _level(module)
    ]
    assert not upward


def test_no_file_is_in_a_circle():
    order = graphlib.TopologicalSorter(_graph())
    assert len(list(order.static_order())) == len(_files())


def test_nothing_imports_the_top_of_the_package():
    for path in _files().values():
        source = path.read_text()
        assert not re.search(r"^\s*import fda_tf$", source, re.M), path


@pytest.mark.parametrize(
    "pattern, only",
    [
        (r"tf\.distribute\.", "processes/process_group.py"),
        (r"tensorflow\.python|tensorflow\.compiler", "tf_internals.py"),
        (r"keras\.src", "keras_internals.py"),
        # Private attributes, but of ours (self, cls) and of modules.
        (
            r"\b(?!self\b|cls\b)\w+\._(flatten_layers|symbolic_build|"
            r"get_metrics_result_or_logs|initial_epoch|distribute_strategy)\b",
            "keras_internals.py",
        ),
    ],
)
def test_private_names_are_in_one_file(pattern, only):
    users = {
        str(path.relative_to(ROOT))
        for path in _files().values()
        if re.search(pattern, _code(path))
    }
    assert users <= {only}


def _code(path):
    """Returns the source without its texts, in which anything may stand."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)
