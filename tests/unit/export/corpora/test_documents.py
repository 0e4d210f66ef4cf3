"""Documents are separated in the same way, however the text is chunked."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.corpora.corpus import _write_documents
from export.corpora.documents import SEPARATOR, separate_documents

TEXT = st.text(st.sampled_from("ab \t\n\x0b"), max_size=30)


def at_once(texts, documents):
    """Separate the documents of texts that are in memory."""
    if documents == "none":
        parts = ["\n".join(texts)]
    elif documents == "file":
        parts = texts
    elif documents == "lines":
        parts = [part for text in texts for part in text.split("\n")]
    else:
        pattern = r"\n[ \t]*(?:\n[ \t]*)+"
        parts = [part.strip("\n") for text in texts for part in re.split(pattern, text)]
    return [part for part in parts if part.strip()]


@pytest.mark.parametrize("documents", ["none", "file", "lines", "blank-line"])
@given(texts=st.lists(st.lists(TEXT, max_size=4), max_size=4))
def test_chunked_texts_separate_into_the_same_documents(documents, texts):
    expected = at_once(["".join(parts) for parts in texts], documents)
    spool = _write_documents(separate_documents(texts, documents))
    assert spool.read(0, spool.size).decode() == SEPARATOR.join(expected)
