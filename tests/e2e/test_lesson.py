"""The notebook docs/lesson.ipynb runs from top to bottom, and its stored outputs are clean."""

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

from tests.built import built

DOCS = Path(__file__).resolve().parents[2] / "docs"
LESSON = DOCS / "lesson.ipynb"
MAX_BYTES = 600_000
CELL_TIMEOUT_S = 300
# Everything that the notebook runs.
SOURCES = (
    *("docs/lesson.ipynb", "contract", "export", "model_server", "service", "client/src"),
    *("requirements.txt", "requirements/gateway.txt", "requirements/dev.txt", "requirements/demo.txt"),
)
LINK = re.compile(r"\]\(http://127\.0\.0\.1:\d+/inspector#([^)]+)\)")
# Absolute paths, file URLs and installed packages, which would reveal the machine.
PLACES = re.compile(r"(?<![\w.])/(?:work|tmp|root|home|Users|var|usr|opt|mnt)\b|file://|site-packages")


class OwnKernel(AsyncKernelManager):
    """A kernel of the interpreter that runs the tests, whatever kernels are installed."""

    def format_kernel_cmd(self, extra_arguments=None):
        return [sys.executable, "-m", "ipykernel_launcher", "-f", self.connection_file, *(extra_arguments or [])]


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(LESSON, as_version=4)


def run(notebook):
    """Run a notebook with docs/ as its working directory; outputs go into `notebook`, not into a file."""
    options = {"timeout": CELL_TIMEOUT_S, "resources": {"metadata": {"path": str(DOCS)}}}
    NotebookClient(notebook, kernel_manager_class=OwnKernel, **options).execute()


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(notebook):
    """Return all text of all outputs: streams, tracebacks and every MIME type."""
    found = []
    for output in outputs(notebook):
        parts = [output.get("text", ""), *output.get("traceback", ()), *output.get("data", {}).values()]
        found += ["".join(part) if isinstance(part, list) else str(part) for part in parts]
    return [text for text in found if text]


def run_lesson(folder):
    """Run the notebook into a directory and stop its service; it leaves no temporary files."""
    notebook = nbformat.read(LESSON, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print(stop_service(), sys.executable)"))
    with tempfile.TemporaryDirectory() as temporary:
        with mock.patch.dict(os.environ, TMPDIR=temporary):
            run(notebook)
        # AutoGraph compiles what it generates there, where Python may write bytecode.
        assert [path.name for path in Path(temporary).iterdir() if path.name != "__pycache__"] == []
    folder.mkdir()
    nbformat.write(notebook, folder / LESSON.name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_cell_runs_and_leaves_no_temporary_files(stored):
    result = built("lesson", run_lesson, sys.executable, SOURCES)
    notebook = nbformat.read(result / LESSON.name, as_version=4)
    assert notebook.cells.pop().outputs[0].text.strip() == f"0 {sys.executable}"
    assert len(outputs(notebook)) >= len(outputs(stored))


def test_the_stored_outputs_come_from_one_complete_run(stored):
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in output.get("data", {}) for output in outputs(stored)) >= 5
    assert not [output for output in outputs(stored) if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [text for text in texts(stored) if "Traceback" in text]


def test_each_plot_has_a_link_that_opens_its_model_in_the_inspector(stored):
    published = set(re.findall(r"models/([\w-]+)/1\b", "\n".join(texts(stored))))
    for cell in stored.cells:
        found = [output.get("data", {}) for output in cell.get("outputs", ())]
        if any("image/png" in data for data in found):
            links = [LINK.search(data["text/markdown"]) for data in found if "text/markdown" in data]
            assert links
            for shown in (json.loads(unquote(link[1])) for link in links):
                assert shown["text"]
                assert shown["model"] in published
                assert shown.keys() <= {"model", "text", "color", "kind", "unit"}


def test_the_stored_outputs_contain_no_absolute_paths(stored):
    shown = [text for text in texts(stored) if PLACES.search(text) or str(Path.home()) in text]
    assert not shown
