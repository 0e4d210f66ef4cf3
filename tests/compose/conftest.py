"""The real docker-compose.yml in a directory of its own, with the images that `tests/compose/run` has built."""

import json
import os
import shutil
import subprocess
import time

import pytest

from tests.paths import ROOT
from tests.ports import free_port
from tests.servers import Client

PROJECT = "sostenuto-compose-test"


class Project:
    """The compose files of a fresh checkout, and `docker compose` on them."""

    def __init__(self, folder):
        self.folder = folder
        self.models = folder / "models"
        for name in ("docker-compose.yml", ".env"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        self.models.mkdir()
        # A checkout belongs to the user who works with it.
        os.chown(self.models, 1000, 1000)
        self.port = free_port()
        self.gateway = Client(self.port)

    def start(self, *arguments, timeout=600):
        """Run `docker compose` with arguments; return the completed process."""
        # The environment takes precedence over the user's .env.
        ours = {"SOSTENUTO_PORT": str(self.port), "COMPOSE_PROJECT_NAME": PROJECT, "COMPOSE_PROFILES": "cpu"}
        environment = {**os.environ, **ours, "SOSTENUTO_UID": "1000", "SOSTENUTO_GID": "1000"}
        return subprocess.run(
            ["docker", "compose", "--progress", "quiet", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def run(self, *arguments, timeout=600):
        """Run `docker compose` with arguments, which must succeed; return what it printed."""
        done = self.start(*arguments, timeout=timeout)
        assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self):
        return self.start("logs", "--tail", "30").stdout

    def containers(self, service=None):
        ids = self.run("ps", "--all", "--quiet", *([service] if service else [])).split()
        return json.loads(subprocess.run(["docker", "inspect", *ids], capture_output=True, check=True).stdout)

    def until(self, condition, timeout=60):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def backends(self):
        status, found = self.gateway.get("/v1/status")
        return [backend["ejected_because"] for backend in found["backends"]] if status == 200 else []


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """The project after `docker compose up` has trained the demo and started its services."""
    project = Project(tmp_path_factory.mktemp("checkout"))
    project.run("--profile", "*", "down", "--volumes", "--remove-orphans")
    try:
        project.run("up", "--detach", "--wait", timeout=1200)
        yield project
    finally:
        project.run("--profile", "*", "down", "--volumes", "--remove-orphans")
