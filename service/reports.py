"""Reports on generated records: each is computed by a separate process, the SDK's, with limits of time and memory.

A thread of the gateway waits for the process, which has a low priority.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import orjson

from service.api.reports import ReportObject
from service.errors import DeadlineExceeded, GatewayError, InternalError, InvalidRequest, Overloaded
from service.settings import Settings

log = logging.getLogger(__name__)

# Address space of a report, in addition to what its process has after reading the request.
MAX_MEMORY_BYTES = 512 * 2**20
_ROOT = Path(__file__).parents[1]
_COMMAND = [sys.executable, "-m", "sostenuto._report"]
_END_S = 5.0


class ReportProcess:
    """The process of one report."""

    def __init__(self, request: dict[str, Any], max_s: float) -> None:
        self._request, self._max_s = request, max_s
        self._cancelled: GatewayError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def cancel(self, error: GatewayError) -> None:
        """End the process, from any thread: `run` raises the error."""
        with self._lock:
            self._cancelled = self._cancelled or error
            if self._process is not None:
                self._process.kill()

    def run(self) -> ReportObject:
        """Compute the report and return it.

        Raises:
            InvalidRequest: a field is invalid, or it takes too much memory.
            DeadlineExceeded: it takes too long.
            InternalError: the process has failed.
            GatewayError: as given to `cancel`.
        """
        began = time.monotonic()
        # orjson has no integers of more than 64 bits, which records may have.
        request = json.dumps({**self._request, "max_s": self._max_s, "parent": os.getpid()}).encode()
        with self._lock:
            if self._cancelled is not None:
                raise self._cancelled
            self._process = process = subprocess.Popen(
                _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, start_new_session=True
            )
        try:
            # It ends early if it is killed, or has failed.
            content, _ = process.communicate(request, timeout=self._max_s)
        except subprocess.TimeoutExpired:
            self.cancel(DeadlineExceeded(f"the report took longer than {self._max_s:g} s; send fewer records"))
            process.communicate(timeout=_END_S)
        finally:
            process.kill()
            process.wait(timeout=_END_S)
        if self._cancelled is not None:
            raise self._cancelled
        log.info("report: %.1f s", time.monotonic() - began)
        return _answer(content)


def _answer(content: bytes) -> ReportObject:
    try:
        answer: dict[str, Any] = orjson.loads(content)
    except orjson.JSONDecodeError:
        log.error("the process of a report exited without an answer")
        raise InternalError("the process of the report exited unexpectedly") from None
    if "error" not in answer:
        return cast("ReportObject", answer["report"])
    too_large = f"the report may use at most {MAX_MEMORY_BYTES} bytes of memory; send fewer records"
    raise InvalidRequest(answer["error"] or too_large, param=answer["param"])


class Reports:
    """Computes reports, a limited number at the same time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._processes: set[ReportProcess] = set()
        self._stopped: GatewayError | None = None
        self._lock = threading.Lock()

    @contextmanager
    def process(self, request: dict[str, Any]) -> Iterator[ReportProcess]:
        """Yield the process of a report, not started yet; raise Overloaded if there are too many."""
        settings = self._settings
        limits = {"max_records": settings.max_report_records, "max_memory_bytes": MAX_MEMORY_BYTES}
        process = ReportProcess({**request, **limits}, settings.max_report_s)
        with self._lock:
            limit = settings.max_reports
            if len(self._processes) >= limit:
                raise Overloaded(f"at most {limit} reports may be computed at once, got one more", retry_after_s=10)
            self._processes.add(process)
            if self._stopped is not None:
                process.cancel(self._stopped)
        try:
            yield process
        finally:
            with self._lock:
                self._processes.discard(process)

    def stop(self, error: GatewayError) -> None:
        """End all reports, including later ones, with an error."""
        with self._lock:
            self._stopped = error
            for process in self._processes:
                process.cancel(error)
