"""The report of `GET /v1/status`: models, load, memory and backends."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service import __version__
from service.api.responses import BackendStatus, ConfigDriftObject, LoadObject, ModelStatus, StatusObject
from service.backends.replica import Replica
from service.backends.replicas import Replicas
from service.memory_budget import MemoryBudget
from service.models.registry import ModelRegistry
from service.scheduling.admission import AdmissionControl
from service.scheduling.scheduler import Load, Scheduler
from service.settings import Settings


@dataclass(frozen=True)
class Status:
    """The source of the report."""

    model_registry: ModelRegistry
    scheduler: Scheduler
    admission: AdmissionControl
    replicas: Replicas
    memory: MemoryBudget
    settings: Settings
    is_draining: Callable[[], bool]
    started_at: float = field(default_factory=time.monotonic)

    def report(self) -> StatusObject:
        """Return the current status."""
        settings = self.settings
        return {
            "status": "draining" if self.is_draining() else "ok",
            "version": __version__,
            "uptime_s": round(time.monotonic() - self.started_at, 1),
            "models": self._models(),
            "sequences": LoadObject(accepted=self.admission.num_sequences, max=settings.max_sequences),
            "tokens": LoadObject(accepted=self.admission.num_tokens, max=settings.max_queued_tokens),
            "memory": LoadObject(accepted=self.memory.num_bytes, max=self.memory.max_bytes),
            "backends": [_backend(replica) for replica in self.replicas.all()],
        }

    def _models(self) -> list[ModelStatus]:
        loads = {load.model: load for load in self.scheduler.loads}
        return [
            ModelStatus(
                id=model.ref.name,
                version=model.ref.version,
                system_fingerprint=model.fingerprint,
                precision=model.batch_limits.precision,
                batch_sizes=model.batch_limits.batch_sizes,
                running=(load := loads.get(model.ref) or Load(model.ref, 0, 0)).running,
                waiting=load.waiting,
            )
            for model in self.model_registry.versions()
        ]


def _backend(replica: Replica) -> BackendStatus:
    drift, config_drift = replica.drift.report(), None
    if drift is not None:
        config_drift = ConfigDriftObject(seconds=drift.seconds, missing=drift.missing, unexpected=drift.unexpected)
    return {"address": replica.address, "ejected_because": replica.ejected_because, "config_drift": config_drift}
