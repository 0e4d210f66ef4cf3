"""The endpoint of reports on generated records."""

import os
from typing import Any

from flask import g, request

from service.api.reports import ReportObject, ReportRequest
from service.errors import ClientGone, Unauthorized
from service.training import require_training
from service.web.endpoint import REPORTS, Endpoint, Services, parse_body
from service.web.files import find_file

_FORMATS = {".csv": "csv", ".jsonl": "jsonl"}
_MORE_ERRORS = (404, 499, 500, 503, 504)


@Endpoint("POST /v1/reports", REPORTS, "Report on generated records", _MORE_ERRORS, request=ReportRequest)
def create_report(services: Services) -> ReportObject:
    """Compare generated records with training records: validity, novelty, distributions, a classifier test.

    It is computed within a minute, by a process of low priority. Nothing is stored.
    """
    services.refuse_if_draining()
    body = parse_body(services, ReportRequest)
    fields = body.model_dump()
    for name in ("training_file", "held_out_file"):
        fields[name] = _file(services, fields[name], name)
    with services.reports:
        process = services.reports.process(fields)
        del fields, body
        sock = request.environ.get("gunicorn.socket")
        with (
            g.context.watch_key(lambda: process.cancel(Unauthorized("the API key was revoked"))),
            services.watch_socket(sock, lambda: process.cancel(ClientGone())),
        ):
            return process.run()


def _file(services: Services, file_id: str | None, param: str) -> dict[str, Any] | None:
    """Return where an uploaded file of the key's tenant lies, and its format by its name."""
    if file_id is None:
        return None
    training = require_training(services.training)
    file = find_file(training, file_id, param)
    file_format = _FORMATS.get(os.path.splitext(file.filename)[1].lower(), "lines")
    return {"path": str(training.uploads.path(file_id)), "name": file.filename, "format": file_format}
