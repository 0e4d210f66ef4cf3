"""From a line of IN to a line of OUT: what every engine runs, here or on another machine."""

from service.batch.errors import WrongLine
from service.batch.gateway import Failure, Gateway
from service.batch.output_record import Answer, answered, failed, refused
from service.batch.requests_file import Line, parse


def answer(line: Line, gateway: Gateway) -> Answer:
    """Answer a line.

    Raises:
        Stopped: no line would be answered.
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
