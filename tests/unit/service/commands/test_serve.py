"""`python -m service serve` under the signals by which gunicorn starts further processes."""

import signal

import pytest

from tests.ports import free_port
from tests.servers import Gateway, children


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTTIN"])
def test_a_signal_that_would_start_another_process_is_refused(tmp_path, name):
    """With a log line that says what to do instead; the gateway keeps its one worker, and ends on SIGTERM."""
    gateway = Gateway(tmp_path, free_port(), tmp_path / "log", ready=False)
    try:
        workers = children(gateway.process.pid)
        gateway.send(getattr(signal, name))
        gateway.wait_until(lambda: f"{name} ignored" in gateway.output, timeout=30)
        assert gateway.get("/healthz") == (200, {"status": "ok"})
        assert children(gateway.process.pid) == workers
    finally:
        assert gateway.end() == 0
    assert "Traceback" not in gateway.output
