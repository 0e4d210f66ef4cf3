"""Logging: one format for every line of the process, and no line or field that a client could forge."""

import io
import json
import logging
import re
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observability import logs
from service.observability.logs import AccessLogLine, log_request, request_id
from tests.paths import ROOT

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
REQUEST = {"method": "GET", "route": "/v1/models", "path": "/v1/models", "status": 200, "duration_ms": 12.345}


@pytest.fixture(autouse=True)
def outside_of_requests():
    """A test of another file, whose response was not read to its end, may have left the id of its request."""
    token = request_id.set(None)
    yield
    request_id.reset(token)


def run(code, format, level="info"):
    """Run code in a process that logs in a format; return its standard error."""
    setup = f"logs.configure_logging(format={format!r}, level={level!r})"
    start = f"import logging\nfrom service.observability import logs\n{setup}\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == ""
    return done.stderr


def objects(output):
    return [json.loads(line) for line in output.splitlines()]


def written(formatter, logger, act):
    """Return the lines of a logger as a formatter writes them."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(logs._add_request_id)
    logger.addHandler(handler)
    before = logger.level, logger.propagate
    # pytest must not capture the lines: its workers send them as UTF-8, which has no surrogates.
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        act()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
    return stream.getvalue()


def access(formatter=None, **fields):
    logger = logging.getLogger("service.access")
    return written(formatter or logs._Json(), logger, lambda: log_request(AccessLogLine(**fields)))


def test_json_lines_have_time_level_logger_message_and_extras():
    code = """
    logging.getLogger('a.b').warning('it is %d', 7, extra={'rows': 3})
    try: 1 / 0
    except ArithmeticError: logging.exception('oh')
    """
    line, failed = objects(run(code, "json"))
    assert re.fullmatch(TIME, line.pop("timestamp"))
    assert line == {"level": "WARNING", "logger": "a.b", "message": "it is 7", "rows": 3}
    assert failed["message"] == "oh"
    assert failed["exc_info"].startswith("Traceback (most recent call last):\n")
    assert failed["exc_info"].endswith("ZeroDivisionError: division by zero")


def test_text_lines_have_time_level_logger_message_and_extras():
    """Values with spaces are quoted. Only log lines begin with a time, so an exception's message cannot forge one."""
    code = r"""
    logging.getLogger('a.b').warning('it is %d', 7, extra={'rows': 3, 'who': 'a b'})
    try: raise ValueError('a\n2026-01-01T00:00:00.000Z INFO forged\x1b[2J')
    except ValueError: logging.exception("oh")
    """
    line, failed, *others = run(code, "text").splitlines()
    assert re.fullmatch(rf'{TIME} WARNING a\.b it is 7 rows=3 who="a b"', line)
    assert failed.endswith("ERROR root oh")
    assert "    2026-01-01T00:00:00.000Z INFO forged\\x1b[2J" in others
    assert all(line.startswith("    ") for line in others)


def test_lines_below_the_level_are_not_written():
    code = """
    logging.getLogger('a').info('no')
    log = logging.getLogger('b'); log.setLevel('DEBUG'); log.info('no'); log.error('yes')
    """
    assert [line["message"] for line in objects(run(code, "json", "warning"))] == ["yes"]


@pytest.mark.parametrize("format", ["json", "text"])
def test_lines_of_a_request_have_its_id(format):
    lines = run(
        """
        import threading
        logs.request_id.set("req-7")
        logging.info("within")
        thread = threading.Thread(target=logging.info, args=("without",)); thread.start(); thread.join()
        """,
        format,
    ).splitlines()
    assert ["req-7" in line for line in lines] == [True, False]
    assert ["request_id" in line for line in lines] == [True, False]


@pytest.mark.parametrize("format", ["json", "text"])
def test_warnings_and_uncaught_exceptions_have_the_format_too(format):
    output = run(
        """
        import threading, warnings
        warnings.warn("first")
        thread = threading.Thread(target=lambda: 1 / 0, name="worker"); thread.start(); thread.join()
        raise RuntimeError("last")
        """,
        format,
    )
    begins = r'\{"timestamp": "' + TIME if format == "json" else TIME
    lines = [line for line in output.splitlines() if not line.startswith("    ")]
    assert len(lines) == 3
    assert all(re.match(begins, line) for line in lines)
    assert all(word in line for word, line in zip(("first", "worker", "process"), lines, strict=True))


def test_gunicorn_logs_in_the_same_format():
    lines = objects(
        run(
            """
            from gunicorn.config import Config
            config = Config()
            config.set("loglevel", "warning")
            log = logs.GunicornLogger(config)
            log.setup(config)
            log.info("no"); log.warning("worker %d", 3); log.access_log.error("access")
            """,
            "json",
        )
    )
    assert [line["logger"] for line in lines] == ["gunicorn.error", "gunicorn.access"]
    assert [line["message"] for line in lines] == ["worker 3", "access"]


def test_an_access_log_line_has_the_known_fields():
    fields = {"client": "::1", "key": "ab12", "model": "demo", "prompt_tokens": 0, "finish_reasons": ["stop"]}
    line = json.loads(access(**{**REQUEST, "path": "/v1/models?key=secret"}, **fields))
    del line["timestamp"]
    head = {"level": "INFO", "logger": "service.access", "message": "request"}
    assert line == {**head, **REQUEST, "duration_ms": 12.3, **fields}


@pytest.mark.parametrize("route", ["/health", "/healthz", "/ping", "/readyz", "/static/<path:name>"])
def test_health_checks_and_files_of_pages_are_logged_at_debug(route):
    assert json.loads(access(**{**REQUEST, "route": route}))["level"] == "DEBUG"
    assert json.loads(access(**{**REQUEST, "route": None, "path": route}))["level"] == "INFO"


hostile = st.text(st.one_of(st.characters(), st.sampled_from("\r\n\x00\x1b\x85\u2028\u202e\ud800 =\"'\\{}")))


@given(path=hostile, agent=hostile, message=hostile)
def test_no_client_can_forge_a_line(path, agent, message):
    request = {**REQUEST, "path": path, "user_agent": agent}
    json_line, text_line = access(**request), access(logs._Text(), **request)
    plain = written(logs._Text(), logging.getLogger("test.logs"), lambda: logging.getLogger("test.logs").info(message))
    for line in (json_line, text_line, plain):
        assert line.endswith("\n")
        assert line[:-1].isprintable()
    assert json.loads(json_line)["path"] == path.partition("?")[0]
    assert json.loads(json_line)["user_agent"] == agent


@given(agent=hostile)
def test_no_client_can_forge_a_field(agent):
    line = access(logs._Text(), **REQUEST, user_agent=agent)
    before, _, value = line[:-1].partition(" user_agent=")
    assert before.endswith("duration_ms=12.3")
    assert re.fullmatch(r'[^\s"=\\]+|"([^"\\]|\\.)*"|[^\s"=]+', value)
