"""The report of `GET /v1/status`: models, load, memory and backends."""

import time
from collections.abc import Callable

from service import __version__
from service.api.responses import BackendStatus, ConfigDriftObject, LoadObject, ModelStatus, StatusObject
from service.backends.registry import ModelRegistry
from service.backends.replica import Replica
from service.backends.replicas import Replicas
from service.memory import MemoryBudget
from service.scheduling.scheduler import Load, Scheduler
from service.settings import Settings


class Status:
    """The source of the report."""

    def __init__(
        self,
        model_registry: ModelRegistry,
        scheduler: Scheduler,
        replicas: Replicas,
        memory: MemoryBudget,
        settings: Settings,
        is_draining: Callable[[], bool],
    ) -> None:
        self._model_registry, self._scheduler, self._replicas = model_registry, scheduler, replicas
        self._memory, self._settings, self._is_draining = memory, settings, is_draining
        self._started_at = time.monotonic()

    def report(self) -> StatusObject:
        """Return the current status."""
        settings = self._settings
        return {
            "status": "draining" if self._is_draining() else "ok",
            "version": __version__,
            "uptime_s": round(time.monotonic() - self._started_at, 1),
            "models": self._models(),
            "sequences": LoadObject(
                accepted=self._scheduler.num_sequences, max=settings.max_running + settings.max_queued
            ),
            "tokens": LoadObject(accepted=self._scheduler.num_tokens, max=settings.max_queued_tokens),
            "memory": LoadObject(accepted=self._memory.num_bytes, max=self._memory.max_bytes),
            "backends": [_backend(replica) for replica in self._replicas.all()],
        }

    def _models(self) -> list[ModelStatus]:
        loads = {load.model: load for load in self._scheduler.loads}
        return [
            ModelStatus(
                id=model.ref.name,
                version=model.ref.version,
                system_fingerprint=model.fingerprint,
                batch_sizes=model.batch_limits.batch_sizes,
                running=(load := loads.get(model.ref) or Load(model.ref, 0, 0)).running,
                waiting=load.waiting,
            )
            for model in self._model_registry.versions()
        ]


def _backend(replica: Replica) -> BackendStatus:
    drift, config_drift = replica.drift.report(), None
    if drift is not None:
        config_drift = ConfigDriftObject(seconds=drift.seconds, missing=drift.missing, unexpected=drift.unexpected)
    return {"address": replica.address, "ejected_because": replica.ejected_because, "config_drift": config_drift}
