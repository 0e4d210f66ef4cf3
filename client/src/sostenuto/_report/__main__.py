"""A report in a separate process, for a server: a request on standard input, the report on standard output.

The request is a line of JSON; the response is {"report": …}, or {"error": message, "param": field}, where the message
is null if memory ran out. The process ends with its parent or at its time limit, and has a low priority.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from sostenuto._errors import InvalidArgument
from sostenuto._report.display import summary
from sostenuto._report.files import read_records
from sostenuto._report.page import page
from sostenuto._report.records import InvalidInput, Records, records_of
from sostenuto._report.report import Options, build_report
from sostenuto._report.validity import Checks

# Gets about a tenth of a core that serving needs: at idle priority it would not finish on a busy server.
NICENESS = 10
SEARCH_S = 5.0  # of CPU time, for each set
_PR_SET_PDEATHSIG = 1


def main() -> None:
    os.nice(NICENESS)
    request = json.load(sys.stdin.buffer)
    _limit(request)
    try:
        answer = _answer(request)
    except InvalidInput as error:
        answer = {"error": str(error), "param": _field(request, error.param)}
    except MemoryError:
        answer = {"error": None, "param": None}
    sys.stdout.write(json.dumps(answer, allow_nan=False))


def _limit(request: dict[str, Any]) -> None:
    """Let the kernel end the process: a thread could not while a regular expression holds the interpreter's lock."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request["parent"]:
        os._exit(1)
    signal.alarm(int(request["max_s"]) + 1)  # by default it kills
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + request["max_memory_bytes"],) * 2)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    columns = tuple(request["columns"])

    def read(name: str) -> Records | None:
        values, file = request[name], request.get(f"{name}_file")
        if values is None and file is None:
            return None
        try:
            if file is None:
                records = records_of(name, values, columns)
            else:
                records = read_records(Path(file["path"]), name=file["name"], field=request["field"], columns=columns)
        except InvalidArgument as error:
            raise InvalidInput(str(error), name) from error
        if len(records) > request["max_records"]:
            message = f"{records.name} must have at most {request['max_records']} records, got {len(records)}"
            raise InvalidInput(message, name)
        return records

    generated, training = read("generated"), read("training")
    assert generated is not None
    assert training is not None
    checks = Checks(request["pattern"], request["json_schema"])
    options = Options(checks, request["near"], request["smiles"], request["seed"], SEARCH_S, num_workers=1)
    report = build_report(generated, training, read("held_out"), options)
    return {"report": {**report, "summary": summary(report), "html": page(report) if request["html"] else None}}


def _field(request: dict[str, Any], param: str) -> str:
    return f"{param}_file" if request.get(f"{param}_file") else param


if __name__ == "__main__":
    main()
