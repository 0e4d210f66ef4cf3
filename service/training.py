"""Training through the API: the job store and the uploads, with the limits of a tenant."""

import os
import secrets
import time
from dataclasses import dataclass
from typing import IO

from contract.audit import record
from jobs.database import database_url
from jobs.store import JobStore, QuotaExceeded, StoredFile
from jobs.uploads import Uploads
from service.context import RequestContext
from service.errors import InvalidRequest, QuotaReached, TrainingDisabled
from service.settings import Settings

MAX_FILENAME = 255


@dataclass(frozen=True)
class Training:
    """The job store and the uploaded files."""

    store: JobStore
    uploads: Uploads
    settings: Settings

    @classmethod
    def open(cls, settings: Settings) -> "Training | None":
        """Open the database and the directory of the settings; None if they name none."""
        if settings.training_dir is None:
            return None
        store = JobStore(settings.training_database or database_url(settings.training_dir))
        return cls(store, Uploads(settings.training_dir / "files"), settings)

    def add_file(self, tenant: str, filename: str, content: IO[bytes]) -> StoredFile:
        """Store an uploaded file.

        Raises:
            InvalidRequest: it is empty, or its name too long.
            QuotaReached: the tenant's files would be too large together.
        """
        if not 0 < len(filename) <= MAX_FILENAME:
            rule = f"the file name must have 1 to {MAX_FILENAME} characters"
            raise InvalidRequest(f"{rule}, got {len(filename)}", param="file")
        file_id = f"file-{secrets.token_hex(12)}"
        size = self.uploads.write(file_id, content)
        if not size:
            self.uploads.remove(file_id)
            raise InvalidRequest("the file must have at least 1 byte, got 0", param="file")
        file = StoredFile(file_id, tenant, os.path.basename(filename), size, int(time.time()))
        try:
            self.store.add_file(file, self.settings.max_tenant_bytes)
        except QuotaExceeded as error:
            self.uploads.remove(file_id)
            raise QuotaReached(str(error), param="file") from error
        return file

    def record(self, action: str, context: RequestContext, **details: object) -> None:
        """Append what a client did to the audit log."""
        actor = f"key:{context.quota.name}" if context.quota.name else "anybody"
        record(self.settings.audit_file, action, actor, tenant=context.quota.tenant, **details)


def require_training(training: Training | None) -> Training:
    """Return what the gateway trains with; raise TrainingDisabled if it doesn't."""
    if training is None:
        raise TrainingDisabled("this server does not train: SOSTENUTO_TRAINING_DIR is not set")
    return training
