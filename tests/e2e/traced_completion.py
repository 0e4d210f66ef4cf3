"""`python -m tests.e2e.traced_completion MODELS_DIR PORT`: trace one streaming completion of the application.

Prints a JSON object: for each thread, the modules of `service` that it ran, in order of their first call.
"""

import json
import sys
import threading
import time
from pathlib import Path

import service
from service.app import create_app
from service.settings import Settings

ROOT = Path(service.__file__).parent
BODY = {"model": "lstm", "prompt": "It was the ", "max_tokens": 200, "seed": 1, "stream": True, "stop": ["\0"]}


class Trace:
    """The modules that run while the trace is on, by thread name."""

    def __init__(self):
        self.is_on = False
        self.modules = {}

    def profile(self, frame, event, _):
        """Record a call; see `sys.setprofile`."""
        path = Path(frame.f_code.co_filename)
        if self.is_on and event == "call" and path.is_relative_to(ROOT):
            modules = self.modules.setdefault(threading.current_thread().name, {})
            modules.setdefault(str(path.relative_to(ROOT)))


def main():
    """Trace a completion of the application on Flask's test client, in front of a running model server."""
    models_dir, port = sys.argv[1:]
    trace = Trace()
    # Before the application's threads start.
    threading.setprofile(trace.profile)
    app = create_app(Settings(models_dir=models_dir, backends=f"127.0.0.1:{port}", poll_s=0.2, log_level="error"))
    client, deadline = app.test_client(), time.monotonic() + 60
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline, "no model is ready"
        time.sleep(0.1)
    sys.setprofile(trace.profile)
    trace.is_on = True
    response = client.post("/v1/completions", json=BODY)
    assert b"[DONE]" in response.get_data()
    response.close()
    trace.is_on = False
    sys.setprofile(None)
    print(json.dumps({name: list(modules) for name, modules in trace.modules.items()}))


if __name__ == "__main__":
    main()
