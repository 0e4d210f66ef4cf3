"""From a line of IN to a line of OUT: the function that threads and Ray workers run."""

from service.batch.client import BatchClient
from service.batch.errors import LineError
from service.batch.output_record import OutputLine, error_line, response_line
from service.batch.requests_file import Line, parse


def process_line(line: Line, client: BatchClient) -> OutputLine:
    """Send the request of a line and return its line of OUT; raise Stopped if no line would get a response."""
    try:
        request = parse(line)
        response = client.send(request)
    except LineError as error:
        return error_line(line, error)
    return response_line(request.custom_id, response.status, response.request_id, response.content)
