"""The tables of symptoms and error responses quote messages as the programs have them."""

import ast
import re

import pytest

from service import errors
from tests.documents import rows
from tests.paths import ROOT

RESPONSES = [cells[0] for cells in rows("response")]
SYMPTOMS = [cells[0] for cells in rows("symptom")]
PARTS = ("contract", "export", "jobs", "model_server", "service", "client/src")
# Those of Python, pydantic, the C library, Docker and Kubernetes; and what the page itself puts between two words.
OTHERS = (
    "Address already in use",
    "No such file or directory",
    "No space left on device",
    "Input should be",
    "Connection refused",
    'could not select device driver "nvidia"',
    "Not Found (HTTP 404)",
)


def strings():
    """Return every string of the sources but docstrings, with a … for each value that is put into it."""
    for part in PARTS:
        for path in (ROOT / part).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
            for node in nodes:
                if id(node) in docstrings:
                    continue
                if isinstance(node, ast.JoinedStr):
                    values = (getattr(value, "value", None) for value in node.values)
                    yield "".join(value if isinstance(value, str) else "…" for value in values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield re.sub(r"%(?:\(\w+\))?\.?\d*[srdgf]", "…", node.value)
    yield (ROOT / "scripts/setup").read_text()


@pytest.fixture(scope="module")
def sources():
    return "\n".join(strings())


def messages():
    """Return what is quoted in the first column and has several words; a command is no message."""
    quoted = {span for cell in RESPONSES + SYMPTOMS for span in re.findall(r"`([^`]+)`", cell)}
    commands = ("curl ", ".venv/", "export ")
    return sorted(span for span in quoted if " " in span and not span.startswith(commands))


@pytest.mark.parametrize("message", messages())
def test_every_quoted_message_is_one_of_the_programs(message, sources):
    for part in re.split("…|" + "|".join(map(re.escape, OTHERS)), message.removeprefix("error: ")):
        words = part.strip(" :,;().")
        assert words in sources, words


def test_every_error_code_of_the_gateway_is_explained():
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and getattr(kind, "code", None)}
    explained = {
        *re.findall(r"^\d{3} `(\w+)`", "\n".join(RESPONSES), re.MULTILINE),
        "invalid_api_key",
        "model_not_found",
    }
    sent_by_mistake = {
        "state_malformed",
        "state_altered",
        "state_of_another_model",
        "state_expired",
        "state_key_unknown",
    }
    assert codes - explained - sent_by_mistake - {"client_gone"} == set()
