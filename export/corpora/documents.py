"""Splitting of streamed text into documents, separated by a zero character."""

import re
from collections.abc import Iterable, Iterator
from typing import Literal

Documents = Literal["none", "file", "lines", "blank-line", "records"]

# Document separator. It occurs in no text: bytes that contain it are rejected as binary.
SEPARATOR = "\0"
_BETWEEN_PARAGRAPHS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def separate_documents(texts: Iterable[Iterable[str]], documents: Documents) -> Iterator[str]:
    """Yield the parts of all texts, with `SEPARATOR` between documents. Blank documents are still included.

    `none` joins all texts into one running text by line feeds, `file` and `records` make each text a document, `lines`
    each line, `blank-line` each paragraph.
    """
    for count, parts in enumerate(texts):
        if count:
            yield "\n" if documents == "none" else SEPARATOR
        if documents == "lines":
            yield from (part.replace("\n", SEPARATOR) for part in parts)
        elif documents == "blank-line":
            yield from _separate_paragraphs(parts)
        else:
            yield from parts


def _separate_paragraphs(parts: Iterable[str]) -> Iterator[str]:
    """Replace blank lines by `SEPARATOR`, and strip a line feed before the first paragraph and after the last."""
    buffer, has_begun = "", False
    for part in parts:
        text = buffer + part
        # Trailing white space with a line break may be the start of a paragraph break that continues in the next part.
        cut = text.find("\n", len(text.rstrip(" \t\n")))
        complete, buffer = (text, "") if cut < 0 else (text[:cut], text[cut:])
        if complete:
            separated = _BETWEEN_PARAGRAPHS.sub(SEPARATOR, complete)
            yield separated if has_begun else separated.removeprefix("\n")
            has_begun = True
    yield _BETWEEN_PARAGRAPHS.sub(SEPARATOR, buffer).removesuffix("\n")
