"""Automata: from a regular expression to an automaton over the tokens of a model.

`outlines-core` compiles the regular expression to an automaton over bytes, which is then walked by each token's bytes.
States from which no text of the model completes a match are removed. Pure: runs in the compiler's process.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TypeVar

import numpy as np
import outlines_core

from contract import signatures
from service.scheduling.sampling_inputs import FIRST_ROW, Automaton
from service.structured_outputs.regex_syntax import PatternError, as_group, tokenize

_NUM_BYTES = 256
# Before each expression; see `compile_bytes`.
_START = 1
# Tokens × states that are walked at once: 16 MiB of states.
_WALKED_AT_ONCE = 2**22
# Maximum states of an automaton over bytes for each of the one over tokens.
_MAX_BYTE_STATES = 8
State = TypeVar("State", bound=Hashable)
_FAR = np.iinfo(np.int32).max


@dataclass(frozen=True)
class TokenTexts:
    """The text of a model's tokens."""

    # UTF-8 bytes of each token at the beginning of the text; b"" for one that must not be sampled.
    first: tuple[bytes, ...]
    following: tuple[bytes, ...]  # the same after another token
    end_id: int | None  # the EOS token, or None
    vocab_size: int  # V of the model's output layer, at least the number of tokens
    backward: bool = False  # whether the model generates a text from its end


@dataclass(frozen=True)
class CompilationLimits:
    """Maximum states of an automaton, and maximum bytes of its transition table."""

    max_states: int
    max_bytes: int


@dataclass(frozen=True, eq=False)
class ByteAutomaton:
    """A deterministic automaton over bytes that starts in state 0."""

    next: np.ndarray  # int32 (states, 256): -1 where there is none
    accepts: np.ndarray  # bool (states,)


def compile_automaton(regexes: Sequence[str], texts: TokenTexts, limits: CompilationLimits) -> Automaton:
    """Compile regular expressions, all of which a text must match, to an automaton over tokens.

    Raises:
        PatternError: one is invalid, no text of the model matches, or a limit is exceeded.
    """
    automata = list(map(compile_bytes, regexes))
    try:
        return _combine(automata, texts, limits)
    except PatternError as error:
        error.is_combined = True
        raise


def _combine(automata: Sequence[ByteAutomaton], texts: TokenTexts, limits: CompilationLimits) -> Automaton:
    """Intersect automata over bytes to one over tokens; raise as `compile_automaton`."""
    by_byte = reduce(partial(_intersect, max_states=limits.max_states), automata)
    if texts.backward:
        by_byte = _reverse(by_byte, limits.max_states)
    automaton = _over_tokens(by_byte, texts, limits)
    if automaton is None:
        missing = ", ".join(map(repr, _missing_characters(by_byte, texts)))
        raise PatternError(
            f"needs characters that the model's vocabulary lacks, such as {missing}" if missing else "matches no text"
        )
    return automaton


def compile_bytes(regex: str) -> ByteAutomaton:
    """Compile a regular expression to an automaton over the bytes of the texts that it matches.

    The library searches from anywhere in a text, and up to the first match in order of preference. Alone, a|ab would
    match a only, and `.{20,60}` would take minutes. So the end of the text is part of the expression, and the empty
    alternative matches where a search begins, so that none begins elsewhere. Its match is noted one byte late, and the
    library drops states with one unless the text may end there: hence two bytes before the expression, of which the
    first leads to a state where it may.

    Raises:
        PatternError: it is invalid, or no automaton can express it.
    """
    whole = as_group(tokenize(regex))
    vocabulary = outlines_core.Vocabulary(_NUM_BYTES, {bytes([byte]): [byte] for byte in range(_NUM_BYTES)})
    try:
        index = outlines_core.Index(rf"(?:\x{_START:02}(?:\x{_START:02}{whole}\z|\z)|)", vocabulary)
    except ValueError as error:
        raise PatternError(_explain(str(error))) from error
    transitions, finals = index.get_transitions(), index.get_final_states()

    def followers(state: int) -> Iterator[tuple[int, int]]:
        # The library's end of a text has a number above those of the bytes.
        return (item for item in sorted(transitions.get(state, {}).items()) if item[0] < _NUM_BYTES)

    before = transitions[index.get_initial_state()][_START]
    if _START not in transitions[before]:
        raise PatternError("matches no text")
    table, states = _number(transitions[before][_START], followers)
    return ByteAutomaton(table, np.array([state in finals for state in states]))


def _number(
    start: State, followers: Callable[[State], Iterable[tuple[int, State]]], max_states: int | None = None
) -> tuple[np.ndarray, list[State]]:
    """Number the states that bytes reach, breadth first in the order of the bytes: equal in every process.

    `followers` returns the bytes after a state, ascending, and the state after each. Returns the number of the state
    after each byte, int32 (states, 256), -1 where there is none; and the states.

    Raises:
        PatternError: the automaton over tokens would certainly have more than `max_states` (None: no limit);
            characters outside ASCII have some between their bytes.
    """
    numbers, states, rows = {start: 0}, [start], []
    for state in states:
        row = np.full(_NUM_BYTES, -1, np.int32)
        for byte, following in followers(state):
            if following not in numbers:
                numbers[following] = len(numbers)
                states.append(following)
            row[byte] = numbers[following]
        rows.append(row)
        if max_states is not None and len(states) > max_states * _MAX_BYTE_STATES:
            raise PatternError(f"must have at most {max_states} states, got more")
    return np.stack(rows), states


def _explain(message: str) -> str:
    if "incompatible with the regex" in message:
        return "matches no text"
    if "error building NFA" in message:
        return (
            "is not a valid regular expression: it nests too deeply, has too large a number, or matches invalid UTF-8"
        )
    return f"is not supported: {message.splitlines()[0][:200]}"


def _intersect(left: ByteAutomaton, right: ByteAutomaton, max_states: int) -> ByteAutomaton:
    """Return the automaton of the texts that both match: its states are pairs (Rabin and Scott 1959, theorem 5)."""

    def followers(pair: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
        left_row, right_row = left.next[pair[0]], right.next[pair[1]]
        for byte in np.flatnonzero((left_row >= 0) & (right_row >= 0)).tolist():
            yield byte, (int(left_row[byte]), int(right_row[byte]))

    table, pairs = _number((0, 0), followers, max_states)
    accepts = [left.accepts[left_state] and right.accepts[right_state] for left_state, right_state in pairs]
    return ByteAutomaton(table, np.array(accepts))


def _reverse(automaton: ByteAutomaton, max_states: int) -> ByteAutomaton:
    """Return the automaton of the reversed texts (Rabin and Scott 1959, theorem 12)."""
    sources, byte_values = np.nonzero(automaton.next >= 0)
    predecessors: dict[int, dict[int, list[int]]] = {}
    for source, byte in zip(sources.tolist(), byte_values.tolist(), strict=True):
        predecessors.setdefault(int(automaton.next[source, byte]), {}).setdefault(byte, []).append(source)

    def followers(states: frozenset[int]) -> Iterator[tuple[int, frozenset[int]]]:
        by_byte: dict[int, set[int]] = {}
        for state in states:
            for byte, before in predecessors.get(state, {}).items():
                by_byte.setdefault(byte, set()).update(before)
        return ((byte, frozenset(before)) for byte, before in sorted(by_byte.items()))

    start = frozenset(np.flatnonzero(automaton.accepts).tolist())
    table, subsets = _number(start, followers, max_states)
    return ByteAutomaton(table, np.array([0 in states for states in subsets]))


def _over_tokens(by_byte: ByteAutomaton, texts: TokenTexts, limits: CompilationLimits) -> Automaton | None:
    """Return the automaton over tokens, with the states that tokens reach and a separate initial state.

    None if no text of the tokens matches.
    """
    first, following = (_Trie.of(tokens, backward=texts.backward) for tokens in (texts.first, texts.following))
    # With a dead state at the end.
    num_dead = len(by_byte.next)
    table = np.full((num_dead + 1, _NUM_BYTES), num_dead, np.int32)
    table[:-1] = np.where(by_byte.next < 0, num_dead, by_byte.next)
    blocks = [first.walk(table, np.zeros(1, np.int32))]
    is_known = np.zeros(num_dead + 1, bool)
    is_known[num_dead] = True
    states: list[np.ndarray] = []
    frontier = _unknown(blocks[0], is_known)
    chunk = max(1, _WALKED_AT_ONCE // max(1, following.size))
    while frontier.size:
        states.append(frontier)
        _require(1 + sum(map(len, states)), texts.vocab_size, limits)
        reached = [following.walk(table, frontier[at : at + chunk]) for at in range(0, len(frontier), chunk)]
        blocks += reached
        frontier = np.unique(np.concatenate([_unknown(block, is_known) for block in reached]))
    order = np.concatenate([np.zeros(0, np.int32), *states])
    # Maps the byte automaton's states to nodes: node 0 is the beginning.
    nodes = np.full(num_dead + 1, -1, np.int32)
    nodes[order] = np.arange(1, len(order) + 1, dtype=np.int32)
    reached_nodes = nodes[np.concatenate(blocks)]
    accepts = np.concatenate([by_byte.accepts[:1], by_byte.accepts[order]])
    return _finish(reached_nodes, accepts, texts)


@dataclass(frozen=True)
class _Trie:
    """The bytes of all tokens in the order of generation, as a trie: tokens share the walk of a common beginning."""

    # For each depth the parents of its nodes, their numbers within the depth before, and their bytes; int32.
    levels: tuple[tuple[np.ndarray, np.ndarray], ...]
    # For each depth the tokens that end there, and their nodes; int32.
    tokens: tuple[tuple[np.ndarray, np.ndarray], ...]
    num_tokens: int

    @classmethod
    def of(cls, tokens: Sequence[bytes], *, backward: bool) -> "_Trie":
        """Build the trie; a token without bytes is not in it."""
        ordered = [token[::-1] if backward else token for token in tokens]
        levels: list[tuple[np.ndarray, np.ndarray]] = []
        ends: list[tuple[np.ndarray, np.ndarray]] = []
        parents = {b"": 0}
        # Those that go on: scanning all at each depth would take seconds if one token is a long text.
        longer = [(number, token) for number, token in enumerate(ordered) if token]
        while longer:
            depth = len(levels) + 1
            prefixes = dict.fromkeys(token[:depth] for _, token in longer)
            nodes = {prefix: number for number, prefix in enumerate(prefixes)}
            levels.append(
                (
                    np.array([parents[prefix[:-1]] for prefix in nodes], np.int32),
                    np.array([prefix[-1] for prefix in nodes], np.int32),
                )
            )
            ended = [(number, nodes[token]) for number, token in longer if len(token) == depth]
            ends.append((np.array([i for i, _ in ended], np.int32), np.array([node for _, node in ended], np.int32)))
            parents = nodes
            longer = [(number, token) for number, token in longer if len(token) > depth]
        return cls(tuple(levels), tuple(ends), len(tokens))

    @property
    def size(self) -> int:
        """Its largest number of nodes at one depth, or of tokens."""
        return max([self.num_tokens, *(len(byte_values) for _, byte_values in self.levels)])

    def walk(self, table: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Return the state after each token from each state, int32 (states, tokens).

        `table` is the state after each byte, int32 (states, 256); its last state is dead, and a token without bytes
        leads to it.
        """
        reached = np.full((len(states), self.num_tokens), len(table) - 1, np.int32)
        at_nodes = states[:, None]
        for (parents, byte_values), (token_ids, nodes) in zip(self.levels, self.tokens, strict=True):
            at_nodes = table[at_nodes[:, parents], byte_values]
            reached[:, token_ids] = at_nodes[:, nodes]
        return reached


def _unknown(block: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Return the new states of a block, and note them as known."""
    states: np.ndarray = np.unique(block)
    states = states[~is_known[states]]
    is_known[states] = True
    return states


def _require(num_states: int, vocab_size: int, limits: CompilationLimits) -> None:
    max_states = min(limits.max_states, signatures.MAX_ROWS - FIRST_ROW - 1)
    if num_states > max_states:
        raise PatternError(f"must have at most {max_states} states, got more")
    num_bytes = (num_states + FIRST_ROW) * vocab_size * 4
    if num_bytes > limits.max_bytes:
        raise PatternError(
            f"must need at most {limits.max_bytes} bytes for its states × {vocab_size} tokens, got {num_bytes} or more"
        )


def _finish(following: np.ndarray, accepts: np.ndarray, texts: TokenTexts) -> Automaton | None:
    """Remove states without a way to a match, number the others as rows and encode the table.

    `following` is the node after each token, int32 (nodes, tokens), -1 where there is none.
    """
    distances = _distances(following, accepts)
    if distances[0] == _FAR:
        return None
    if distances.max(where=distances < _FAR, initial=0) >= signatures.FORBIDDEN_DISTANCE - signatures.MAX_DECODE_STEPS:
        raise PatternError("needs too many tokens to be completed")
    following = np.where((following >= 0) & (distances[following] < _FAR), following, -1)
    has_next = np.any(following >= 0, axis=1)
    if not has_next[0]:
        raise PatternError("matches the empty text only")
    # A match that cannot be extended is the final row.
    kept = np.flatnonzero((distances < _FAR) & has_next)
    rows = np.full(len(distances), signatures.FINAL_ROW, np.int32)
    rows[kept] = np.arange(FIRST_ROW, FIRST_ROW + len(kept), dtype=np.int32)
    table = np.full((FIRST_ROW + len(kept), texts.vocab_size), signatures.FORBIDDEN, np.int32)
    table[signatures.UNCONSTRAINED_ROW] = signatures.UNCONSTRAINED_ROW
    after = following[kept]
    entries = distances[after] << signatures.ROW_BITS | rows[after]
    table[FIRST_ROW:, : after.shape[1]] = np.where(after >= 0, entries, signatures.FORBIDDEN)
    if texts.end_id is not None:
        # The EOS token completes a match.
        table[FIRST_ROW:, texts.end_id] = np.where(accepts[kept], signatures.FINAL_ROW, signatures.FORBIDDEN)
    # One token more than the nearest of the rows that follow; unlike a distance, never 0.
    nearest = np.where(after >= 0, distances[after], _FAR).min(axis=1) + 1
    fixed = [0, signatures.NO_CONTINUATION]
    return Automaton(table, np.concatenate([fixed, nearest]).astype(np.int32), *_successors(table))


def _distances(following: np.ndarray, accepts: np.ndarray) -> np.ndarray:
    """Return the minimum number of tokens from each node to an accepting one, int32 (nodes,); `_FAR`: none."""
    sources, targets = _edges(following)
    by_target = np.argsort(targets, kind="stable")
    sources, starts = sources[by_target], np.searchsorted(targets[by_target], np.arange(len(accepts) + 1))
    distances = np.where(accepts, 0, _FAR).astype(np.int32)
    frontier, distance = np.flatnonzero(accepts), 0
    while frontier.size:
        distance += 1
        spans = zip(starts[frontier], starts[frontier + 1], strict=True)
        before = np.unique(np.concatenate([sources[start:end] for start, end in spans]))
        frontier = before[distances[before] == _FAR]
        distances[frontier] = distance
    return distances


def _edges(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct pairs of a node and one after it, ascending."""
    num_nodes, sources, targets = len(following), [], []
    chunk = max(1, _WALKED_AT_ONCE // (num_nodes + 1))
    for start in range(0, num_nodes, chunk):
        rows = following[start : start + chunk]
        # Scattering is ten times as fast as sorting; -1 is the last column.
        follows = np.zeros((len(rows), num_nodes + 1), bool)
        follows[np.arange(len(rows))[:, None], rows] = True
        row, column = np.nonzero(follows[:, :-1])
        sources.append(row.astype(np.int32) + start)
        targets.append(column.astype(np.int32))
    return np.concatenate(sources), np.concatenate(targets)


def _successors(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `successors` and `first_successor` of an automaton."""
    following = np.where(table == signatures.FORBIDDEN, -1, table & (signatures.MAX_ROWS - 1))
    following[:FIRST_ROW] = -1
    sources, targets = _edges(np.where(following >= FIRST_ROW, following, -1))
    return targets.astype(np.int32), np.searchsorted(sources, np.arange(len(table) + 1)).astype(np.int32)


def _missing_characters(by_byte: ByteAutomaton, texts: TokenTexts) -> list[str]:
    """Return the characters of a shortest match that no token has, in order; [] if nothing matches."""
    distances = _distances(by_byte.next, by_byte.accepts)
    if distances[0] == _FAR:
        return []
    state, content = 0, bytearray()
    while distances[state]:
        following = by_byte.next[state]
        byte = int(np.flatnonzero((following >= 0) & (distances[following] == distances[state] - 1))[0])
        content.append(byte)
        state = following[byte]
    match = bytes(content[::-1] if texts.backward else content).decode("utf-8", "replace")
    known = set("".join(token.decode("utf-8", "ignore") for token in (*texts.first, *texts.following)))
    return [character for character in dict.fromkeys(match) if character not in known][:5]
