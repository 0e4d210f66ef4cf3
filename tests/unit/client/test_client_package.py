"""The package as a whole: its exports, its dependencies and the example of its README."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sostenuto
from tests.unit.client.scripted_responses import COMPLETION, answer_json, chunk, models, stream

PACKAGE = Path(sostenuto.__file__).parent
LIBRARY = {"requests", "urllib3"}
# The last one comes with jsonschema.
PARTS = {"_cli": {"click", "rich"}, "_report": {"numpy", "rapidfuzz", "jsonschema", "referencing"}}
SOURCES = sorted(set(PACKAGE.rglob("*.py")) - {*(PACKAGE / "_batch").rglob("*.py"), PACKAGE / "__main__.py"})
README = Path(sostenuto.__file__).parents[2] / "README.md"


def test_every_public_class_is_exported_and_documented():
    things = {name: getattr(sostenuto, name) for name in sostenuto.__all__ if name != "__version__"}
    assert all(isinstance(thing, type) and thing.__doc__ for thing in things.values())
    modules = {importlib.import_module(thing.__module__) for thing in things.values()}
    public = {
        name
        for module in modules
        for name, thing in vars(module).items()
        if isinstance(thing, type) and thing.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public - {"Attempts", "Backoff", "LinkedEvent"} == set(things) <= set(dir(sostenuto))
    with pytest.raises(AttributeError, match="no attribute 'Clients'"):
        _ = sostenuto.Clients  # type: ignore[attr-defined]


def imported(source):
    """Return the modules that a file imports from outside the standard library, except for type checkers alone."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_module_imports_only_what_its_part_of_the_package_requires(source):
    names, part = imported(source), source.relative_to(PACKAGE).parts[0]
    assert {name.partition(".")[0] for name in names} <= {"sostenuto", *PARTS.get(part, LIBRARY)}
    if part not in PARTS:
        assert not any(f"{name}.".startswith(("sostenuto._cli.", "sostenuto._batch.")) for name in names)


def test_a_servers_report_is_shown_without_the_extra():
    absent = "import sys; sys.modules.update(dict.fromkeys(('numpy', 'rapidfuzz', 'jsonschema')))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", f"{absent}; import sostenuto._report.page"], check=True, env=environment)


def test_the_package_has_py_typed():
    assert Path(sostenuto.__file__).with_name("py.typed").is_file()


def test_the_readmes_example_runs(server, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    server.script = [
        models("tiny"),
        answer_json(COMPLETION),
        stream([chunk(" there"), chunk(" was", "stop"), "[DONE]"]),
    ]
    exec(example.replace("http://127.0.0.1:8000", server.url), {})
    assert capsys.readouterr().out == " upon a time\n there was"
    assert [body and body["prompt"] for body in server.bodies] == [None, "HAMLET.\n", "HAMLET.\n"]
