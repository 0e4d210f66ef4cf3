"""`sostenuto serve` of an installation. Unit tests cover the ways to end it."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.ports import free_port
from tests.programs import write_entry_points
from tests.servers import Client, Process, children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")


def test_sostenuto_serve_starts_in_any_directory_and_survives_its_model_server(two_models_dir, tmp_path):
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
        client, body = Client(port), {"model": "lstm", "prompt": "It", "seed": 1, "max_tokens": 20_000}
        events = client.stream(**body)
        first = next(events)["choices"][0]["text"]
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(serving.process.pid)}
        (model_server,) = [pid for pid, command in commands.items() if "model_server" in command]
        os.kill(model_server, signal.SIGKILL)
        rest = [event["choices"][0] for event in events if event and event["choices"]]
        assert (rest[-1]["finish_reason"], "restarting it" in serving.output) == ("length", True)
        assert first + "".join(choice["text"] for choice in rest) == client.text(**body)
    finally:
        assert serving.end(signal.SIGINT, timeout=60) == 0
