"""The endpoint of reports on generated records."""

from typing import Any

from flask import g, request

from service.api.reports import ReportObject, ReportRequest
from service.errors import ClientGone, Unauthorized
from service.training import require_training
from service.web.endpoint import MODEL_ERRORS, REPORTS, Endpoint, Services, parse_body
from service.web.files import find_file


@Endpoint("POST /v1/reports", REPORTS, "Report on generated records", MODEL_ERRORS, request=ReportRequest)
def create_report(services: Services) -> ReportObject:
    """Compare generated records with training records: validity, novelty, distributions, a classifier test.

    It is computed by a process of low priority. Nothing is stored.
    """
    services.refuse_if_draining()
    body = parse_body(services, ReportRequest)
    fields = body.model_dump()
    del body
    for name in ("training_file", "held_out_file"):
        fields[name] = _file(services, fields[name], name)
    with (
        services.reports.process(fields) as process,
        g.context.watch_key(lambda: process.cancel(Unauthorized("the API key was revoked"))),
        services.watch_socket(request.environ.get("gunicorn.socket"), lambda: process.cancel(ClientGone())),
    ):
        return process.run()


def _file(services: Services, file_id: str | None, param: str) -> dict[str, Any] | None:
    """Return the path and the name of an uploaded file of the key's tenant."""
    if file_id is None:
        return None
    training = require_training(services.training)
    file = find_file(training, file_id, param)
    return {"path": str(training.uploads.path(file_id)), "name": file.filename}
