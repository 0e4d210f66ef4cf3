"""Training through the API: jobs, uploads and operations on models, with the limits of a tenant."""

import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import IO, Any
from unicodedata import category

from contract.audit import record
from contract.signatures import MODELS_CONFIG
from jobs.database import CannotOpen, Job, Operation, OperationAction, StoredFile, database_url
from jobs.operations import UNFINISHED, JobActive
from jobs.quotas import Quota, QuotaExceeded
from jobs.store import FileDeleted, JobStore, ModelRemoved
from jobs.uploads import Uploads
from service.context import RequestContext
from service.errors import (
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    Overloaded,
    QuotaReached,
    TrainerUnavailable,
    TrainingDisabled,
)
from service.settings import Settings

log = logging.getLogger(__name__)

MAX_FILENAME = 255
# What a name of a file must not have: categories of Unicode, and characters that change the direction of what follows,
# so that a name looks like another one. Joiners of Persian and Hindi, and spaces of any width, are in ordinary names.
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# A stream of events holds a thread, like a running or waiting sequence, for as long as a job takes. This is the maximum
# share of the threads, half of it for one tenant.
_STREAMS_SHARE, _MIN_STREAMS = 0.25, 4
# A trainer executes an operation within a second; a trainer that was killed meanwhile is replaced within 15 s.
_OPERATION_S, _POLL_S = 30.0, 0.1


class EventStreams:
    """The open streams of events, limited in number, in total and per tenant; thread-safe."""

    def __init__(self, max_sequences: int) -> None:
        self.max_streams = max(_MIN_STREAMS, int(_STREAMS_SHARE * max_sequences))
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, tenant: str) -> Callable[[], None]:
        """Count a stream; return the function that releases it.

        Raises:
            Overloaded: too many are open.
        """
        with self._lock:
            for count, limit, whose in (
                (self._open.total(), self.max_streams, "of events"),
                (self._open[tenant], self.max_streams // 2, "of a tenant"),
            ):
                if count >= limit:
                    raise Overloaded(f"at most {limit} streams {whose} may be open, got one more", retry_after_s=5)
            self._open[tenant] += 1
        return partial(self._remove, tenant)

    def _remove(self, tenant: str) -> None:
        with self._lock:
            self._open[tenant] -= 1
            self._open += Counter()  # without those that are 0


@dataclass(frozen=True)
class Training:
    """The job store, the uploaded files and the open streams of events."""

    store: JobStore
    uploads: Uploads
    settings: Settings
    streams: EventStreams

    @classmethod
    def open(cls, settings: Settings) -> "Training | None":
        """Open the database and the directory of the settings; None if they name none.

        Raises:
            ConfigurationError: the database cannot be opened.
        """
        if settings.training_dir is None:
            return None
        try:
            store = JobStore(settings.training_database or database_url(settings.training_dir))
        except CannotOpen as error:
            raise ConfigurationError(str(error)) from error
        streams = EventStreams(settings.max_sequences)
        return cls(store, Uploads(settings.training_dir / "files"), settings, streams)

    def add_file(self, tenant: str, filename: str, content: IO[bytes]) -> StoredFile:
        """Store an uploaded file.

        Raises:
            InvalidRequest: it is empty, or its name is too long, or has control characters or line breaks.
            QuotaReached: the tenant's files would be too large together.
        """
        if not 0 < len(filename) <= MAX_FILENAME:
            rule = f"the file name must have 1 to {MAX_FILENAME} characters"
            raise InvalidRequest(f"{rule}, got {len(filename)}", param="file")
        if any(category(each) in _CONTROLS or each in _BIDIRECTIONAL for each in filename):
            rule = "the file name must have no control characters or line breaks"
            raise InvalidRequest(f"{rule}, got {filename!r}", param="file")
        file_id = f"file-{secrets.token_hex(12)}"
        size = self.uploads.write(file_id, content)
        if not size:
            self.uploads.remove(file_id)
            raise InvalidRequest("the file must have at least 1 byte, got 0", param="file")
        file = StoredFile(
            id=file_id, tenant=tenant, filename=os.path.basename(filename), bytes=size, created_at=int(time.time())
        )
        try:
            self.store.add_file(file, self.settings.max_tenant_bytes)
        except QuotaExceeded as error:
            self.uploads.remove(file_id)
            raise QuotaReached(str(error), param="file") from error
        return file

    def record(self, action: str, context: RequestContext, **details: object) -> None:
        """Append a client's action to the audit log; log an error if that cannot be written.

        The action is done: an error would make the client repeat it.
        """
        try:
            record(self.settings.audit_file, action, _actor(context), tenant=context.tenant, **details)
        except OSError as error:
            log.error("%s: done, but the audit log cannot be written: %s", action, error.strerror)

    def create_job(self, job: Job) -> Job:
        """Queue a new job, and return it.

        Raises:
            QuotaReached: the tenant has too many jobs, published versions or minutes of training.
            NotFound: a file that it needs has been deleted.
            Conflict: a model that it needs is being removed.
        """
        settings = self.settings
        quota = Quota(settings.max_tenant_jobs, settings.max_tenant_versions, settings.max_tenant_minutes)

        def is_kept(name: str, version: int) -> bool | None:
            # Without the file the repository is unavailable, as without its volume.
            is_known = (settings.models_dir / MODELS_CONFIG).exists()
            return (settings.models_dir / name / str(version)).is_dir() if is_known else None

        try:
            return self.store.create(job, quota, is_kept)
        except QuotaExceeded as error:
            raise QuotaReached(str(error)) from error
        except FileDeleted as error:
            raise NotFound("the file has been deleted: upload it again", param=str(error)) from error
        except ModelRemoved as error:
            raise Conflict(f"the model {job.model} or {job.name} is being removed", param="model") from error

    def operate(
        self,
        action: OperationAction,
        model: str,
        context: RequestContext,
        arguments: Mapping[str, Any],
        published_by: Collection[str] = (),
    ) -> None:
        """Let a trainer execute an operation on the model repository, and wait for it; see `Operation`.

        Raises:
            QuotaReached: the tenant has too many unfinished operations.
            ModelNotFound: the model or the version does not exist any more.
            Conflict: the state of the model does not allow it, or an unfinished job needs it.
            TrainerUnavailable: no trainer has begun it in time; nothing was changed.
            DeadlineExceeded: a trainer has begun it, and not finished it in time.
        """
        tenant, operations = context.tenant, self.store.operations
        operation = Operation(
            tenant=tenant, actor=_actor(context), action=action, model=model, arguments=dict(arguments)
        )
        try:
            operation_id = operations.add(operation, published_by)
        except QuotaExceeded as error:
            raise QuotaReached(str(error)) from error
        except JobActive as error:
            which = f"the job {error.job_id}" if error.tenant == tenant else "a job"
            raise Conflict(f"{which} needs {model}, and has not ended; cancel it first", param="name") from error
        deadline = time.monotonic() + _OPERATION_S
        while (operation := operations.get(operation_id)).status in UNFINISHED:
            if time.monotonic() > deadline and not operations.withdraw(operation_id):
                raise DeadlineExceeded(f"a trainer has not finished within {_OPERATION_S:g} s: check the model")
            time.sleep(_POLL_S)
        if operation.status == "failed":
            raise _failure(operation)


def check_training(settings: Settings) -> None:
    """Validate what `Training.open` will open in another process; open nothing that would outlive a fork."""
    training = Training.open(settings)
    if training is not None:
        training.store.close()


def _actor(context: RequestContext) -> str:
    """Return who sent a request, as the audit log names them."""
    return f"key:{context.key}" if context.key else "anybody"


def _failure(operation: Operation) -> Exception:
    if operation.error is None:
        return TrainerUnavailable(
            f"no trainer has begun within {_OPERATION_S:g} s, and nothing was changed: check that one runs",
            retry_after_s=5,
        )
    message = operation.error["message"]
    match operation.error["status"]:
        case 404:
            return ModelNotFound(message, param="name")
        case 409:
            return Conflict(message, param="name")
    return InternalError(message)


def require_training(training: Training | None) -> Training:
    """Return the collaborator that trains and changes models; raise TrainingDisabled without one."""
    if training is None:
        raise TrainingDisabled(
            "this server has no trainer, which trains and changes models: SOSTENUTO_TRAINING_DIR is not set"
        )
    return training
