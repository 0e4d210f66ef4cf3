"""`kill -9` of every process of `sostenuto serve` at random moments of jobs: nothing is lost or published twice."""

import json
import os
import random
import signal
import time

import pytest

from tests.servers import Serving, is_running
from tests.uploads import multipart
from tests.waiting import until

# Each is killed four times. Without its gateway or model server, `serve` ends.
VICTIMS = 4 * ("gateway", "worker", "model server", "trainer", "exporter")
ENDS_SERVE = ("gateway", "model server")
# Of one model, in at least two epochs.
SETTINGS = {"units": 16, "embedding": 8, "batch_size": 8, "max_minutes": 0.1, "patience": 0}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Operator:
    """Keeps `sostenuto serve` running, and jobs in its queue."""

    def __init__(self, folder):
        self._folder, self.models_dir = folder, folder / "models"
        self.serving = self._start()
        self.job_ids = []
        self._file_id = self.ask("POST", "/v1/files", *multipart("\n".join(sentences()).encode()))["id"]

    def _start(self, port=None):
        return Serving(self.models_dir, self._folder, port)

    def kill(self, name):
        """Kill a process that runs, while a job runs, and start `serve` again if it ends."""
        # The exporter may just have ended: then the next job has one.
        pid = until(lambda: self.keep_busy() or self.serving.pid(name), timeout=300)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_running(pid))
        if name in ENDS_SERVE:
            assert self.serving.process.wait(120) != 0
            self.serving = self._start(self.serving.port)

    def keep_busy(self):
        """Queue a job if none is active, and wait until one runs."""
        if all(job["status"] == "succeeded" for job in self.jobs()):
            body = {"model": "characters-3-minutes", "training_file": self._file_id, "settings": SETTINGS}
            number = len(self.job_ids)
            fields = json.dumps({**body, "suffix": f"m{number}", "seed": number})
            self.job_ids.append(self.ask("POST", "/v1/fine_tuning/jobs", fields)["id"])
        until(lambda: any(job["status"] == "running" for job in self.jobs()), interval=0.1)

    def train(self):
        """Wait until all jobs have succeeded, a new one if there are none; return the seconds that it took."""
        self.keep_busy()
        began = time.monotonic()
        until(lambda: all(job["status"] == "succeeded" for job in self.jobs()), timeout=600, interval=0.3)
        return time.monotonic() - began

    def jobs(self):
        jobs = [self.ask("GET", f"/v1/fine_tuning/jobs/{job_id}") for job_id in self.job_ids]
        assert all(job["error"] is None for job in jobs), jobs
        return jobs

    def ask(self, method, address, body=None, headers=None):
        """Return the JSON of a response; the gateway's worker may just have been killed."""
        status, _, content = until(
            lambda: (answer := self.serving.ask(method, address, body, headers=headers))[0] not in (0, 503) and answer
        )
        assert status == 200, content
        return json.loads(content)


def sentences():
    """Yield a text of 20,000 characters."""
    rng = random.Random(0)
    words = ["the", "sea", "old", "and", "ship", "night", "a", "captain", "saw", "wind", "lost", "of"]
    for _ in range(500):
        yield " ".join(rng.choices(words, k=8)).capitalize() + "."


@pytest.fixture
def operator(tmp_path):
    operator = Operator(tmp_path)
    yield operator
    operator.serving.end(timeout=90)


def test_killed_processes_lose_no_job_and_publish_each_once(operator):
    rng = random.Random(0)
    victims = list(VICTIMS)
    rng.shuffle(victims)
    duration_s = operator.train()
    for name in victims:
        operator.keep_busy()
        # A job goes on after a kill, so it is killed at any moment, from the first one to the publishing.
        time.sleep(rng.uniform(0, 0.4 * duration_s))
        operator.kill(name)
    operator.train()
    for job in operator.jobs():
        (version,) = (path for path in (operator.models_dir / job["fine_tuned_model"]).iterdir() if path.name.isdigit())
        assert version.name == str(job["version"]) == "1"
        card = json.loads((version / "assets.extra/generator.json").read_text())
        assert card["training"]["settings"]["job"] == job["id"]
        events = operator.ask("GET", f"/v1/fine_tuning/jobs/{job['id']}/events?limit=1000")["data"]
        epochs = [event["data"]["epoch"] for event in reversed(events) if "is_best" in event.get("data", ())]
        assert epochs == list(range(1, len(json.loads((version / "assets.extra/history.json").read_text())) + 1))
        assert operator.serving.text(model=job["fine_tuned_model"], prompt="The ", max_tokens=20)
    until(lambda: not list((operator.models_dir.parent / "training/jobs").iterdir()))
