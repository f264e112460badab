"""The notebooks run from their first cell to their last, in a small setting."""

import pathlib

import nbclient
import nbformat
import processes
import pytest

from experiments import datasets

ROOT = pathlib.Path(datasets.__file__).parents[1]
NOTEBOOKS = ROOT / "experiments" / "notebooks"
# The tagged cell of each, small.
SMALL = {
    "quickstart": "workers = 2; steps = 20; theta = 0.1; samples = 400",
    "compare": (
        "workers = 2; steps = 20; theta = 0.1; samples = 400\n"
        "split = 'dirichlet:1'"
    ),
    "cluster": "workers = 2; epochs = 1; theta = 0.1",
}


def notebook(name):
    """A notebook as it lies there."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def run(book, folder):
    """Runs a notebook in a folder; raises what a cell raises."""
    env = processes.environment(IPYTHONDIR=str(folder / "ipython"))
    # ipykernel shows what processes print, but not when it is tested itself.
    del env["PYTEST_CURRENT_TEST"]
    client = nbclient.NotebookClient(
        book,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=env)
    return book


def written(book):
    """What its cells have printed, and how many pictures they drew."""
    outputs = [o for cell in book.cells for o in cell.get("outputs", ())]
    text = "".join(o.text for o in outputs if o.output_type == "stream")
    return text, sum("image/png" in o.get("data", {}) for o in outputs)


def small(name):
    """A notebook whose parameters are those of `SMALL`."""
    book = notebook(name)
    (cell,) = [
        c for c in book.cells if "parameters" in c.metadata.get("tags", ())
    ]
    cell.source += "\n" + SMALL[name]
    return book


def test_these_are_all():
    assert {path.stem for path in NOTEBOOKS.iterdir()} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_has_no_outputs_and_installs_the_package_first(name):
    book = notebook(name)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert '%pip install -q "fda_tf[experiments]"' in code[0].source
    for cell in code:
        assert not cell.outputs and cell.execution_count is None
        assert max(map(len, cell.source.splitlines())) <= 80


def test_quickstart_trains_and_draws(tmp_path):
    text, pictures = written(run(small("quickstart"), tmp_path))
    assert "synchronous: accuracy 0." in text and "FDA, sketch: acc" in text
    assert pictures == 2


def test_compare_trains_all_rivals(tmp_path):
    text, pictures = written(run(small("compare"), tmp_path))
    lines = text[text.index("accuracy  syncs") :].splitlines()
    assert len(lines) == 1 + 6 and pictures == 2
    assert lines[1].split() == ["synchronous", *lines[1].split()[1:]]


def test_cluster_starts_two_processes(tmp_path):
    text, pictures = written(run(small("cluster"), tmp_path))
    assert "val_accuracy" in text and pictures == 1
    assert (tmp_path / "log.csv").read_text().count("\n") == 2


def test_a_cell_that_fails_fails_the_notebook(tmp_path):
    book = notebook("cluster")
    book.cells = [c for c in book.cells if "import subprocess" in c.source]
    failing = nbformat.v4.new_code_cell(
        "subprocess.run([sys.executable, '-m', 'fda_tf.launch', '--workers=1',"
        " 'absent.py'], check=True)"
    )
    book.cells.append(failing)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="absent"):
        run(book, tmp_path)
