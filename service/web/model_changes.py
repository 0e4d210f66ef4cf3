"""The endpoints that change models, which a trainer executes: labels, traffic split, rollback and deletion."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from typing import Any

from flask import g

from contract.models_config import STABLE
from jobs.database import OperationAction
from service.api.body import require
from service.api.responses import ModelRouting
from service.api.training import MAX_LABELS, DeletedObject, ModelChange
from service.context import Role
from service.errors import InvalidRequest, MissingRole, ModelLoading, ModelNotFound
from service.models.registry import StoredModel
from service.models.routing import Reference
from service.training import require_training
from service.web.endpoint import MODELS, Endpoint, Services, parse_body
from service.web.models import version_object

_MANAGERS: tuple[Role, ...] = ("train", "admin")
_ERRORS = (400, 404, 409, 429, 500, 503, 504)
# A model server loads or unloads a small version within two polls of its files. After this time the response comes
# anyway, and lists changes not yet in effect.
_EFFECT_S, _POLL_S = 10.0, 0.1


@Endpoint("PATCH /v1/models/{name}", MODELS, "Move labels, split traffic", _ERRORS, ModelChange, roles=_MANAGERS)
def change_model(services: Services, name: str) -> ModelRouting:
    """Move or remove labels, and set the traffic split; return how this gateway routes requests now.

    `{"labels": {"stable": 2}}` promotes version 2. If loading takes longer than ten seconds, `unloaded` has the
    version, and requests go to the previous one until it is loaded. Other gateways follow within a second.
    """
    body = parse_body(services, ModelChange)
    stored = _require_managed(services, name)
    _require_existing(body, stored)
    _operate(services, "route", name, {"labels": body.labels, "shares": body.shares})
    return _routing(services, name, body.labels.values())


@Endpoint("POST /v1/models/{name}/rollback", MODELS, "Roll back a model", _ERRORS, roles=_MANAGERS)
def roll_back(services: Services, name: str) -> ModelRouting:
    """Make the previous stable version stable again; without promotions, the second-newest one.

    Send it once: a second rollback returns to the first version.
    """
    g.context.charge_request()
    _require_managed(services, name)
    _operate(services, "rollback", name)
    return _routing(services, name, [services.model_registry.stored(name).labels.get(STABLE)])


@Endpoint("DELETE /v1/models/{name}", MODELS, "Delete a model or a version", _ERRORS, roles=_MANAGERS)
def delete_model(services: Services, name: str) -> DeletedObject:
    """Delete a model, or NAME:VERSION; deleting the last version deletes the model.

    Refused while an unfinished job needs it, and, while others remain, for a version with a label other than `previous`
    or a share of the traffic. Completions that run on it end with the error `version_gone`. No new ones start once this
    returns; the files are deleted within a minute.
    """
    g.context.charge_request()
    reference = Reference.parse(name)
    if reference.label is not None:
        raise InvalidRequest(f"name must be NAME or NAME:VERSION, got {name[:64]!r}", param="name")
    stored = _require_managed(services, reference.name)
    numbers = set(stored.existing) if reference.version is None else {reference.version}
    if not numbers <= set(stored.existing):
        existing = ", ".join(map(str, stored.existing))
        raise ModelNotFound(f"{reference.name} has no version {reference.version}; it has {existing}", param="name")
    number = "" if reference.version is None else f":{reference.version}"
    _operate(services, "remove", f"{reference.name}{number}", jobs=_jobs_of(services, reference.name, numbers))
    _wait(services, reference.name, lambda served: not numbers & served)
    return {"id": name, "object": "model", "deleted": True}


def _require_managed(services: Services, name: str) -> StoredModel:
    """Return a model of the repository; raise ModelNotFound, MissingRole, or InvalidRequest for NAME:VERSION."""
    if Reference.parse(name).name != name:
        raise InvalidRequest(f"name must be NAME, without a version or a label, got {name[:64]!r}", param="name")
    stored = services.model_registry.stored(name, may_use=g.context.may_use)
    if not g.context.may_manage(name):
        rule = "the API key must have the role admin to change a model that its tenant has not trained"
        raise MissingRole(f"{rule}, got {', '.join(g.context.roles)}", param="name")
    return stored


def _require_existing(change: ModelChange, stored: StoredModel) -> None:
    """Raise InvalidRequest if a label is moved, or a share given, to a version or label that does not exist."""
    labels, existing = {STABLE, *stored.labels}, ", ".join(map(str, stored.existing))
    for label, number in change.labels.items():
        labels = labels - {label} if number is None and label != STABLE else labels | {label}
        is_known = number is None or number in stored.existing
        require(is_known, "labels", f"have existing versions: {existing}", f"{label}: {number}")
    require(len(labels) <= MAX_LABELS, "labels", f"be at most {MAX_LABELS} in all", len(labels))
    for target in change.shares or ():
        is_known = int(target) in stored.existing if target.isdigit() else target in labels
        require(is_known, "shares", f"have labels, or existing versions: {existing}", target)


def _operate(
    services: Services,
    action: OperationAction,
    model: str,
    arguments: Mapping[str, Any] | None = None,
    jobs: Collection[str] = (),
) -> None:
    """Let a trainer execute an operation, and route by its outcome; `jobs` have published the versions."""
    require_training(services.training).operate(action, model, g.context, arguments or {}, jobs)
    services.model_registry.refresh()


def _routing(services: Services, name: str, numbers: Iterable[int | None]) -> ModelRouting:
    """Wait until versions are served, and return how requests are routed."""
    wanted = {number for number in numbers if number is not None}
    _wait(services, name, lambda served: wanted <= served)
    stored = services.model_registry.stored(name)
    route = stored.route
    return {
        "id": name,
        "object": "model.routing",
        "version": route.primary if route else None,
        "versions": [version_object(number, route) for number in route.versions] if route else [],
        "labels": dict(stored.labels),
        "shares": dict(stored.shares),
        "unloaded": stored.unloaded,
    }


def _wait(services: Services, name: str, is_in_effect: Callable[[Set[int]], bool]) -> None:
    """Wait until a condition of a model's served versions holds, or for as long as their loading takes."""
    deadline = time.monotonic() + _EFFECT_S
    while not is_in_effect(_served(services, name)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _served(services: Services, name: str) -> Set[int]:
    try:
        return {*services.model_registry.stored(name).served}
    except (ModelLoading, ModelNotFound):
        return set()


def _jobs_of(services: Services, name: str, numbers: Set[int]) -> set[str]:
    """Return the jobs that have published versions, by the cards that are known here."""
    of_model = [model for model in services.model_registry.versions() if model.ref.name == name]
    reports = [model.card.training for model in of_model if model.ref.number in numbers]
    return {str(report.settings["job"]) for report in reports if report and report.settings.get("job")}
