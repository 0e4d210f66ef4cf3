"""Both wheels in a fresh virtual environment, used in an empty directory, as a stranger does.

The wheel of `sostenuto-server` is built from its sdist. Only the two distributions are installed. A `.pth` file lends
the environment the other packages of the one that runs the tests, which `scripts/setup` has installed from the lock:
TensorFlow would be downloaded again. The checkout is not lent, as Python reads the `.pth` files of editable
installations in its own environment alone.
"""

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request

import pytest

from sostenuto import __version__
from tests.paths import ROOT
from tests.ports import free_port
from tests.servers import Client, Process, joined

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
# Files of the user's, with the names of packages of the server.
OWN = ("service.py", "contract.py", "export/__init__.py", "model_server/__init__.py", "sostenuto_server/service.py")
TEXT = "".join(f"{n} green bottles hanging on the wall.\n" for n in range(2_000))


def build(folder, kind, made):
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(made)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (path,) = made.iterdir()
    return path


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The directory of programs of an environment that has both wheels."""
    made = tmp_path_factory.mktemp("built")
    with tarfile.open(build(ROOT, "sdist", made / "sdist")) as archive:
        archive.extractall(made, filter="data")
    (sources,) = made.glob("sostenuto_server-*")
    wheels = [build(sources, "wheel", made / "server"), build(ROOT / "client", "wheel", made / "client")]
    environment = made / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python3*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "--quiet", "--no-index"]
    subprocess.run([*install, "--no-deps", *wheels], check=True)
    return environment / "bin"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with a text, and with modules of the user's that end the program if it imports them."""
    directory = tmp_path_factory.mktemp("directory")
    for name in OWN:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('a module of the user was imported')\n")
    (directory / "book.txt").write_text(TEXT)
    return directory


class Program(Process, Client):
    """The installed program `sostenuto` in the directory."""

    def __init__(self, programs, directory, *arguments):
        self.port = free_port()
        variables = {"SOSTENUTO_PORT": str(self.port), "SOSTENUTO_METRICS_PORT": "0", "PYTHONPATH": ""}
        log = directory / f"{arguments[0]}.log"
        super().__init__([programs / "sostenuto", *arguments], log, cwd=directory, **variables)

    def finish(self):
        code = self.process.wait(300)
        assert code == 0, self.output
        return self.output


@pytest.fixture(scope="module")
def serving(programs, directory):
    # Seconds instead of three minutes, and a network that is as small.
    short = ["--max-minutes", "0.05", "--units", "16", "--embedding", "8"]
    assert "published" in Program(programs, directory, "train", "book.txt", *short).finish()
    served = Program(programs, directory, "serve")
    served.wait_until(lambda: "ready after" in served.output, timeout=200)
    yield served
    assert served.end(timeout=60) == 0


def test_the_program_has_the_commands_of_both_distributions(programs, directory):
    assert Program(programs, directory, "--version").finish().split() == ["sostenuto", __version__]
    commands = Program(programs, directory, "--help").finish()
    assert [name for name in ("generate", "train", "import", "serve") if f"\n  {name} " not in commands] == []


def test_the_readmes_request_is_answered_by_the_model_of_the_users_text(serving):
    (request,) = re.findall(r"^curl -N \S+/v1/completions -d '(.*?)'$", README, re.MULTILINE | re.DOTALL)
    fields = json.loads(request) | {"model": "book", "prompt": "12 green "}
    events = list(serving.stream(**{name: value for name, value in fields.items() if name != "stream"}))
    assert events[-1] is None
    assert set(joined(events)) <= set(TEXT)


@pytest.mark.parametrize("path", ["/", "/train", "/docs", "/openapi.json", "/static/page.css", "/static/api.js"])
def test_pages_and_static_files_are_in_the_wheel(serving, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{serving.port}{path}") as response:
        assert response.status == 200
        assert response.read()
