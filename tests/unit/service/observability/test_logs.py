"""One format for every line of the process, and nothing in it that a client wrote there as if we had."""

import io
import json
import logging
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st

from service.observability import logs
from service.observability.logs import AccessLogLine, GunicornLogger, log_request, request_id

ROOT = Path(__file__).parents[4]
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
REQUEST = {"method": "GET", "route": "/v1/models", "path": "/v1/models", "status": 200, "duration_ms": 12.345}


def run(code, format, level="info"):
    """Run code in a process of its own that logs in a format; return what it wrote to standard error."""
    setup = f"logs.configure_logging(format={format!r}, level={level!r})"
    start = f"import logging\nfrom service.observability import logs\n{setup}\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    return done.stderr


def objects(output):
    return [json.loads(line) for line in output.splitlines()]


def written(formatter, logger, act):
    """Return what a logger's lines look like in a format."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(logs._RequestId())
    logger.addHandler(handler)
    before = logger.level, logger.propagate
    # Nor does pytest keep them: its workers hand on what they kept as UTF-8, which has no surrogates.
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
    return written(
        formatter or logs._Json(), logging.getLogger("service.access"), lambda: log_request(AccessLogLine(**fields))
    )


def test_a_json_line_has_time_level_logger_and_message():
    """Programs find the same fields in every line; extra ones stand beside them."""
    (line,) = objects(run("logging.getLogger('a.b').warning('it is %d', 7, extra={'rows': 3})", "json"))
    assert re.fullmatch(TIME, line.pop("timestamp"))
    assert line == {"level": "WARNING", "logger": "a.b", "message": "it is 7", "rows": 3}


def test_a_text_line_has_time_level_logger_message_and_extras():
    """People find them in the same order."""
    line = run("logging.getLogger('a.b').warning('it is %d', 7, extra={'rows': 3, 'who': 'a b'})", "text")
    assert re.fullmatch(rf'{TIME} WARNING a\.b it is 7 rows=3 who="a b"\n', line)


def test_lines_below_the_level_are_not_written():
    """The level holds for every logger."""
    assert objects(run("logging.getLogger('a').info('no'); logging.getLogger('b').error('yes')", "json", "warning"))
    assert run("logging.getLogger('a').info('no')", "text", "warning") == ""
    assert run("log = logging.getLogger('a'); log.setLevel('DEBUG'); log.info('no')", "text", "warning") == ""


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_request_s_lines_have_its_id_and_others_have_none(format):
    """The id is that of the thread's request; a thread without one has none."""
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


def test_an_exception_is_one_json_line():
    """The trace is a field, not lines of its own."""
    (line,) = objects(run("try: 1 / 0\nexcept ArithmeticError: logging.exception('oh')", "json"))
    assert line["message"] == "oh"
    assert line["exc_info"].startswith("Traceback (most recent call last):\n")
    assert line["exc_info"].endswith("ZeroDivisionError: division by zero")


def test_a_traceback_in_text_is_indented_below_its_line():
    """Only the line itself begins with a time, whatever the exception says."""
    error = "ValueError('a\\\\n2026-01-01T00:00:00.000Z INFO forged\\\\x1b[2J')"
    first, *others = run(f'try: raise eval("{error}")\nexcept ValueError: logging.exception("oh")', "text").splitlines()
    assert first.endswith("ERROR root oh")
    assert "    2026-01-01T00:00:00.000Z INFO forged\\x1b[2J" in others
    assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("format", ["json", "text"])
def test_what_python_itself_says_has_the_format_too(format):
    """Warnings, and exceptions that end a thread or the program, are lines like any other."""
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
    assert all(word in line for word, line in zip(("first", "worker", "program"), lines, strict=True))


def test_gunicorn_writes_in_the_same_format():
    """Its master and its worker have no format of their own, and say nothing twice."""
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
    assert [(line["logger"], line["message"]) for line in lines] == [
        ("gunicorn.error", "worker 3"),
        ("gunicorn.access", "access"),
    ]


def test_gunicorn_takes_the_logger_by_name_and_class():
    """It is a value for `logger_class`."""
    for value in (GunicornLogger, "service.observability.logs.GunicornLogger"):
        config = Config()
        config.set("logger_class", value)
        assert config.logger_class is GunicornLogger


def test_a_request_has_one_line_with_what_is_known():
    """What is not known is left out, and the query is cut off."""
    line = json.loads(
        access(
            **{**REQUEST, "path": "/v1/models?key=secret"},
            client="::1",
            key="ab12",
            model="demo",
            prompt_tokens=0,
            finish_reasons=["stop"],
        )
    )
    del line["timestamp"]
    assert line == {
        "level": "INFO",
        "logger": "service.access",
        "message": "request",
        "method": "GET",
        "route": "/v1/models",
        "path": "/v1/models",
        "status": 200,
        "duration_ms": 12.3,
        "client": "::1",
        "key": "ab12",
        "model": "demo",
        "prompt_tokens": 0,
        "finish_reasons": ["stop"],
    }


def test_prompts_and_suffixes_are_logged_only_where_they_are_given():
    """Other people's words are not in the log by default."""
    line = json.loads(access(**REQUEST))
    assert not {"prompt", "suffix"} & line.keys()
    line = json.loads(access(**REQUEST, prompt="To be", suffix=" to be"))
    assert (line["prompt"], line["suffix"]) == ("To be", " to be")


@pytest.mark.parametrize("route", ["/health", "/healthz", "/ping", "/readyz"])
def test_probes_do_not_flood_the_log(route):
    """What asks every few seconds is for debugging; a path that only looks so is not a probe."""
    assert json.loads(access(**{**REQUEST, "route": route}))["level"] == "DEBUG"
    assert json.loads(access(**{**REQUEST, "route": None, "path": route}))["level"] == "INFO"


hostile = st.text(st.one_of(st.characters(), st.sampled_from("\r\n\x00\x1b\x85\u2028\u202e\ud800 =\"'\\{}")))


@given(path=hostile, agent=hostile, message=hostile)
def test_no_client_can_forge_a_line(path, agent, message):
    """In both formats one request is one line of printable characters, and JSON gives back what the client sent."""
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
    """A value with spaces, quotes or equals signs is quoted, so that fields can be told apart."""
    line = access(logs._Text(), **REQUEST, user_agent=agent)
    before, _, value = line[:-1].partition(" user_agent=")
    assert before.endswith("duration_ms=12.3")
    assert re.fullmatch(r'[^\s"=\\]+|"([^"\\]|\\.)*"|[^\s"=]+', value)


def test_the_id_of_no_request_is_none():
    """Nothing is claimed outside of requests."""
    assert request_id.get() is None
