"""The endpoints for load balancers, orchestrators and people: status, readiness, liveness and version."""

import time

from flask import Response, g

from service import __version__
from service.api.responses import (
    BackendStatus,
    HealthObject,
    LoadObject,
    ModelStatus,
    ReadyObject,
    ServiceVersion,
    StatusObject,
)
from service.errors import ModelLoading
from service.web.endpoint import OPERATION, Endpoint, Services


@Endpoint("GET /v1/status", OPERATION, "Get the status")
def status(services: Services) -> StatusObject:
    """Return served versions, load, limits, and the backends with the reason for each ejection and config drift."""
    settings, admission, memory, may_use = services.settings, services.admission, services.memory, g.context.may_use
    return {
        "status": "draining" if services.is_draining else "ok",
        "version": __version__,
        "uptime_s": round(time.monotonic() - services.started_at, 1),
        "models": _model_statuses(services),
        "sequences": LoadObject(accepted=admission.num_sequences, max=settings.max_sequences),
        "tokens": LoadObject(accepted=admission.num_tokens, max=settings.max_queued_tokens),
        "memory": LoadObject(accepted=memory.num_bytes, max=memory.max_bytes),
        "backends": [
            BackendStatus(
                address=each.address, ejected_because=each.ejected_because, config_drift=each.drift.report(may_use)
            )
            for each in services.replicas.all()
        ],
    }


def _model_statuses(services: Services) -> list[ModelStatus]:
    loads = services.scheduler.loads
    return [
        ModelStatus(
            id=model.ref.name,
            version=model.ref.number,
            system_fingerprint=model.fingerprint,
            precision=model.batch_limits.precision,
            batch_sizes=model.batch_limits.batch_sizes,
            running=(load := loads.get(model.ref, (0, 0)))[0],
            waiting=load[1],
        )
        for model in services.model_registry.versions()
        if g.context.may_use(model.ref.name)
    ]


@Endpoint("GET /readyz", OPERATION, "Readiness", (503,), public=True)
def readyz(services: Services) -> ReadyObject:
    """Return 200 if at least one model is served, none is probed for the first time, and the server isn't draining."""
    names = _ready_models(services)
    # Where API keys are required, only the number is public.
    if services.settings.keys_file is not None:
        return {"status": "ready", "num_models": len(names)}
    return {"status": "ready", "num_models": len(names), "models": names}


@Endpoint("GET /healthz", OPERATION, "Liveness", public=True)
def healthz(services: Services) -> HealthObject:  # noqa: ARG001 - every view takes them
    """Return 200 while the process runs."""
    return {"status": "ok"}


@Endpoint("GET /health", OPERATION, "Readiness, as in vLLM", (503,), public=True)
def health(services: Services) -> Response:
    """Return 200 without a body if `/readyz` returns 200, else 503."""
    _ready_models(services)
    return Response(mimetype="application/json")


@Endpoint("GET /ping", OPERATION, "Readiness, as in SageMaker", (503,), public=True)
def ping(services: Services) -> Response:
    """Do the same as `/health`."""
    return health(services)


@Endpoint("GET /version", OPERATION, "Get the version of the service", public=True)
def version(services: Services) -> ServiceVersion:  # noqa: ARG001 - every view takes them
    """Return the version of the gateway, not of a model."""
    return {"version": __version__}


def _ready_models(services: Services) -> list[str]:
    """Return the names of the models that accept requests; raise ShuttingDown, or ModelLoading if there is none.

    Where API keys are required, the error has no names: these endpoints are public.
    """
    services.refuse_if_draining()
    try:
        return services.model_registry.ready_models()
    except ModelLoading:
        if services.settings.keys_file is None:
            raise
        raise ModelLoading("models are being loaded") from None
