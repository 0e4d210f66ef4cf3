"""Chunking of streamed text: encoding the chunks one by one gives the same tokens as encoding the whole text.

The text is split where white space begins. No word of any unit crosses such a boundary, and no rule looks across it:
neither the pre-tokenizer patterns nor context-dependent lower-casing. A long run without white space is split only
where `huggingface.chunks` would split it, so chunks are exact for exact words and subwords at any length. For words by
Keras's rules they are exact for words of up to `MAX_ENDLESS` characters, and no word is longer.
"""

from collections.abc import Iterator

from contract.tokenizers import huggingface

# Maximum number of characters without white space in one chunk.
MAX_ENDLESS = 1 << 22


class Chunker:
    """An incremental splitter of texts; `feed` each text in parts, then `end` it."""

    def __init__(self) -> None:
        self._buffer = ""
        # Position in the buffer from which to search; there is no boundary before it.
        self._searched = 0

    def feed(self, part: str) -> Iterator[str]:
        """Add the next part of the text and yield the chunks that are complete."""
        text, start, position = self._buffer + part, 0, self._searched
        size = huggingface.CHUNK_CHARACTERS
        while len(text) - position > 2 * size:
            limit = position + 2 * size
            cut = huggingface.CUT.search(text, position + size, limit)
            position = cut.start() if cut else limit
            if cut or position - start >= MAX_ENDLESS:
                yield text[start:position]
                start = position
        self._buffer, self._searched = text[start:], position - start

    def end(self) -> str:
        """Return the last chunk of the text; it is empty only if the text is."""
        last, self._buffer, self._searched = self._buffer, "", 0
        return last
