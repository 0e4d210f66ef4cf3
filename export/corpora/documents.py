"""Splitting of streamed text into documents, separated by a zero character.

Knows lines and paragraphs. Does not know where the text comes from.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal

Documents = Literal["none", "file", "lines", "blank-line"]

# Document separator. It occurs in no text: bytes that contain it are rejected as binary.
MARK = "\0"
_BETWEEN_PARAGRAPHS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def mark_documents(texts: Iterable[Iterable[str]], documents: Documents) -> Iterator[str]:
    """Yield the parts of all texts, with `MARK` between documents. Blank documents are still included.

    Args:
        texts: Each text as its parts.
        documents: `none` joins all texts into one running text by line feeds, `file` makes each text a document,
            `lines` each line, `blank-line` each paragraph.
    """
    for count, parts in enumerate(texts):
        if count:
            yield "\n" if documents == "none" else MARK
        if documents == "lines":
            yield from (part.replace("\n", MARK) for part in parts)
        elif documents == "blank-line":
            yield from _mark_paragraphs(parts)
        else:
            yield from parts


def _mark_paragraphs(parts: Iterable[str]) -> Iterator[str]:
    """Replace blank lines by `MARK`, and strip a line feed before the first paragraph and after the last."""
    buffer, has_begun = "", False
    for part in parts:
        text = buffer + part
        # Trailing white space with a line break may be the start of a paragraph break that continues in the next part.
        cut = text.find("\n", len(text.rstrip(" \t\n")))
        complete, buffer = (text, "") if cut < 0 else (text[:cut], text[cut:])
        if complete:
            marked = _BETWEEN_PARAGRAPHS.sub(MARK, complete)
            yield marked if has_begun else marked.removeprefix("\n")
            has_begun = True
    yield _BETWEEN_PARAGRAPHS.sub(MARK, buffer).removesuffix("\n")
