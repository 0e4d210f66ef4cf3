"""Cutting a text that comes in parts into pieces which every unit of text encodes as it would the whole.

A cut stands where white space begins. There no word of any unit goes on, and no rule looks across: neither the
expressions that cut text, nor lower case by context. A text that has no such place for long is cut only where
`huggingface.chunks` would cut it, which makes the pieces exact for exact words and subwords however long that is; for
Keras's words they are up to `MAX_ENDLESS` characters, which no word has.
"""

from collections.abc import Iterator

from contract.tokenizers import huggingface

# Characters without white space that are kept together.
MAX_ENDLESS = 1 << 22


class Chunker:
    """Cuts one text after another; each is fed in parts and then ended."""

    def __init__(self) -> None:
        self._held = ""
        # Where in what is held the search goes on; before it there is no place to cut at.
        self._searched = 0

    def feed(self, part: str) -> Iterator[str]:
        """Yield the pieces that are certain after the text's next part."""
        text, start, place = self._held + part, 0, self._searched
        size = huggingface.CHUNK_CHARACTERS
        while len(text) - place > 2 * size:
            limit = place + 2 * size
            cut = huggingface.CUT.search(text, place + size, limit)
            place = cut.start() if cut else limit
            if cut or place - start >= MAX_ENDLESS:
                yield text[start:place]
                start = place
        self._held, self._searched = text[start:], place - start

    def end(self) -> str:
        """Return the text's last piece, which is empty only if the text is."""
        rest, self._held, self._searched = self._held, "", 0
        return rest
