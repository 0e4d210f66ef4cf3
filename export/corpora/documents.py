"""A text in parts, parted into documents: where one ends and the next begins stands a mark.

Knows lines and paragraphs. Does not know where the text comes from.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal

Documents = Literal["none", "file", "lines", "blank-line"]

# Stands in no text: bytes that hold it are refused as binary.
MARK = "\0"
_BETWEEN_PARAGRAPHS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def mark_documents(texts: Iterable[Iterable[str]], documents: Documents) -> Iterator[str]:
    """Yield all texts as one, in parts, with a mark between two documents; blank ones are not left out yet.

    Args:
        texts: Each as its parts.
        documents: `none` joins everything into one running text by line feeds, `file` makes each text a document,
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
    """Mark where blank lines stand, and take away a line feed before the first paragraph and behind the last."""
    held, begun = "", False
    for part in parts:
        text = held + part
        # From the last line end on, if only white space follows it, a break may begin that goes on in the next part.
        cut = text.find("\n", len(text.rstrip(" \t\n")))
        certain, held = (text, "") if cut < 0 else (text[:cut], text[cut:])
        if certain:
            marked = _BETWEEN_PARAGRAPHS.sub(MARK, certain)
            yield marked if begun else marked.removeprefix("\n")
            begun = True
    yield _BETWEEN_PARAGRAPHS.sub(MARK, held).removesuffix("\n")
