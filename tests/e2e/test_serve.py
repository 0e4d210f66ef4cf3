"""`sostenuto serve`, also after SIGKILL. The unit tests cover other ways to end it."""

import concurrent.futures
import os
import signal
import sys

import pytest

from tests.paths import ROOT
from tests.ports import free_port
from tests.programs import write_entry_points
from tests.servers import Process, Serving, is_running
from tests.waiting import until

NUM_STREAMS = 6
# Long enough to be running when a process is killed, and short enough to end within the drain.
FIELDS = {"model": "lstm", "prompt": "It was", "max_tokens": 5_000}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")


@pytest.fixture
def serving(two_models_dir, tmp_path):
    """The program, with a model server and a gateway that are ready."""
    serving = Serving(two_models_dir, tmp_path)
    yield serving
    serving.end_all()


def test_accepted_streams_finish_after_serve_is_killed(serving):
    ends, begun = [], []

    def read(seed):
        *_, last = (begun.append(seed) or event for event in serving.stream(**FIELDS, seed=seed))
        ends.append(last)

    with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
        reading = [pool.submit(read, seed) for seed in range(NUM_STREAMS)]
        serving.wait_until(lambda: len(set(begun)) == NUM_STREAMS)
        serving.process.kill()
        for one in reading:
            one.result(120)
    assert ends == [None] * NUM_STREAMS
    until(lambda: not any(is_running(pid) for pid in serving.pids.values()), timeout=90)


def test_sostenuto_serve_starts_in_any_directory(two_models_dir, tmp_path):
    commands, home = tmp_path / "commands", tmp_path / "home"
    for folder in (commands, home):
        folder.mkdir()
    write_entry_points(commands)
    for name in ("service", "model_server", "contract", "export"):
        (home / f"{name}.py").write_text("raise SystemExit('not the project's')\n")
    port = free_port()
    serving = Process(
        [sys.executable, "-P", "-m", "sostenuto", "serve", "--port", str(port), "--models-dir", str(two_models_dir)],
        tmp_path / "log",
        cwd=home,
        PYTHONPATH=os.pathsep.join(map(str, (commands, ROOT, ROOT / "client/src"))),
        SOSTENUTO_METRICS_PORT="0",
    )
    try:
        serving.wait_until(lambda: "ready after" in serving.output, timeout=200)
        assert f"http://127.0.0.1:{port}" in serving.output
    finally:
        assert serving.end(signal.SIGINT, timeout=60) == 0
