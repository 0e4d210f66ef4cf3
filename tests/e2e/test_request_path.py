"""The documentation lists the modules that a streaming completion passes through, and their types."""

import ast
import json
import re
import subprocess
import sys
from itertools import pairwise

from tests.documents import page_with
from tests.paths import ROOT

# The trace has no gunicorn; its worker also calls app.py, for requests with a body.
UNDER_GUNICORN = {"http_server/connection.py", "http_server/worker.py", "app.py"}
STEP = r"^\d+\. `([\w/]+\.py)`"
# Other threads poll the model servers.
THREADS = re.compile(r"MainThread|scheduler|call \d+")


def section():
    parts = re.split("^#+ ", page_with(STEP), flags=re.MULTILINE)
    (found,) = (part for part in parts if re.search(STEP, part, re.MULTILINE))
    return found


def in_order(listed, called):
    places = [listed.index(module) for module in called if module in listed]
    return all(first < second for first, second in pairwise(places))


def test_a_streaming_completion_runs_the_modules_that_the_page_lists(two_models_dir, model_server):
    """Each of them runs, in that order; every other module that runs is in the page's second list."""
    command = [sys.executable, "-m", "tests.e2e.traced_completion", two_models_dir, str(model_server.port)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True).stdout
    threads = json.loads(output.splitlines()[-1])
    listed = re.findall(STEP, section(), re.MULTILINE)
    helpers = set(re.findall(r"`([\w/]+\.py)`", section())) - {*listed}
    called = {module for name, modules in threads.items() if THREADS.fullmatch(name) for module in modules}
    assert listed[0] in UNDER_GUNICORN
    assert {*listed} | helpers == called | UNDER_GUNICORN
    # The order is that of the first calls, in each thread.
    request_thread = threads["MainThread"]
    assert in_order(listed, request_thread[: request_thread.index("scheduling/scheduler.py")])
    assert in_order(listed[listed.index("scheduling/scheduler.py") :], threads["scheduler"])


def test_each_listed_module_defines_the_types_that_the_page_names_with_it():
    steps = re.findall(STEP + r"(?:.*\((`\w+`(?:, `\w+`)*)\)$)?", section(), re.MULTILINE)
    assert len(steps) == len(re.findall(STEP, section(), re.MULTILINE))
    for module, types in steps:
        tree = ast.parse((ROOT / "service" / module).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        assert {*re.findall(r"\w+", types)} <= defined, module
    (modules,) = re.findall(r"in `model_server` \((`.*?)\)", section())
    assert [name for name in re.findall(r"\w+", modules) if not (ROOT / f"model_server/{name}.py").exists()] == []
