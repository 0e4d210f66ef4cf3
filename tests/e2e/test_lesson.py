"""The lesson in docs/ runs from top to bottom, and what is stored of it can be read anywhere."""

import copy
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

DOCS = Path(__file__).resolve().parents[2] / "docs"
LESSON = DOCS / "lesson.ipynb"
MAX_BYTES = 600_000
CELL_TIMEOUT_S = 300
# Folders of a machine, and what it is called when a file is named by its address.
PLACES = re.compile(r"(?<![\w.])/(?:work|tmp|root|home|Users|var|usr|opt|mnt)\b|file://|site-packages")


class OwnKernel(AsyncKernelManager):
    """A kernel of the interpreter that runs the tests, whatever kernels are installed."""

    def format_kernel_cmd(self, extra_arguments=None):
        return [sys.executable, "-m", "ipykernel_launcher", "-f", self.connection_file, *(extra_arguments or [])]


@pytest.fixture(scope="module")
def stored():
    """The notebook as it is read on a web page."""
    return nbformat.read(LESSON, as_version=4)


def run(notebook):
    """Run a notebook as if it were opened from docs/; what it puts out goes into `notebook`, not into a file."""
    options = {"timeout": CELL_TIMEOUT_S, "resources": {"metadata": {"path": str(DOCS)}}}
    NotebookClient(notebook, kernel_manager_class=OwnKernel, **options).execute()


def outputs(notebook):
    """Return the outputs of all cells."""
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(notebook):
    """Return every output that is text, however it is written."""
    found = []
    for output in outputs(notebook):
        parts = [output.get("text", ""), *output.get("traceback", ()), *output.get("data", {}).values()]
        found += ["".join(part) if isinstance(part, list) else str(part) for part in parts]
    return [text for text in found if text]


@pytest.mark.timeout(600)
def test_every_cell_runs_and_nothing_is_left_behind(stored, tmp_path, monkeypatch):
    """No cell fails, the kernel is this interpreter, and the temporary folder is empty when it has ended."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = copy.deepcopy(stored)
    notebook.cells.append(nbformat.v4.new_code_cell("print(sys.executable)"))
    run(notebook)
    assert notebook.cells.pop().outputs[0].text.strip() == sys.executable
    assert len(outputs(notebook)) >= len(outputs(stored))
    # AutoGraph compiles what it generates there, where Python may write bytecode.
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == []


def test_a_cell_that_fails_is_noticed():
    """An assert that does not hold ends the run with an error."""
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")])
    with pytest.raises(CellExecutionError, match="AssertionError"):
        run(broken)


def test_the_stored_outputs_are_those_of_one_run(stored):
    """Every code cell was run once, in order; plots are there, and no error."""
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in output.get("data", {}) for output in outputs(stored)) >= 5
    assert not [output for output in outputs(stored) if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [text for text in texts(stored) if "Traceback" in text]


def test_the_stored_outputs_name_no_place_of_a_machine(stored):
    """No output tells a folder of the machine that it was made on."""
    shown = [text for text in texts(stored) if PLACES.search(text) or str(Path.home()) in text]
    assert not shown


def test_the_stored_notebook_is_small():
    """It can be read on a web page."""
    assert LESSON.stat().st_size < MAX_BYTES
