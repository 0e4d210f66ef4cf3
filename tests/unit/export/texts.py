"""Corpora of texts in memory."""

from export.corpora.corpus import Corpus, _write_documents
from export.corpora.documents import separate_documents


def corpus_of(name, documents, *, ends):
    """Return a corpus of these documents, without the blank ones."""
    spool = _write_documents(separate_documents(([document] for document in documents), "file"))
    return Corpus(name, ends, spool, 0, spool.size)
