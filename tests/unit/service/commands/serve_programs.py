"""`python -m service serve` with small programs instead of the model server and the gateway.

`python -m tests.unit.service.commands.serve_programs serve PORT DIR` runs it. Its gateway is gunicorn with the real
worker, and needs the model server at every tick of a stream.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

THIS = "tests.unit.service.commands.serve_programs"
TICK_S = 0.05
# Streams end when this file exists. It is in the working directory of every process.
END_OF_STREAMS = "end-of-streams"
# Longer than any test waits: a test that wants a drain to end has its streams end.
DRAIN_S = 120


def run_serve(port, folder):
    """Start both programs as `serve` starts its own."""
    from service.commands.serve import Supervisor
    from service.settings import Settings

    class FakeSupervisor(Supervisor):
        def _spawn(self, module, *arguments, **how):
            return super()._spawn(THIS, "gateway" if module == "service" else "model_server", *arguments, **how)

    os.chdir(folder)
    settings = Settings(port=int(port), metrics_port=0, models_dir=Path(folder), drain_s=DRAIN_S)
    sys.exit(FakeSupervisor(settings).run())


def run_model_server(*arguments):
    """Accept connections until SIGTERM."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    port = int(next(argument for argument in arguments if argument.startswith("--port=")).partition("=")[2])
    with socket.create_server(("127.0.0.1", port), backlog=100) as listener:
        listener.settimeout(0.05)
        while not stopped.is_set():
            with contextlib.suppress(TimeoutError):
                listener.accept()[0].close()
    print("the model server stopped", flush=True)


def run_gateway(*_arguments):
    """Serve `application` by gunicorn, as `serve` does."""
    bind = f"127.0.0.1:{os.environ['SOSTENUTO_PORT']}"
    worker = "service.http_server.worker.StreamingWorker"
    options = ["-k", worker, "-b", bind, "--threads", "16", "--graceful-timeout", str(DRAIN_S), "--no-control-socket"]
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *options, f"{THIS}:application"])


def application(environ, start_response):
    """Stream ticks until END_OF_STREAMS exists, each after a call to the model server."""
    if environ["PATH_INFO"] != "/stream":
        start_response("200 OK", [("Content-Length", "16")])
        return [b'{"models":["a"]}']
    start_response("200 OK", [])
    return ticks()


def ticks():
    address = ("127.0.0.1", int(os.environ["SOSTENUTO_BACKENDS"].rpartition(":")[2]))
    while not Path(END_OF_STREAMS).exists():
        try:
            socket.create_connection(address, timeout=10).close()
        except OSError:
            yield b"no model server\n"
            return
        yield b"tick\n"
        time.sleep(TICK_S)
    yield b"the end\n"


if __name__ == "__main__":
    {"serve": run_serve, "model_server": run_model_server, "gateway": run_gateway}[sys.argv[1]](*sys.argv[2:])
