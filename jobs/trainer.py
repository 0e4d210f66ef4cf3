"""A trainer: claims one job after another, has the exporter run for it by a launcher, and reports its progress.

However gateway, trainer or exporter are killed, a job is neither lost nor published twice: a lease that is not renewed
ends, the next trainer resumes from the run's last epoch, and a version that names the job ends it.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from contract.files import read_file, try_lock
from contract.signatures import ASSETS, CARD_FILE
from export.child_process import EXPORT, ProgressLines, environment, last_error, train_options
from jobs.database import Job, JobAction
from jobs.launchers.launcher import ERRORS, STOP_S, Exit, Launcher, LauncherError, LauncherUnavailable, Run, Training
from jobs.launchers.process import ProcessLauncher
from jobs.settings import check_settings, model_option
from jobs.store import JobStore
from jobs.uploads import InvalidUpload, Uploads, lay_out

log = logging.getLogger(__name__)

# A trainer that has not renewed its lease for this long is lost.
LEASE_S = 15.0
POLL_S = 0.5
# Seconds between two events about the training loss.
METRICS_S = 5.0
CLEAN_S = 60.0
# Resident memory of a training. One of 1,024 units takes 1.5 GiB.
MAX_MEMORY_BYTES = 4 * 2**30
# Of runs of a job that a signal killed before they completed another epoch.
MAX_KILLS = 3
# Beyond twice the job's `max_minutes`, for reading the text, and for publishing.
OVERTIME_S = 1800.0
# A cluster that does not respond is asked again after this time.
UNAVAILABLE_S = 30.0
# The job database, too.
DATABASE_S = 5.0
# An interrupted upload is deleted after this time.
_UNRECORDED_S = 3600.0
_STDERR_BYTES = 64 * 2**10
_LOGGED_CHARACTERS, _MESSAGE_CHARACTERS = 2000, 1000


class Trainer:
    """Runs jobs until it is stopped; one at a time, each in a directory of its own in the training directory."""

    def __init__(
        self,
        store: JobStore,
        training_dir: Path,
        models_dir: Path,
        *,
        max_file_age_s: float,
        max_job_age_s: float,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
        launcher: Launcher | None = None,
    ) -> None:
        """Prepare; uploaded files are deleted at the first age, jobs as long after their end as the second."""
        self.store, self.uploads = store, Uploads(training_dir / "files")
        self.jobs_dir, self.models_dir = training_dir / "jobs", models_dir
        self._max_file_age_s, self._max_job_age_s = max_file_age_s, max_job_age_s
        self.max_memory_bytes, self.launcher = max_memory_bytes, launcher or ProcessLauncher()
        self.is_stopping = False
        self._clean_at = 0.0

    def run(self) -> None:
        """Run jobs until `is_stopping` is set; the job that runs then is queued again."""
        while not self.is_stopping:
            try:
                self._run_next()
            except OperationalError as error:
                log.warning("the job database does not respond: %s; trying again in %.0f s", error.orig, DATABASE_S)
                time.sleep(DATABASE_S)

    def _run_next(self) -> None:
        if time.monotonic() >= self._clean_at:
            self._clean_at = time.monotonic() + CLEAN_S
            self._clean()
        job = self.store.claim(LEASE_S)
        if job is None:
            time.sleep(POLL_S)
        else:
            self._run(job)

    def _run(self, job: Job) -> None:
        log.info("%s: attempt %d, model %s", job.id, job.attempt, job.name)
        try:
            _Attempt(self, job).run()
        except OperationalError:
            # Its lease ends, and it is claimed again.
            raise
        except InvalidUpload as error:
            self.fail(job, "invalid_training_file", str(error))
        except LauncherUnavailable as error:
            log.warning("%s: %s; trying again in %.0f s", job.id, error, UNAVAILABLE_S)
            if self.store.renew(job, UNAVAILABLE_S) == "cancel":
                self.store.end(job, "cancelled", "the job was cancelled")
            else:
                self.store.add_events(job, [("the cluster does not respond; trying again", None)], "warn")
        except LauncherError as error:
            log.error("%s: %s", job.id, error)
            self.fail(job, "server_error", "the cluster refuses the training; see the trainer's log")
        except OSError as error:
            log.exception("%s failed", job.id)
            self.fail(job, "server_error", f"a file cannot be written: {error.strerror}")
        except Exception:
            log.exception("%s failed", job.id)
            self.fail(job, "server_error", "internal error; see the trainer's log")
        self._remove_ended([job.id])

    def fail(self, job: Job, code: str, message: str) -> None:
        """End a job as failed, if its lease is held."""
        error = {"code": code, "message": message, "param": None}
        self.store.end(job, "failed", f"the job failed: {message}", error=error)

    def _clean(self) -> None:
        """Delete uploads that are too old or have no record, and old jobs, and directories of jobs that have ended."""
        now = time.time()
        for file in self.store.delete_files_before(int(now - self._max_file_age_s)):
            log.info("%s: deleted after %.0f days", file.id, self._max_file_age_s / 86_400)
        if number := self.store.delete_jobs_before(now - self._max_job_age_s):
            log.info("%d jobs: deleted %.0f days after their end", number, self._max_job_age_s / 86_400)
        self.uploads.remove_unrecorded(self.store.file_ids(), now - _UNRECORDED_S)
        self._remove_ended(path.name for path in self.jobs_dir.glob("*"))

    def _remove_ended(self, job_ids: Iterable[str]) -> None:
        """Delete the directories of those jobs that have ended: another trainer may have one whose lease is lost."""
        for job_id in self.store.not_active_among(job_ids):
            self._remove(job_id)

    def _remove(self, job_id: str) -> None:
        """Delete the directory of a job; first stop what a cluster that did not respond, or refused it, still runs."""
        try:
            run = self.launcher.find(job_id)
            if run is not None:
                run.kill()
        except (LauncherUnavailable, LauncherError) as error:
            log.warning("%s: it may still run: %s; trying again in %.0f s", job_id, error, CLEAN_S)
        except Exception:
            log.exception("%s: it may still run; trying again in %.0f s", job_id, CLEAN_S)
        else:
            if run is None:
                shutil.rmtree(self.jobs_dir / job_id, ignore_errors=True)


class _Attempt:
    """One attempt at a job, with its lease."""

    def __init__(self, trainer: Trainer, job: Job) -> None:
        self._trainer, self._store, self._launcher, self._job = trainer, trainer.store, trainer.launcher, job
        self._folder = trainer.jobs_dir / job.id
        self._progress_file = self._folder / "progress.jsonl"
        self._progress = ProgressReader(self._progress_file, trainer.store.last_epoch(job.id))
        self._models_dir = ("--models-dir", str(trainer.models_dir.resolve()))
        self._ran_s = 0.0  # in this attempt, without the time that a run has waited for a place in a cluster
        minutes = check_settings(job.model, job.settings).max_minutes
        self._max_s = None if minutes is None else 120 * minutes + OVERTIME_S

    def run(self) -> None:
        """Have the exporter run, and end the job or its lease.

        A run that a signal killed is replaced, unless several in a row completed no epoch; one that a cluster has ended
        is always replaced.
        """
        num_runs, num_kills, epoch = 0, 0, self._progress.last_epoch
        while True:
            num_runs += 1
            run = self._launcher.find(self._job.id)
            if run is None:
                with self._exclusive() as is_free:
                    # Only now: what has held the lock, or was looked for, may have published until then.
                    if not is_free or self._is_published(is_new=False):
                        return
                    command = self._command()
                run = self._launcher.start(self._training(f"{self._job.attempt}-{num_runs}", command))
            code, wanted = self._follow(run)
            num_kills = 1 if self._progress.last_epoch > epoch else num_kills + (code is not None)
            epoch = self._progress.last_epoch
            if wanted is not None or (code is not None and (code >= 0 or num_kills >= MAX_KILLS)):
                self._conclude(code, wanted)
                return
            cause = "ended by the cluster" if code is None else f"killed by {signal.Signals(-code).name}"
            message = f"the training was {cause}; it continues after its last epoch"
            self._store.add_events(self._job, [(message, None)], "warn")

    def _training(self, number: str, command: Sequence[str]) -> Training:
        job, limit = self._job, self._trainer.max_memory_bytes
        return Training(job.id, number, job.tenant, command, self._folder, limit, self._max_s)

    def _follow(self, run: Run) -> tuple[int | None, JobAction | str | None]:
        """Report progress until a run ends; return its exit code, and why it was stopped or failed, or None."""
        # Also if the database does not respond.
        wanted: JobAction | str | None = "lost"
        try:
            wanted = self._watch(run)
        finally:
            # The next trainer finds it.
            if not (self._launcher.outlives_trainer and wanted in ("stop", "lost")):
                run.stop()
        self._report()
        ended = run.poll() or Exit(None)
        return ended.code, wanted or ended.message

    def _watch(self, run: Run) -> JobAction | str | None:
        """Report progress until a run ends; return why it has to stop, or None."""
        waited_for, before = None, time.monotonic()
        while run.poll() is None:
            now = time.monotonic()
            if run.waits_for is None:
                self._ran_s += now - before
            elif run.waits_for != waited_for:
                self._store.add_events(self._job, [(run.waits_for, None)])
            waited_for, before = run.waits_for, now
            wanted = self._report()
            if wanted is None and (wanted := self._exceeded(run)) is not None:
                # Not after its step, which may be what takes so long or so much.
                run.kill()
            if wanted is None and self._trainer.is_stopping:
                wanted = "stop"
            if wanted is not None:
                return wanted
            time.sleep(POLL_S)
        return None

    def _exceeded(self, run: Run) -> str | None:
        """Return which limit the job exceeds, as its error says it."""
        if self._max_s is not None and self._job.trained_s + self._ran_s > self._max_s:
            return f"the training takes longer than twice its max_minutes and {OVERTIME_S / 60:.0f} minutes"
        limit, used = self._trainer.max_memory_bytes, run.memory_bytes()
        if used > limit:
            sizes = "units, layers, batch_size or sequence_length"
            return f"the training may take at most {limit} bytes of memory, got {used}; choose smaller {sizes}"
        return None

    def _report(self) -> JobAction | str | None:
        """Add events, and renew the lease; return what is requested, or `lost`."""
        found = list(self._progress.events())
        if found:
            self._store.add_events(self._job, found)
        progress: dict[str, float | int] = {"trained_s": self._job.trained_s + self._ran_s}
        if (update := self._progress.last_update) is not None:
            progress["trained_tokens"] = update["tokens"]
        if self._progress.estimated_finish is not None:
            progress["estimated_finish"] = self._progress.estimated_finish
        return self._store.renew(self._job, LEASE_S, **progress)

    def _conclude(self, code: int | None, wanted: JobAction | str | None) -> None:
        # A child may have published just before it was stopped.
        if self._is_published(is_new=code == 0):
            return
        if wanted in ("stop", "lost") and self._launcher.outlives_trainer:
            # Any trainer may go on with it at once.
            self._store.renew(self._job, 0.0)
        elif wanted == "cancel":
            self._store.end(self._job, "cancelled", "the job was cancelled")
        elif wanted == "pause":
            self._store.end(self._job, "paused", "the job is paused")
        elif wanted in ("stop", "lost"):
            self._store.end(self._job, "queued", "the trainer stopped; the job is queued again")
        else:
            if wanted is None:
                assert code is not None, "such a run is replaced"
                wanted = self._failure(code)
            self._trainer.fail(self._job, "training_failed", wanted)

    def _failure(self, code: int) -> str:
        """Return why a run failed, by its exit code and its output."""
        if code < 0:
            return f"the training was killed by {signal.Signals(-code).name}; it may have run out of memory"
        try:
            output = (self._folder / ERRORS).read_bytes()[-_STDERR_BYTES:].decode(errors="replace")
        except FileNotFoundError:  # a container that ended before its command
            output = ""
        message = (last_error(output) or f"the training exited with code {code}")[:_MESSAGE_CHARACTERS]
        log.warning("%s: %s; its last output: %r", self._job.id, message, output[-_LOGGED_CHARACTERS:])
        return message

    def _is_published(self, *, is_new: bool) -> bool:
        """End the job if a version names it; return whether one does.

        An exporter that was killed, unless the version `is_new`, may not have listed it in `models.config`.
        """
        version = published_version(self._trainer.models_dir / self._job.name, self._job.id)
        if version is None:
            return False
        if not is_new:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._list_model()
        self._report()  # what it did without a trainer
        message = f"published {self._job.name}:{version}"
        self._store.end(self._job, "succeeded", message, version=version)
        log.info("%s: %s", self._job.id, message)
        return True

    def _list_model(self) -> None:
        of_job = ["--name", self._job.name, "--job", self._job.id]
        # An empty text, on which it cannot train if the version is damaged.
        command = [*EXPORT, "train", os.devnull, "--if-new", *of_job, *self._models_dir]
        for _ in range(MAX_KILLS):
            done = subprocess.run(command, cwd=self._folder, env=environment(), stdout=subprocess.DEVNULL, check=False)
            if done.returncode >= 0:
                break
        done.check_returncode()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[bool]:
        """Wait for the child of a lost trainer to end, as it still stops after its step; False: not in time."""
        runs = self._folder / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + STOP_S
        while True:
            with try_lock(runs / f".{self._job.name}.lock") as is_free:
                if is_free or time.monotonic() > deadline or self._report() == "lost":
                    yield is_free
                    return
            time.sleep(POLL_S)

    def _command(self) -> list[str]:
        """Return the command of the exporter; a run that exists is resumed."""
        job, runs = self._job, self._folder / "runs"
        to = [*self._models_dir, "--progress-file", str(self._progress_file)]
        if (runs / job.name / "config.json").exists():
            return [*EXPORT, "resume", str(runs / job.name), *to]
        text = self._lay_out(job.training_file, "text")
        settings, multiplier = dict(job.settings), job.hyperparameters.get("learning_rate_multiplier", "auto")
        if multiplier != "auto" and "learning_rate" not in settings:
            recipe = check_settings(job.model, settings, corpus=str(self._folder / text))
            settings["learning_rate"] = min(1.0, recipe.learning_rate * multiplier)
        if job.validation_file is not None:
            settings.pop("validation", None)
            settings["validation_corpus"] = self._lay_out(job.validation_file, "validation")
        options = ["--name", job.name, "--job", job.id, "--runs-dir", str(runs), model_option(job.model)]
        return [*EXPORT, "train", text, *to, *options, *train_options(settings)]

    def _lay_out(self, file_id: str, name: str) -> str:
        file = self._store.file(self._job.tenant, file_id)
        if file is None:
            raise InvalidUpload(f"the file {file_id} was deleted")
        return f"{name}/{lay_out(self._trainer.uploads.path(file_id), file.filename, self._folder / name)}"


class ProgressReader:
    """Reads the exporter's progress file as it grows, and turns its lines into events.

    An update in it before the first read is an earlier attempt's, of which only the tokens still hold.
    """

    def __init__(self, path: Path, last_epoch: int) -> None:
        self._lines, self._has_read = ProgressLines(path), False
        self.last_update: Mapping[str, Any] | None = None
        self._reported: Mapping[str, Any] | None = None
        self.last_epoch, self._metrics_at = last_epoch, 0.0
        # Unix time, by the last update; None if it does not say.
        self.estimated_finish: float | None = None

    def events(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield a message and metrics for each epoch, and every few seconds for the training loss."""
        for line in self._lines.read():
            kind = line.pop("event")
            if kind == "epoch" and line["epoch"] > self.last_epoch:
                self.last_epoch = line["epoch"]
                yield _describe(line), line
            elif kind == "update":
                self.last_update = line
                if self._has_read:
                    left_s = line.get("seconds_left")
                    self.estimated_finish = None if left_s is None else time.time() + left_s
                else:
                    self._reported = line
        self._has_read, now = True, time.monotonic()
        if self.last_update is not self._reported and now >= self._metrics_at:
            self._metrics_at, self._reported = now + METRICS_S, self.last_update
            line = dict(self.last_update or {})
            yield f"epoch {line['epoch']}: training loss {line['train_loss']:.3f}", line


def _describe(epoch: Mapping[str, Any]) -> str:
    validation = "" if epoch["validation_loss"] is None else f", validation loss {epoch['validation_loss']:.3f}"
    best = ", best so far" if epoch["is_best"] else ""
    return f"epoch {epoch['epoch']}: training loss {epoch['train_loss']:.3f}{validation}{best}"


def published_version(home: Path, job_id: str) -> int | None:
    """Return the version of a model that a job published; None if it has published none."""
    for path in home.glob(f"*/{ASSETS}/{CARD_FILE}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(read_file(path))["training"]["settings"]["job"] == job_id:
                return int(path.parents[1].name)
    return None
