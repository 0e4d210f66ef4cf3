"""Training on the server: uploaded texts and jobs."""

from __future__ import annotations

import io
import os
import sys
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from time import time
from typing import IO, Any, TypeAlias

from sostenuto._errors import (
    APIError,
    Conflict,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    JobUnfinished,
    SostenutoError,
)
from sostenuto._fields import as_utf8, path_of, with_query
from sostenuto._job_events import JobEvent, JobEvents
from sostenuto._loss_curve import LossCurve
from sostenuto._results import required
from sostenuto._retries import may_be_processed
from sostenuto._transport import Transport

# Sources of an upload: a text or a path, bytes, or an open file.
Source: TypeAlias = str | PathLike[str] | bytes | IO[str] | IO[bytes]

DEFAULT_NAME = "text.txt"  # of an uploaded text
FILES, JOBS = "/v1/files", "/v1/fine_tuning/jobs"
PAGE = 1000  # objects per request
# Fields of a job that may be null.
_OPTIONAL = {
    *("fine_tuned_model", "version", "validation_file", "seed", "finished_at", "estimated_finish", "trained_tokens")
}
ENDED = frozenset({"succeeded", "failed", "cancelled"})
# The status that an action leads to.
_REACHED = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}


@dataclass(frozen=True)
class UploadedFile:
    """A file on the server, to train on.

    Attributes:
        id: str.
        filename: str. Its suffix decides the format: `.jsonl`, `.csv`, `.zip`, or text for any other.
        bytes: int. Its size.
        created_at: int. Unix time in seconds.
        expires_at: int or None. Unix time in seconds at which the server deletes it.
        raw: dict. The JSON object, including fields without an attribute.
    """

    id: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int | None = None
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any]) -> UploadedFile:
        """Parse a file object; raise UnexpectedResponse if it has another shape."""
        size, created_at = required(raw, "bytes", int), required(raw, "created_at", int)
        filename = required(raw, "filename", str)
        return cls(required(raw, "id", str), filename, size, created_at, raw.get("expires_at"), raw)


@dataclass(repr=False)
class Job:
    """A training job on the server. `refresh`, `wait`, `cancel`, `pause` and `resume` update its attributes.

    Attributes:
        id: str.
        status: str. "queued", "running", "paused", "succeeded", "failed" or "cancelled".
        model: str. The recipe, or the model and version that is fine-tuned.
        fine_tuned_model: str or None. Name of the trained model, which `model=` accepts; None until it has succeeded.
        version: int or None. Version of that model.
        training_file: str. Id of the uploaded file.
        validation_file: str or None. Id of the file to validate with.
        seed: int or None.
        created_at: int. Unix time in seconds, like the next two.
        finished_at: int or None.
        estimated_finish: int or None.
        trained_tokens: int or None.
        error: str or None. Why the job failed.
        settings: dict. Settings of the training that the job set, by name.
        raw: dict. The JSON object, including fields without an attribute.
    """

    id: str
    status: str
    model: str
    fine_tuned_model: str | None
    version: int | None
    training_file: str
    validation_file: str | None
    seed: int | None
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    trained_tokens: int | None
    error: str | None
    settings: dict[str, Any]
    raw: dict[str, Any] = field(compare=False)
    _transport: Transport = field(compare=False)

    @classmethod
    def from_response(cls, raw: dict[str, Any], transport: Transport) -> Job:
        """Parse a job object; raise UnexpectedResponse if it has another shape."""
        kinds = {"id": str, "status": str, "model": str, "training_file": str, "created_at": int}
        values: dict[str, Any] = {name: required(raw, name, kind) for name, kind in kinds.items()}
        values |= {name: raw.get(name) for name in _OPTIONAL}
        error, settings = raw.get("error") or {}, raw.get("settings") or {}
        return cls(**values, error=error.get("message"), settings=settings, raw=raw, _transport=transport)

    @property
    def has_ended(self) -> bool:
        """Whether it has succeeded, failed or was cancelled."""
        return self.status in ENDED

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the remaining seconds; None if the job does not run, or has just begun."""
        if self.status != "running" or self.estimated_finish is None:
            return None
        return max(0.0, self.estimated_finish - time())

    def events(self, after: str | None = None) -> JobEvents:
        """Return an iterator over the events: those so far, and then as they come, until the job has ended.

        It does not end while the job is paused.

        Args:
            after: str. Id of an event: begin after it. Default: with the first one.
        """
        return JobEvents(self._transport, f"{self._path}/events", after)

    def wait(self, timeout: float | None = None, *, plot: bool = False) -> Job:
        """Wait until the job has succeeded, and return it. Its model is then ready.

        Args:
            timeout: float. Maximum number of seconds. Default: no limit.
            plot: bool. In a notebook, show the loss curves, and update them as the losses come.

        Raises:
            JobFailed: the job failed, or as JobCancelled, was cancelled.
            JobUnfinished: it has not ended within `timeout`; it continues.
            SostenutoError: as `JobEvents`.
        """
        with self.events() as events:
            timer = None if timeout is None else threading.Timer(timeout, events.close)
            if timer is not None:
                timer.daemon = True
                timer.start()
            try:
                for _ in _plotted(events) if plot else events:
                    pass
            finally:
                if timer is not None:
                    timer.cancel()
        self.refresh().raise_for_status()
        if self.status != "succeeded":
            raise JobUnfinished(f"the job {self.id} is {self.status} after {timeout} s: call wait again, or cancel")
        return self

    def raise_for_status(self) -> None:
        """Raise JobFailed if the job has failed, or JobCancelled if it was cancelled, by its last known status."""
        if self.status == "failed":
            raise JobFailed(f"the job {self.id} failed: {self.error}")
        if self.status == "cancelled":
            raise JobCancelled(f"the job {self.id} was cancelled")

    def refresh(self) -> Job:
        """Update the attributes from the server, and return the job."""
        return self._update(self._transport.send("GET", self._path))

    def cancel(self) -> Job:
        """Cancel the job. One that runs stops after its current step, and is then `cancelled`.

        Raises:
            Conflict: it has succeeded or failed already.
        """
        return self._act("cancel")

    def pause(self) -> Job:
        """Pause the job. It keeps its complete epochs, and lets other jobs run.

        Raises:
            Conflict: it has ended already.
        """
        return self._act("pause")

    def resume(self) -> Job:
        """Queue a paused job again. It continues after its last complete epoch.

        Raises:
            Conflict: it is not paused, or not yet.
        """
        return self._act("resume")

    def plot(self) -> LossCurve:
        """Return the loss curves so far, which a notebook shows as a picture."""
        raws = pages(self._transport, f"{self._path}/events")
        return LossCurve(tuple(reversed([JobEvent.from_response(raw) for raw in raws])))

    @property
    def _path(self) -> str:
        return path_of(JOBS, id=self.id)

    def _act(self, action: str) -> Job:
        """Send an action. It is idempotent, as a retry may follow a request that the server has processed."""
        attempts = self._transport.attempts()
        try:
            return self._update(self._transport.send("POST", f"{self._path}/{action}", {}, attempts=attempts))
        except Conflict:
            status = self.refresh().status
            # A resumed job may run, or even have ended, before the retry.
            was_resumed = action == "resume" and attempts.may_be_processed and status != "paused"
            if status != _REACHED[action] and not was_resumed:
                raise
            return self

    def _update(self, raw: dict[str, Any]) -> Job:
        vars(self).update(vars(Job.from_response(raw, self._transport)))
        return self

    def __repr__(self) -> str:
        shown = ("id", "status", "model", "fine_tuned_model", "version", "error")
        known = [f"{name}={value!r}" for name in shown if (value := getattr(self, name)) is not None]
        return f"Job({', '.join(known)})"


def upload(transport: Transport, source: Source, filename: str | None = None) -> UploadedFile:
    """Upload a text; see `Client.upload`."""
    name, content = _read(source)
    return _upload(transport, filename or name, content)


def _upload(transport: Transport, filename: str, content: bytes) -> UploadedFile:
    fields = {"purpose": "fine-tune", "file": (_encodable(filename), content)}
    return UploadedFile.from_response(transport.send_form(FILES, fields))


def _read(source: Source) -> tuple[str, bytes]:
    """Return file name and content. A str with a line break is a text, any other one a path. A directory is archived.

    Raises:
        InvalidArgument: there is no such file, the directory is empty, or UTF-8 cannot encode the text.
        OSError: a file cannot be read.
    """
    if isinstance(source, bytes):
        return DEFAULT_NAME, source
    if isinstance(source, str) and "\n" in source:
        return DEFAULT_NAME, as_utf8("the text", source)
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        # False also for a text that is too long for a path, and for "", which as a Path is the current directory.
        if not os.path.exists(source):
            raise InvalidArgument(f"there is no file {str(source)!r:.300}: pass a path, or a text with a line break")
        return _archive(path) if path.is_dir() else (path.name, path.read_bytes())
    content, name = source.read(), getattr(source, "name", None)
    # A temporary file may have a number for a name.
    filename = os.path.basename(name) if isinstance(name, str) else DEFAULT_NAME
    return filename, content if isinstance(content, bytes) else as_utf8("the text", content)


def _encodable(name: str) -> str:
    """Return a file name that UTF-8 can encode: one in another encoding is read as Latin-1."""
    content = as_utf8("filename", name, errors="surrogateescape")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _archive(directory: Path) -> tuple[str, bytes]:
    """Return the name and the content of an archive of all files below a directory, except hidden ones."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    names = {path.relative_to(directory): path for path in paths}
    shown = {name: path for name, path in names.items() if not any(part.startswith(".") for part in name.parts)}
    if not shown:
        raise InvalidArgument(f"the directory {str(directory)!r} has no files: pass one with text files")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for name, path in shown.items():
            archive.write(path, _encodable(str(name)))
    return f"{directory.resolve().name}.zip", packed.getvalue()


def create_job(
    transport: Transport, text: Source | UploadedFile, validation: Source | UploadedFile | None, fields: dict[str, Any]
) -> Job:
    """Upload the texts, and create a job; if the server refuses it, delete the uploads."""
    given = {"training_file": text, **({} if validation is None else {"validation_file": validation})}
    # All texts are read before the first is uploaded: one that cannot be read leaves no file on the server.
    read = {name: each if isinstance(each, UploadedFile) else _read(each) for name, each in given.items()}
    body, uploaded = {**fields}, list[UploadedFile]()
    try:
        for name, file in read.items():
            if isinstance(file, UploadedFile):
                body[name] = file.id
            else:
                uploaded.append(_upload(transport, *file))
                body[name] = uploaded[-1].id
        return _create_once(transport, body, is_findable=not isinstance(text, UploadedFile))
    except APIError:
        for file in uploaded:
            with suppress(SostenutoError):  # such as a Conflict: the job exists after all
                transport.delete(path_of(FILES, id=file.id))
        raise


def _create_once(transport: Transport, body: dict[str, Any], *, is_findable: bool) -> Job:
    """Create a job. If the response is lost, return the job that exists, instead of creating another.

    The job `is_findable` if no other one has its training file.
    """
    try:
        return Job.from_response(transport.send("POST", JOBS, body, once=True), transport)
    except SostenutoError as error:
        if is_findable and may_be_processed(error):
            with suppress(SostenutoError):
                for raw in pages(transport, JOBS, PAGE):
                    if raw.get("training_file") == body["training_file"]:
                        return Job.from_response(raw, transport)
        raise


def pages(transport: Transport, path: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a list, at most `limit`, page after page."""
    after, num_left = None, sys.maxsize if limit is None else limit
    while num_left > 0:
        page = transport.send("GET", with_query(path, limit=min(PAGE, num_left), after=after))
        data = required(page, "data", list)
        yield from data
        num_left -= len(data)
        if not (page.get("has_more") and data):
            return
        after = required(data[-1], "id", str)


def _plotted(events: Iterable[JobEvent]) -> Iterator[JobEvent]:
    """Yield events; meanwhile show the loss curves in a notebook, and update them; elsewhere show nothing."""
    # IPython is not a dependency; a notebook has imported it.
    display = getattr(sys.modules.get("IPython.display"), "display", None)
    seen: list[JobEvent] = []
    shown = None
    for event in events:
        seen.append(event)
        if display is not None and event.type == "metrics":
            curve = LossCurve(tuple(seen))
            if shown is None:
                shown = display(curve, display_id=True)
            else:
                shown.update(curve)
        yield event
