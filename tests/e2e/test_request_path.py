"""The documentation lists the modules that a streaming completion passes through; this compares a traced one."""

import json
import re
import subprocess
import sys
from itertools import pairwise

from tests.documents import page_with
from tests.paths import ROOT

# The worker runs only under gunicorn, which the trace does not use; app.py is only called by it.
WORKER, APPLICATION = "http_server/worker.py", "app.py"
# Other threads poll the model servers.
THREADS = re.compile(r"MainThread|scheduler|call \d+")


def in_order(listed, called):
    """Return whether modules are first called in the order of the list."""
    places = [listed.index(module) for module in called if module in listed]
    return all(first < second for first, second in pairwise(places))


def test_a_streaming_completion_runs_the_modules_that_the_page_lists(models_dir, model_server):
    """Each of them runs, in that order; every other module that runs is in the page's second list."""
    command = [sys.executable, "-m", "tests.e2e.traced_completion", models_dir, str(model_server.port)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True).stdout
    threads = json.loads(output.splitlines()[-1])
    step = r"^\d+\. `([\w/]+\.py)`"
    (section,) = (
        part for part in re.split("^#+ ", page_with(step), flags=re.MULTILINE) if re.search(step, part, re.MULTILINE)
    )
    listed = re.findall(step, section, re.MULTILINE)
    helpers = set(re.findall(r"`([\w/]+\.py)`", section)) - {*listed}
    called = {module for name, modules in threads.items() if THREADS.fullmatch(name) for module in modules}
    assert listed[0] == WORKER
    assert {*listed[1:]} | helpers == called - {APPLICATION}
    # Creating the response calls the last listed module, before the scheduler has a token for it.
    request_thread = threads["MainThread"]
    assert in_order(listed, request_thread[: request_thread.index("scheduling/scheduler.py")])
    assert in_order(listed[listed.index("scheduling/scheduler.py") :], threads["scheduler"])
