"""Reports of the gateway: their process, its limits, and how it ends."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from service import reports
from service.app import FINAL_EVENTS_S, Gateway
from service.errors import ClientGone, DeadlineExceeded, InternalError, InvalidRequest, Overloaded, ShuttingDown
from service.reports import ReportProcess, Reports
from service.settings import Settings
from tests.paths import ROOT
from tests.processes import cpu_s
from tests.servers import children, is_running
from tests.waiting import until

FIELDS = {
    **dict.fromkeys(("training_file", "held_out", "held_out_file", "field", "pattern", "json_schema")),
    "columns": [],
    "near": 0.2,
    "smiles": False,
    "seed": 0,
    "html": False,
}
SLOW = "(a|a)*b"


pytestmark = pytest.mark.usefixtures("path_of_sdk")


def process(max_s=500.0, **fields):
    limits = {"max_records": 1000, "max_memory_bytes": reports.MAX_MEMORY_BYTES}
    return ReportProcess({**FIELDS, "generated": ["ab"], "training": ["ac"], **limits, **fields}, max_s)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"pattern": "("}, "pattern", "pattern must be a regular expression"),
        ({"training": ["x"] * 1001}, "training", "training must have at most 1000 records, got 1001"),
    ],
)
def test_an_invalid_field_is_named(fields, param, message):
    with pytest.raises(InvalidRequest, match=message) as raised:
        process(**{"generated": ["1"], **fields}).run()
    assert raised.value.param == param


def test_a_file_is_read_by_the_process(tmp_path):
    (tmp_path / "file").write_text('{"text": "ac"}\n{"text": "ad"}\n')
    file = {"path": str(tmp_path / "file"), "name": "list.ndjson"}
    report = process(training=None, training_file=file).run()
    assert (report["training"]["name"], report["training"]["records"]) == ("list.ndjson", 2)
    assert report["html"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", r"list\.txt must be UTF-8, got byte 0xff"),
        (b"a\n" * 1001, r"list\.txt must have at most 1000 records, got 1001"),
        (None, r"cannot read list\.txt: No such file or directory"),
    ],
)
def test_an_unusable_file_is_named_as_it_was_uploaded(tmp_path, content, message):
    """Where the server keeps it is none of the client's business."""
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    file = {"path": str(tmp_path / "file"), "name": "list.txt"}
    with pytest.raises(InvalidRequest, match=f"^{message}$") as raised:
        process(held_out_file=file).run()
    assert raised.value.param == "held_out_file"


def test_a_report_that_takes_too_long_ends_with_its_process():
    """Such as one whose pattern backtracks for ever."""
    slow = process(max_s=3.0, pattern=SLOW, generated=["a" * 60])
    with pytest.raises(DeadlineExceeded, match="the report took longer than 3 s"):
        slow.run()
    assert slow._process.returncode is not None


def test_a_report_that_takes_too_much_memory_is_refused():
    with pytest.raises(InvalidRequest, match="the report may use at most 536870912 bytes of memory"):
        process(max_memory_bytes=2**20, generated=["ab" * 10**6] * 3).run()


def test_a_cancelled_report_ends_at_once():
    slow = process(pattern=SLOW, generated=["a" * 60])
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(slow.run)
        until(lambda: slow._process)
        slow.cancel(ClientGone())
        with pytest.raises(ClientGone):
            running.result(timeout=30)
    with pytest.raises(ClientGone):
        slow.run()


def test_a_process_that_fails_is_an_internal_error(monkeypatch):
    monkeypatch.setattr(reports, "_COMMAND", ["false"])
    with pytest.raises(InternalError, match="exited unexpectedly"):
        process().run()


GATEWAY = """
from tests.unit.service.test_reports import SLOW, process

process(pattern=SLOW, generated=["a" * 60]).run()
"""


def test_a_process_ends_with_the_gateway():
    """The kernel ends it, as a regular expression keeps the interpreter from noticing."""
    gateway = subprocess.Popen([sys.executable, "-c", GATEWAY], cwd=ROOT)
    try:
        child = until(lambda: next((pid for pid in children(gateway.pid) if cpu_s(pid) > 2), None))
    finally:
        gateway.kill()
        gateway.wait()
    until(lambda: not is_running(child))


def test_only_so_many_reports_are_computed_at_once():
    places = Reports(Settings(max_reports=1))
    with places.process({}):
        refused = places.process({})
        with pytest.raises(Overloaded, match="at most 1 reports may be computed at once"), refused:
            pass
    with places.process({}):
        pass


def test_a_gateway_that_drains_ends_its_reports_when_the_time_is_over():
    scheduler, places = SimpleNamespace(stop=lambda _: None), Reports(Settings(max_reports=2))
    services = SimpleNamespace(is_draining=False, scheduler=scheduler, reports=places)
    gateway = SimpleNamespace(services=services, settings=Settings(drain_s=60))
    request = {**FIELDS, "generated": ["a" * 60], "training": ["ac"], "pattern": SLOW}
    with services.reports.process(request) as running:
        threading.Timer(1.0, Gateway.begin_drain, (gateway, FINAL_EVENTS_S)).start()
        with pytest.raises(ShuttingDown, match="the server was shut down before the request was finished"):
            running.run()
        with services.reports.process(request) as late, pytest.raises(ShuttingDown):
            late.run()
