"""From a line of IN to a line of OUT: the function that threads and Ray workers run."""

from __future__ import annotations

from sostenuto._batch.client import BatchClient
from sostenuto._batch.errors import LineError
from sostenuto._batch.formats import OutputFormat
from sostenuto._batch.output_record import OutputLine, error_line
from sostenuto._batch.requests_file import BatchRequest, Line, parse


def process_line(line: Line, client: BatchClient, output_format: OutputFormat) -> OutputLine:
    """Send the request of a line and return its line of OUT; raise Stopped if no line would get a response."""
    try:
        request = parse(line)
        _require_url(request, output_format)
        response = client.send(request)
        return output_format.serialize(request.custom_id, response.status, response.request_id, response.content)
    except LineError as error:
        return error_line(line, error)


def _require_url(request: BatchRequest, output_format: OutputFormat) -> None:
    """Raise LineError if the format cannot represent the response to a request."""
    if request.url not in output_format.urls:
        urls = " or ".join(output_format.urls)
        message = f"url must be {urls} with --format {output_format.name}, got {request.url}"
        raise LineError("invalid_url", message, request.custom_id)
