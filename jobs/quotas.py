"""The quotas of a tenant: what it has, counted within the transaction that adds more."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, func, select
from sqlalchemy.orm import Session

from jobs.database import ACTIVE, Job, StoredFile, versions

# Returns whether a version that a job published still exists; None if that is unknown.
IsKept = Callable[[str, int], bool | None]

# Training that counts toward a tenant's minutes, and against it in the queue: that of the last day.
DAY_S = 86_400.0
# Of any size: each takes a block of the disk and a row of the database.
MAX_TENANT_FILES = 10_000


@dataclass(frozen=True)
class Quota:
    """Limits of the jobs of a tenant.

    Attributes:
        jobs: That have not ended.
        versions: That jobs have published and unfinished ones will publish.
        minutes: Of training in a day, see `TrainingMinutes`.
    """

    jobs: int
    versions: int
    minutes: float


@dataclass(frozen=True)
class TrainingMinutes:
    """Minutes that count toward a tenant's quota.

    Attributes:
        trained: By jobs that have ended in the last day.
        reserved: For unfinished jobs: their `max_minutes`, or what they have trained, if that is more.
    """

    trained: float
    reserved: float


class QuotaExceeded(Exception):
    """A tenant has as many jobs, versions, minutes, files or operations as it may have; the message names the limit."""


def require_files(session: Session, tenant: str, num_bytes: int, max_bytes: int) -> None:
    """Raise QuotaExceeded if a tenant may not have one more file of a size."""
    totals = select(func.coalesce(func.sum(StoredFile.bytes), 0), func.count()).where(StoredFile.tenant == tenant)
    used, count = session.execute(totals).one()
    if count >= MAX_TENANT_FILES:
        raise QuotaExceeded(f"at most {MAX_TENANT_FILES} files may be kept, got one more")
    if used + num_bytes > max_bytes:
        raise QuotaExceeded(f"all files together may have at most {max_bytes} bytes, got {used} + {num_bytes}")


def require_jobs(session: Session, tenant: str, minutes: float, quota: Quota, is_kept: IsKept) -> None:
    """Raise QuotaExceeded if a tenant may not have one more job of `minutes`."""
    of_tenant = and_(Job.tenant == tenant, Job.status.in_(ACTIVE))
    active = session.execute(select(func.count()).select_from(Job).where(of_tenant)).scalar_one()
    if active >= quota.jobs:
        raise QuotaExceeded(f"at most {quota.jobs} jobs may be queued, running or paused, got one more")
    kept = _num_versions(session, tenant, is_kept)
    if kept + active >= quota.versions:
        rule = f"jobs may keep at most {quota.versions} published versions"
        raise QuotaExceeded(f"{rule}, got {kept}, {active} unfinished jobs and one more")
    used = training_minutes(session, tenant)
    if used.trained + used.reserved + minutes > quota.minutes:
        raise QuotaExceeded(
            f"jobs may train at most {quota.minutes:g} minutes in 24 hours, got {used.trained:.1f} trained, "
            f"{used.reserved:.1f} reserved for unfinished jobs and {minutes:g} requested"
        )


def training_minutes(session: Session, tenant: str) -> TrainingMinutes:
    ended = and_(Job.tenant == tenant, Job.finished_at > time.time() - DAY_S)
    trained_s = session.execute(select(func.coalesce(func.sum(Job.trained_s), 0.0)).where(ended)).scalar_one()
    active = and_(Job.tenant == tenant, Job.status.in_(ACTIVE))
    rows = session.execute(select(Job.settings, Job.trained_s).where(active))
    reserved = sum(max(max_minutes(settings), trained_s / 60) for settings, trained_s in rows)
    return TrainingMinutes(trained_s / 60, reserved)


def max_minutes(settings: Mapping[str, Any]) -> float:
    """Return the time limit of a job, which a gateway always sets."""
    return float(settings.get("max_minutes") or 0.0)


def _num_versions(session: Session, tenant: str, is_kept: IsKept) -> int:
    """Return how many versions that a tenant's jobs have published still exist, and forget those that do not."""
    published = select(versions.c.name, versions.c.version).where(versions.c.tenant == tenant)
    kept = 0
    for name, version in session.execute(published).all():
        exists = is_kept(name, version)
        kept += bool(exists)
        if exists is False:
            this = and_(versions.c.tenant == tenant, versions.c.name == name, versions.c.version == version)
            session.execute(delete(versions).where(this))
    return kept
