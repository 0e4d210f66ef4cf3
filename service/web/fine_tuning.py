"""The endpoints of fine-tuning jobs."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

from flask import Response, g, request

from contract.card import GeneratorCard
from jobs.database import Event, Job
from jobs.settings import RECIPES, ConfigError, check_settings
from jobs.store import ENDED, JobEnded
from service.api.body import shorten
from service.api.training import (
    MAX_METADATA,
    MAX_METADATA_KEY,
    FineTuningCheckpoint,
    FineTuningCheckpointList,
    FineTuningEvent,
    FineTuningEventList,
    FineTuningJob,
    FineTuningJobList,
    FineTuningRequest,
    Hyperparameters,
    TrainingMinutesObject,
)
from service.context import WatchKey, owned_name
from service.errors import (
    Conflict,
    GatewayError,
    InternalError,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    NotFound,
    Unauthorized,
)
from service.models.registry import ServedModel
from service.scheduling.sequence import ModelVersion
from service.settings import Settings
from service.training import Training, require_training
from service.web.completions import DONE, error_event, event_stream, sse
from service.web.endpoint import TRAINING, Endpoint, QueryParameter, Services, integer, parse_body
from service.web.files import AFTER, find_file

log = logging.getLogger(__name__)

_LIMIT = integer("limit", "maximum number of objects", 1, 1000, 20)
# Interval of polling for new events of a stream.
_POLL_S = 0.5
# A comment keeps proxies from closing an idle stream.
_KEEP_ALIVE_S = 15.0
_MAX_STEM = 40
# A model server that has not loaded a published version within this time has failed to.
_LOADING_S = 60.0


@Endpoint("POST /v1/fine_tuning/jobs", TRAINING, "Train a model", (404, 409, 503), request=FineTuningRequest)
def create_job(services: Services) -> FineTuningJob:
    """Queue a job that trains a model and publishes it; completions accept `fine_tuned_model` once it has succeeded."""
    training = require_training(services.training)
    body = parse_body(services, FineTuningRequest)
    file = find_file(training, body.training_file, "training_file")
    if body.validation_file is not None:
        find_file(training, body.validation_file, "validation_file")
    base = None if body.model in RECIPES else _base_model(services, body.model)
    model = body.model if base is None else f"{base.ref.name}:{base.ref.number}"
    settings = _settings(body, model, base.card if base else None, training.settings)
    if base is not None and base.backward:
        # Clients show the job's samples in reading order.
        settings.setdefault("direction", base.card.direction)
    new = Job(
        tenant=g.context.tenant,
        model=model,
        name=owned_name(g.context.tenant, body.suffix or _stem(file.filename)),
        training_file=body.training_file,
        validation_file=body.validation_file,
        suffix=body.suffix,
        settings=settings,
        hyperparameters=body.hyperparameters.model_dump(),
        job_metadata=body.metadata,
    )
    job = training.create_job(new)
    training.record("train", g.context, job=job.id, file=job.training_file, base=job.model, model=job.name)
    return _job_object(services, job)


def _base_model(services: Services, name: str) -> ServedModel:
    try:
        return services.model_registry.find(name, may_use=g.context.may_use)
    except ModelNotFound as error:
        raise ModelNotFound(f"{error}; recipes are {', '.join(RECIPES)}", param="model") from error


def _stem(filename: str) -> str:
    """Return the name of a model that is trained on a file."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.splitext(filename)[0]).strip(".-_")
    return stem[:_MAX_STEM] or "model"


def _settings(body: FineTuningRequest, model: str, base: GeneratorCard | None, limits: Settings) -> dict[str, Any]:
    """Return the settings of the exporter: those of the request, and the limits of the server."""
    settings, hyperparameters = dict(body.settings), body.hyperparameters
    if body.validation_file is not None and "validation" in settings:
        raise InvalidRequest("settings.validation and validation_file exclude each other: omit one", param="settings")
    settings.setdefault("seed", body.seed)
    if hyperparameters.n_epochs != "auto":
        settings["epochs"] = hyperparameters.n_epochs
    if hyperparameters.batch_size != "auto":
        settings["batch_size"] = hyperparameters.batch_size
    try:
        config = check_settings(model, settings, base)
    except ConfigError as error:
        raise InvalidRequest(f"settings: {error}", param="settings") from error
    # The exporter's command line does not take 64.0 for an integer, or "yes" for a flag.
    settings = {name: getattr(config, name) for name in settings}
    # Otherwise the trainer multiplies that of the recipe, which depends on the text.
    if hyperparameters.learning_rate_multiplier != "auto" and "learning_rate" in settings:
        settings["learning_rate"] = min(1.0, config.learning_rate * hyperparameters.learning_rate_multiplier)
    _require_limits(config, base, settings, limits)
    return settings


def _require_limits(config: Any, base: GeneratorCard | None, settings: dict[str, Any], limits: Settings) -> None:
    """Set the server's limits where there are none; refuse more time and larger models than it allows.

    The job always has its `max_minutes`, which counts toward the tenant's quota.
    """
    limited = {"max_minutes": limits.max_training_minutes}
    if base is None:
        limited["units"] = limits.max_training_units
    elif base.units > limits.max_training_units:
        message = f"model must have at most {limits.max_training_units} units to be trained, got {base.units}"
        raise InvalidRequest(message, param="model")
    for name, limit in limited.items():
        value = getattr(config, name)
        if value is not None and value > limit:
            raise InvalidRequest(f"settings.{name} must be at most {limit:g}, got {value:g}", param="settings")
        if value is None or name == "max_minutes":
            settings[name] = value or limit


@Endpoint(
    "GET /v1/fine_tuning/jobs",
    TRAINING,
    "List jobs",
    (404,),
    query=(
        AFTER,
        _LIMIT,
        QueryParameter(
            "metadata",
            "only jobs whose metadata have these values, as metadata[KEY]=VALUE",
            {"type": "object", "additionalProperties": {"type": "string"}},
        ),
    ),
)
def list_jobs(services: Services, after: str | None, limit: int, metadata: dict[str, str]) -> FineTuningJobList:
    """Return the jobs of the key's tenant, newest first, and the minutes that they have trained."""
    training, tenant = require_training(services.training), g.context.tenant
    # No job has other keys: neither a request nor a path in SQLite's JSON can.
    if len(metadata) > MAX_METADATA or any(len(key) > MAX_METADATA_KEY or {*'"\\'} & {*key} for key in metadata):
        rule = f'have at most {MAX_METADATA} keys of at most {MAX_METADATA_KEY} characters, without " and \\'
        raise InvalidRequest(f"metadata must {rule}, got {shorten(metadata)}", param="metadata")
    found, used = training.store.list_jobs(tenant, after, limit, metadata), training.store.minutes(tenant)
    minutes: TrainingMinutesObject = {
        "limit": training.settings.max_tenant_minutes,
        "trained": round(used.trained, 1),
        "reserved": round(used.reserved, 1),
    }
    return {
        "object": "list",
        "data": [_job_object(services, job) for job in found[:limit]],
        "has_more": len(found) > limit,
        "training_minutes": minutes,
    }


@Endpoint("GET /v1/fine_tuning/jobs/{job_id}", TRAINING, "Get a job", (404,))
def get_job(services: Services, job_id: str) -> FineTuningJob:
    """Return a job."""
    return _job_object(services, _find_job(require_training(services.training), job_id))


@Endpoint("POST /v1/fine_tuning/jobs/{job_id}/cancel", TRAINING, "Cancel a job", (404, 409))
def cancel_job(services: Services, job_id: str) -> FineTuningJob:
    """Cancel a job; one that runs stops after its current step, and is then `cancelled`."""
    return _act(services, job_id, "cancel")


@Endpoint("POST /v1/fine_tuning/jobs/{job_id}/pause", TRAINING, "Pause a job", (404, 409))
def pause_job(services: Services, job_id: str) -> FineTuningJob:
    """Pause a job; it keeps its complete epochs."""
    return _act(services, job_id, "pause")


@Endpoint("POST /v1/fine_tuning/jobs/{job_id}/resume", TRAINING, "Resume a job", (404, 409))
def resume_job(services: Services, job_id: str) -> FineTuningJob:
    """Queue a paused job again; it continues after its last complete epoch."""
    return _act(services, job_id, "resume")


def _act(services: Services, job_id: str, action: Literal["cancel", "pause", "resume"]) -> FineTuningJob:
    training = require_training(services.training)
    try:
        job = training.store.request(g.context.tenant, job_id, action)
    except JobEnded as error:
        raise Conflict(f"cannot {action} a job that is {error}", param="job_id") from error
    if job is None:
        raise _not_found(job_id)
    training.record(action, g.context, job=job_id)
    return _job_object(services, job)


@Endpoint(
    "GET /v1/fine_tuning/jobs/{job_id}/events",
    TRAINING,
    "List events of a job",
    (404,),
    response=FineTuningEventList,
    streams=FineTuningEvent,
    query=(
        AFTER,
        _LIMIT,
        QueryParameter(
            "stream",
            "server-sent events, from the first one until the job ends, instead of a page",
            {"type": "boolean", "default": False},
        ),
    ),
)
def list_events(
    services: Services, job_id: str, after: str | None, limit: int, stream: bool
) -> FineTuningEventList | Response:
    """Return the events of a job, newest first, or stream them as they come."""
    training = require_training(services.training)
    job = _find_job(training, job_id)
    if stream:
        sock, watch_key = request.environ.get("gunicorn.socket"), g.context.watch_key
        events = _events(services, training, job, _number(after) if after else 0, sock, watch_key)
        events = _with_error_event(events, g.request_log.record_error)
        return event_stream(events, training.streams.add(job.tenant))
    before = _number(after) if after else 2**31 - 1
    found = training.store.list_events(job_id, before, limit + 1, newest_first=True)
    return {"object": "list", "data": [_event_object(each) for each in found[:limit]], "has_more": len(found) > limit}


def _number(event_id: str) -> int:
    match = re.fullmatch(r"ftevent-[0-9a-f]+-([0-9]{1,9})", event_id)
    if match is None:
        raise InvalidRequest(f"after must be the id of an event, got {shorten(event_id)}", param="after")
    return int(match[1])


def _events(
    services: Services, training: Training, job: Job, after: int, sock: Any, watch_key: WatchKey
) -> Iterator[bytes]:
    """Yield events until the job has ended, or the client has closed its socket.

    Raises:
        ShuttingDown: this server is draining.
        Unauthorized: the API key was revoked.
    """
    is_closed, is_revoked, written_at = threading.Event(), threading.Event(), time.monotonic()
    with services.watch_socket(sock, is_closed.set), watch_key(is_revoked.set):
        while not is_closed.is_set():
            if is_revoked.is_set():
                raise Unauthorized("the API key was revoked")
            # Before the events, so that none is missed at the end.
            current = training.store.job(job.tenant, job.id)
            found = training.store.list_events(job.id, after, 1000)
            if found:
                after, written_at = found[-1].number, time.monotonic()
                yield b"".join(sse(_event_object(event)) for event in found)
                continue
            if current is None or (current.status in ENDED and not _is_loading(services, current)):
                yield DONE
                return
            services.refuse_if_draining()
            if time.monotonic() > written_at + _KEEP_ALIVE_S:
                written_at = time.monotonic()
                yield b": waiting\n\n"
            else:
                is_closed.wait(_POLL_S)


def _with_error_event(events: Iterator[bytes], on_error: Callable[[GatewayError], None]) -> Iterator[bytes]:
    """Yield the events of a stream; an error becomes the last one."""
    try:
        yield from events
    except GatewayError as error:
        yield error_event(error, on_error)
    except Exception:
        log.exception("a stream of events failed")
        yield error_event(InternalError("internal error; see the gateway's log"), on_error)


@Endpoint(
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints",
    TRAINING,
    "List checkpoints of a job",
    (404,),
    query=(AFTER, _LIMIT),
)
def list_checkpoints(services: Services, job_id: str, after: str | None, limit: int) -> FineTuningCheckpointList:
    """Return the published checkpoint, if the job has succeeded."""
    training = require_training(services.training)
    job = _find_job(training, job_id)
    best, data = training.store.best_epoch(job_id), list[FineTuningCheckpoint]()
    checkpoint_id = f"ftckpt-{job.id.removeprefix('ftjob-')}"
    if job.version is not None and best is not None and after is None:
        data = [
            {
                "id": checkpoint_id,
                "object": "fine_tuning.job.checkpoint",
                "created_at": int(job.finished_at or 0),
                "fine_tuned_model_checkpoint": f"{job.name}:{job.version}",
                "fine_tuning_job_id": job.id,
                "step_number": best["epoch"],
                "metrics": {
                    "step": best["epoch"],
                    "train_loss": best["train_loss"],
                    "valid_loss": best["validation_loss"],
                    "valid_mean_token_accuracy": best["accuracy"],
                },
            }
        ]
    only_id = checkpoint_id if data else None
    return {"object": "list", "data": data[:limit], "first_id": only_id, "last_id": only_id, "has_more": False}


def _find_job(training: Training, job_id: str) -> Job:
    job = training.store.job(g.context.tenant, job_id)
    if job is None:
        raise _not_found(job_id)
    return job


def _is_loading(services: Services, job: Job) -> bool:
    """Return whether the version that a job published is still being loaded; not for longer than a load takes."""
    if job.version is None or time.time() - (job.finished_at or 0) > _LOADING_S:
        return False
    if not (services.settings.models_dir / job.name / str(job.version)).is_dir():
        # It has been deleted since.
        return False
    ref = ModelVersion(job.name, job.version)
    try:
        services.model_registry.find(job.name)
    except (ModelLoading, ModelNotFound):
        return True
    return all(model.ref != ref for model in services.model_registry.versions())


def _not_found(job_id: str) -> NotFound:
    return NotFound(f"there is no job {shorten(job_id)}", param="job_id")


def _job_object(services: Services, job: Job) -> FineTuningJob:
    is_loading = _is_loading(services, job)
    hyperparameters = cast("Any", {**Hyperparameters().model_dump(), **job.hyperparameters})
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at),
        "finished_at": None if job.finished_at is None or is_loading else int(job.finished_at),
        "estimated_finish": None if job.estimated_finish is None else int(job.estimated_finish),
        # A client may use the model as soon as the job has succeeded.
        "status": "running" if is_loading else job.status,
        "error": cast("Any", job.error),
        "model": job.model,
        "fine_tuned_model": None if job.version is None or is_loading else job.name,
        "version": job.version,
        "organization_id": job.tenant,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": [],
        "seed": job.settings["seed"],
        "trained_tokens": job.trained_tokens,
        "trained_s": round(job.trained_s, 1),
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "settings": dict(job.settings),
        "user_provided_suffix": job.suffix,
        "integrations": [],
        "metadata": None if job.job_metadata is None else dict(job.job_metadata),
    }


def _event_object(event: Event) -> FineTuningEvent:
    described: FineTuningEvent = {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": int(event.created_at),
        "level": event.level,
        "type": event.type,
        "message": event.message,
    }
    if event.data is not None:
        described["data"] = dict(event.data)
    return described
