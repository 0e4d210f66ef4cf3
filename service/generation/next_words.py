"""The most probable words after a text, for keyboards and editors: `/v1/next`.

A word is a run of letters, digits, marks and underscores, with apostrophes after the first of them. A continuation is
the rest of the word at the end of the text, or separators and the next word. Its probability is that of its characters,
times that of the end or any other character after them.
"""

import math
import unicodedata
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice, takewhile

import numpy as np

from contract import signatures
from contract.tokenizers import Tokenizer
from service.api.requests import NextRequest
from service.api.responses import NextWord
from service.errors import InvalidRequest
from service.generation.logprobs import DIGITS
from service.generation.running_request import RunningRequest
from service.generation.search import BestFirstSearch, Expander, Node
from service.scheduling.sampling_inputs import FIRST_ROW, Automaton, Match
from service.scheduling.sequence import ChoiceIndex

_APOSTROPHES = frozenset("'’")
# Rows of the automaton of words: before a word, within one, and within one that the prompt has begun and that has no
# further character yet.
BEFORE, WITHIN, BEGUN = range(FIRST_ROW, FIRST_ROW + 3)
# Effects of a token other than leading to `BEFORE` or `WITHIN`: it ends the word, or no word follows.
_ENDS, _NO_WORD = signatures.FINAL_ROW, signatures.FORBIDDEN


def _is_word(character: str, *, is_begun: bool) -> bool:
    # A lone surrogate is a byte of an incomplete character (PEP 383).
    category = unicodedata.category(character)
    return category[0] in "LNM" or category == "Cs" or character == "_" or (is_begun and character in _APOSTROPHES)


def _classify(text: str, *, is_within: bool) -> tuple[int, int]:
    """Return the effect of a token in a row, and how many of its characters follow a word that ends within it."""
    start = 0 if is_within else sum(1 for _ in takewhile(lambda it: not _is_word(it, is_begun=False), text))
    if start == len(text):
        return BEFORE, 0
    length = sum(1 for _ in takewhile(lambda it: _is_word(it, is_begun=True), text[start:]))
    if start + length == len(text):
        return WITHIN, 0
    # The bytes of an incomplete character count as they are shown: as one U+FFFD.
    rest = text[start + length :].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _ENDS, len(rest) if length else 0


@dataclass(frozen=True, eq=False)
class WordTable:
    """The automaton of words: the effect of each token in each row, and groups of tokens by effect.

    Attributes:
        num_after: Characters of a token after the word that ends within it, int32 (rows, V); 0 if none does.
        groups: 1 for tokens after which a word continues or may follow, and for those whose first character ends a
            word, float64 (rows, 2, V).
        following: Token ids of each row after which a word continues or may follow, or within which one ends, int32.
    """

    automaton: Automaton
    num_after: np.ndarray
    groups: np.ndarray
    following: list[np.ndarray]


@lru_cache(maxsize=16)
def word_table(tokenizer: Tokenizer, vocab_size: int) -> WordTable:
    """Return the table of a model's vocabulary; raise InvalidRequest if its tokens have no text of their own.

    Bytes of a character that a model writes as several tokens are part of a word.
    """
    tokens = tokenizer.token_bytes(first=False)
    if tokens is None:
        raise InvalidRequest("model must have tokens whose text does not depend on those beside them", param="model")
    table, num_after = np.full((BEGUN + 1, vocab_size), _NO_WORD, np.int32), np.zeros((BEGUN + 1, vocab_size), np.int32)
    for token_id, token in enumerate(tokens):
        if token and token_id not in tokenizer.textless_ids:
            text = token.decode("utf-8", "surrogateescape")
            for row in (BEFORE, WITHIN):
                table[row, token_id], num_after[row, token_id] = _classify(text, is_within=row == WITHIN)
    if tokenizer.special.end is not None:
        table[WITHIN, tokenizer.special.end] = _ENDS
    # A word that the prompt has begun may be complete.
    is_next = (table[WITHIN] == _ENDS) & (num_after[WITHIN] == 0)
    table[BEGUN] = np.where(is_next, table[BEFORE], table[WITHIN])
    num_after[BEGUN] = np.where(is_next, num_after[BEFORE], num_after[WITHIN])
    is_ending = (table == _ENDS) & (num_after == 0)
    groups = np.stack([(table == BEFORE) | (table == WITHIN), is_ending], axis=1).astype(np.float64)
    following = [np.flatnonzero(row).astype(np.int32) for row in (table != _NO_WORD) & ~is_ending]
    automaton = Automaton(table, *(np.zeros(size, np.int32) for size in (len(table), 0, len(table) + 1)))
    return WordTable(automaton, num_after, groups, following)


class WordSpace:
    """The words that may follow a text; a node's progress is its row, or for a whole word the characters to cut off.

    Attributes:
        explored: Probability of what the search has followed to the end of a word, or until no word can follow.
    """

    def __init__(self, table: WordTable) -> None:
        self._table, self.explored = table, 0.0

    def open(self, node: Node, logprobs: np.ndarray) -> tuple[np.ndarray, Node | None]:
        table, row = self._table, node.progress
        continuing, ending = (table.groups[row] @ np.exp(logprobs, dtype=np.float64)).tolist()
        if not node.is_expanded:
            self.explored += math.exp(node.logprob) * (1 - continuing)
        end = None
        if ending > 0:
            end = Node(node, logprob=node.logprob + math.log(ending), depth=node.depth, progress=0, is_complete=True)
        return table.following[row], end

    def extend(self, node: Node, token_id: int) -> tuple[int, bool]:
        num_after = int(self._table.num_after[node.progress, token_id])
        return (num_after, True) if num_after else (int(self._table.automaton.step(node.progress, token_id)), False)


class NextWordsProcessor:
    """Searches for the most probable words after one prompt."""

    def __init__(self, body: NextRequest, request: RunningRequest, begun: str, num_held_bytes: int) -> None:
        """`begun` is the word that the prompt ends with; `num_held_bytes` are held for prompt and response."""
        self.body, self.request, self._begun = body, request, begun
        self._expander = Expander(request, num_held_bytes, is_best_first=True)
        self._table = word_table(request.model.tokenizer, request.model.card.vocab_size)
        self._space = WordSpace(self._table)
        self.limit_reached = False

    @property
    def unexplored(self) -> float:
        """Probability of the continuations that the search has not followed to the end of a word."""
        return max(0.0, 1.0 - self._space.explored)

    def choices_to_submit(self) -> list[ChoiceIndex]:
        return [(0, 0)]

    def submit(self) -> None:
        self._root = Match(self._table.automaton, BEGUN if self._begun else BEFORE)
        self._expander.submit([self._root])

    def words(self) -> list[NextWord]:
        """Search; return up to `n` words, the most probable first; raise as `RunningRequest.results`."""
        (prompt,) = self.request.prompts
        expander = self._expander
        search = BestFirstSearch(self._space, partial(expander.expand, 0), self.body.max_tokens, expander.is_known)
        found: dict[str, NextWord] = {}
        for node in search.start(self._root.row):
            detokenizer = prompt.tokenizer.detokenizer(prompt.text)
            text = detokenizer.feed(node.token_ids) + detokenizer.flush()
            text = text[: len(text) - node.progress]
            next_word = NextWord(
                word=last_word(text, self._begun),
                text=text,
                probability=round(math.exp(node.logprob), DIGITS),
                logprob=round(node.logprob, DIGITS),
            )
            found.setdefault(text, next_word)
            if len(found) == self.body.n:
                break
        expander.charge()
        self.limit_reached = search.limit_reached
        return list(islice(found.values(), self.body.n))


def last_word(text: str, begun: str = "") -> str:
    """Return the word that a text ends with; if it is all of the text, it continues the one that has `begun`."""
    length = sum(1 for _ in takewhile(lambda it: _is_word(it, is_begun=True), reversed(text)))
    word = text[len(text) - length :]
    return (begun + word if length == len(text) else word).lstrip("'’")
