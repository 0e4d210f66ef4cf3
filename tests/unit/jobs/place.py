"""A store of jobs, its directories, and trainers whose exporter is a fake one."""

import io
import json
import subprocess
import sys
import threading
import time

from sqlalchemy.exc import OperationalError

from jobs.database import Job, StoredFile
from jobs.quotas import Quota
from jobs.store import JobStore
from jobs.trainer import Trainer
from jobs.uploads import Uploads
from tests.paths import ROOT
from tests.waiting import until

AGES = {"max_file_age_s": 1e9, "max_job_age_s": 1e9}
# Limits that no test reaches.
QUOTA = Quota(jobs=100, versions=100, minutes=1e6)
FAKE = (sys.executable, "-m", "tests.unit.jobs.fake_exporter")


class Place:
    """A store, its directories, and a trainer on a thread."""

    def __init__(self, directory, url):
        self.models, self.training = directory / "models", directory / "training"
        self.models.mkdir()
        self.url = url
        self.store = JobStore(self.url)
        self.trainer, self.thread, self.max_memory_bytes, self.launcher = None, None, 2**40, None

    def start(self):
        options = {**AGES, "max_memory_bytes": self.max_memory_bytes, "launcher": self.launcher}
        self.trainer = Trainer(self.store, self.training, self.models, **options)
        self.thread = threading.Thread(target=self.trainer.run)
        self.thread.start()

    def start_process(self, lease_s=1.0):
        script = (
            "import sys; from pathlib import Path; from jobs import trainer as t; from jobs.store import JobStore;"
            f"t.EXPORT, t.LEASE_S, t.POLL_S = {FAKE!r}, {lease_s}, 0.02;"
            f"directories = Path({str(self.training)!r}), Path({str(self.models)!r});"
            f"t.Trainer(JobStore({self.url!r}), *directories, **{AGES}).run()"
        )
        return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)

    def stop(self):
        if self.thread is not None:
            self.trainer.is_stopping = True
            self.thread.join(60)
            assert not self.thread.is_alive()

    def submit(self, text, filename="book.txt", **fields):
        file_id = f"file-{time.monotonic_ns()}"
        size = Uploads(self.training / "files").write(file_id, io.BytesIO(text.encode()))
        kept = {"filename": filename, "bytes": size, "created_at": int(time.time())}
        self.store.add_file(StoredFile(id=file_id, tenant="", **kept), 10**9)
        fields = {"model": "characters-3-minutes", "settings": {"seed": 0}, **fields}
        job = Job(tenant="", name="book", training_file=file_id, **fields)
        return self.store.create(job, QUOTA).id

    def begin(self):
        """Submit a job and start a trainer; return the job's id once the exporter runs."""
        job_id = self.submit("text")
        self.start()
        self.wait_for_run(job_id)
        return job_id

    def wait_for_run(self, job_id):
        until((self.training / f"jobs/{job_id}/runs/book/config.json").exists, timeout=60)

    def go_on(self):
        (self.models / "go-on").touch()

    def job(self, job_id):
        return self.store.job("", job_id)

    def wait(self, job_id, *statuses):
        until(lambda: self.job(job_id).status in statuses, timeout=60)
        return self.job(job_id)

    def train(self, text="text", filename="book.txt", **fields):
        """Submit a job, start a trainer, let it train, and return the job once it has ended."""
        job_id = self.submit(text, filename, **fields)
        self.go_on()
        self.start()
        return self.wait(job_id, "succeeded", "failed")

    def wait_for_failure(self, text):
        job_id = self.submit(text)
        self.start()
        job = self.wait(job_id, "failed", "succeeded")
        assert job.error["code"] == "training_failed"
        return job.error["message"]

    def epochs(self, job_id):
        return [event for event in self.store.list_events(job_id, 0, 100) if event.data and "is_best" in event.data]

    def lose_database(self, monkeypatch, method, times):
        """Let the next calls of a method of the store fail, as while PostgreSQL restarts; return the failures left."""
        call, failures = getattr(self.store, method), [OperationalError(method, None, Exception("away"))] * times

        def away_at_first(*given, **values):
            if failures:
                raise failures.pop()
            return call(*given, **values)

        monkeypatch.setattr(self.store, method, away_at_first)
        return failures

    @property
    def versions(self):
        """Arguments of the exporter, by version."""
        cards = self.models.glob("book/*/assets.extra/generator.json")
        return {path.parts[-3]: json.loads(path.read_text())["training"]["settings"] for path in cards}
