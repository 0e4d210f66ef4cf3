"""Documents are separated in the same way, however the text is chunked."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.corpora.corpus import Corpus
from export.corpora.documents import separate_documents
from export.errors import CorpusError

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
    if not expected:
        with pytest.raises(CorpusError, match="corpus c: it has no text"):
            Corpus._write("c", separate_documents(texts, documents), "corpus", ends=True)
        return
    corpus = Corpus._write("c", separate_documents(texts, documents), "corpus", ends=True)
    assert corpus.documents == tuple(expected)
