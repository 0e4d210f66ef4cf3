"""HTTP: endpoints, middleware, and responses as JSON or server-sent events; importing it declares every endpoint."""

from service.web import (  # noqa: F401
    completions,
    files,
    fine_tuning,
    health,
    hidden_states,
    model_changes,
    models,
    reports,
)
