"""OUT in each format, and the errors file beside it: recovery, and one run at a time."""

import itertools
import json

import pytest

from sostenuto._batch.errors import LineError, UsageError
from sostenuto._batch.formats import CSV, FORMATS, JSONL, OPENAI
from sostenuto._batch.output_files import OutputFiles
from sostenuto._batch.output_record import error_line
from sostenuto._batch.requests_file import Line

RESPONSE = json.dumps({"choices": [{"index": i, "text": 'a "\n', "finish_reason": "stop"} for i in (0, 1)]}).encode()
FAILED = error_line(Line(4, b""), LineError("timeout", "m", "failed"))
RECORD_FORMATS = pytest.mark.parametrize("output_format", [JSONL, CSV], ids=["jsonl", "csv"])


@pytest.fixture
def out(tmp_path):
    """The path of OUT."""
    return tmp_path / "out"


def line(output_format, name):
    """Return the line of a response."""
    return output_format.serialize(name, 200, "r", RESPONSE)


def recover(path, output_format, *, drops_errors=False, then=()):
    """Recover OUT, append lines, and return what was there, as (custom_id, code)."""
    found = []
    with OutputFiles(path, output_format) as files:
        files.recover(lambda record: found.append((record.custom_id, record.code)), drops_errors=drops_errors)
        for each in then:
            files.append(each)
    return found


@pytest.mark.parametrize("output_format", FORMATS.values(), ids=FORMATS)
def test_a_killed_run_leaves_whole_responses_at_any_length(out, output_format):
    """Even of a header: the next run appends what is missing, and doubles nothing."""
    recover(out, output_format, then=[line(output_format, "a")])
    length = out.stat().st_size
    recover(out, output_format, then=[line(output_format, "b")])
    whole = out.read_bytes()
    assert whole.startswith(output_format.header)
    for end in range(len(whole)):
        out.write_bytes(whole[:end])
        missing = [("a", None), ("b", None)][len(recover(out, output_format)) :]
        assert len(missing) == (1 if end >= length else 2)
        recover(out, output_format, then=[line(output_format, name) for name, _ in missing])
        assert recover(out, output_format) == [("a", None), ("b", None)]
        # Ids of lines are random and have the same length.
        assert out.stat().st_size == len(whole)


@RECORD_FORMATS
def test_errors_go_to_a_file_of_their_own(out, output_format):
    """In OpenAI's format; both files count on resume."""
    errors = out.with_name("out.errors.jsonl")
    recover(out, output_format, then=[line(output_format, "a"), FAILED])
    assert out.read_bytes() == output_format.header + line(output_format, "a").content
    assert errors.read_bytes() == FAILED.content
    assert recover(out, output_format) == [("a", None), ("failed", "timeout")]


def test_openais_format_has_errors_in_out(out):
    """There is no other file."""
    recover(out, OPENAI, then=[FAILED])
    assert recover(out, OPENAI) == [("failed", "timeout")]
    assert list(out.parent.iterdir()) == [out]


@RECORD_FORMATS
def test_without_errors_there_is_no_errors_file(out, output_format):
    """Nor after the errors were dropped, or a killed run left it empty."""
    errors = out.with_name("out.errors.jsonl")
    errors.touch()
    recover(out, output_format, then=[line(output_format, "a")])
    assert not errors.exists()
    recover(out, output_format, then=[FAILED])
    assert errors.exists()
    assert recover(out, output_format, drops_errors=True) == [("a", None)]
    assert not errors.exists()
    assert recover(out, output_format) == [("a", None)]


@pytest.mark.parametrize(("name", "other_name"), list(itertools.permutations(FORMATS, 2)))
def test_out_in_another_format_is_refused_and_unchanged(out, name, other_name):
    """A resumed run with another `--format` appends nothing."""
    output_format, other = FORMATS[name], FORMATS[other_name]
    out.write_bytes(content := other.header + line(other, "a").content)
    with pytest.raises(
        UsageError, match=f"line 1 of .* is not the output of a batch with --format {output_format.name}"
    ):
        recover(out, output_format)
    assert out.read_bytes() == content


@RECORD_FORMATS
def test_a_second_run_is_refused_and_leaves_the_errors_file(out, output_format):
    """OUT is locked before the errors file is touched."""
    with OutputFiles(out, output_format) as files:
        files.append(FAILED)
        with pytest.raises(UsageError, match="another run is writing"):
            OutputFiles(out, output_format)
        assert files.errors_path.read_bytes() == FAILED.content


@RECORD_FORMATS
def test_an_errors_file_that_no_batch_wrote_is_refused_and_unchanged(out, output_format):
    """OUT is closed again: another run can open it."""
    errors = out.with_name("out.errors.jsonl")
    errors.write_bytes(b"notes\n")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"line 1 of .*out\.errors\.jsonl is not the output of a batch"):
            recover(out, output_format)
    assert errors.read_bytes() == b"notes\n"
