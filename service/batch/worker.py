"""From a line of IN to a line of OUT: the function that threads and Ray workers run."""

from service.batch.errors import WrongLine
from service.batch.gateway import Failure, Gateway
from service.batch.output_record import Answer, answered, failed, refused
from service.batch.requests_file import Line, parse


def answer(line: Line, gateway: Gateway) -> Answer:
    """Send the request of a line and return its line of OUT.

    Raises:
        Stopped: no line would get a response.
    """
    try:
        request = parse(line)
    except WrongLine as wrong:
        return refused(line, wrong)
    try:
        reply = gateway.ask(request)
    except Failure as failure:
        return failed(line, request.custom_id, failure.code, str(failure))
    return answered(request.custom_id, reply.status, reply.headers.get("x-request-id"), reply.content)
