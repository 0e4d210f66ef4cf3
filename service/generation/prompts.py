"""Prompts: text or token ids from the client, encoded once for all choices, within limits of tokens and memory.

Lengths are first checked in characters, as encoding takes ten times the memory of a text and up to a second.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from typing import Self

import numpy as np
import orjson

from contract import signatures
from contract.label_columns import LabelColumn, opening_ids
from contract.tokenizers import Detokenizer, Tokenizer
from service.api.body import require, shorten
from service.api.requests import PromptText
from service.errors import InvalidRequest
from service.generation.logprobs import Logprobs, PendingLogprobs, TokenScore, token_scores
from service.memory import MemoryLease
from service.models.registry import ServedModel
from service.scheduling.sequence import Scores
from service.settings import Settings

NO_IDS = np.zeros(0, np.int32)
# Unread tokens that a resume token may add to a prompt of the maximum length: those of one call, and the last one.
MAX_UNREAD = 129
# Names in a message.
MAX_LISTED = 50
# A token id in the request: its list entry and the object.
_GIVEN_ID_BYTES = 40


@dataclass(frozen=True)
class EncodedPrompt:
    """The tokens before the generated text, or after it for a backward model."""

    text: str  # the client's text, or that of the client's token ids
    ids: np.ndarray  # int32 (tokens,): its tokens, in reading order; empty for an empty prompt
    given_as_text: bool  # whether the client sent text
    tokenizer: Tokenizer
    backward: bool  # whether the model reads it from right to left
    # int32 (tokens,), read first: a checkpoint's unread tokens, or the start token and labels of a text.
    prefix_ids: np.ndarray

    @classmethod
    def of(cls, prompt: PromptText, tokenizer: Tokenizer, *, backward: bool, prefix_ids: np.ndarray = NO_IDS) -> Self:
        """Encode a text independently of what precedes it, or take token ids unchanged."""
        if isinstance(prompt, str):
            text, ids, is_text = prompt, tokenizer.encode(prompt), True
        else:
            text, ids, is_text = tokenizer.decode(prompt), prompt, False
        # In a list each id may take 40 bytes, and a queued prompt may have 131,072 of them.
        return cls(text, np.array(ids, np.int32), is_text, tokenizer, backward, prefix_ids)

    @property
    def is_empty(self) -> bool:
        return not self.text and not self.ids.size

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the client's usage: the BOS token of an empty prompt does not count."""
        return len(self.ids)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes while its request runs."""
        return sys.getsizeof(self.text) + self.ids.nbytes + self.input_ids.nbytes

    @cached_property
    def input_ids(self) -> np.ndarray:
        """The model's input, int32 (tokens,), in the model's direction; the BOS token if it would be empty."""
        if self.prefix_ids.size:
            return np.concatenate([self.prefix_ids, self._ids_in_model_order])
        return self._ids_in_model_order if self.ids.size else np.array([self.tokenizer.special.start], np.int32)

    @cached_property
    def seen_ids(self) -> np.ndarray:
        """Unique ids of `input_ids`, int32."""
        return np.unique(self.input_ids)

    def logprobs(self, scores: Sequence[Scores], num_top: int) -> Logprobs:
        """Return its log probabilities in reading order, with `num_top` most probable tokens for each.

        `scores` are of all `input_ids` but the first.
        """
        if not self.ids.size:
            return Logprobs()
        pending, detokenizer = PendingLogprobs(backward=self.backward), self._detokenizer()
        for token_id, score in self._scored(scores, num_top):
            pending.add(token_id, score, detokenizer.label)
            pending.place(*detokenizer.track(token_id))
        pending.place(*detokenizer.track(None))
        logprobs = pending.take(pending.length, last=True)
        logprobs = logprobs.mirrored(pending.length) if self.backward else logprobs
        if self.given_as_text:
            logprobs.text_offset = self.tokenizer.offsets(self.text)
            self._show_unknown_text(logprobs)
        return logprobs

    def _show_unknown_text(self, logprobs: Logprobs) -> None:
        """Replace the unknown token's name with the text it stands for, if the joined tokens then equal the text."""
        offsets, tokens = logprobs.text_offset, logprobs.tokens
        unknown = np.flatnonzero(self.ids == self.tokenizer.special.unknown).tolist()
        sources = {i: self.text[offsets[i] : offsets[i + 1] if i + 1 < len(offsets) else None] for i in unknown}
        if not sources or "".join([sources.get(i, token) for i, token in enumerate(tokens)]) != self.text:
            return
        for i, source in sources.items():
            top, tokens[i], name = logprobs.top_logprobs[i], source, tokens[i]
            if top is not None:
                top[source] = top.pop(name)

    def logprobs_json(self, scores: Sequence[Scores], num_top: int) -> bytes:
        """Return vLLM's `prompt_logprobs` in reading order; the arguments are those of `logprobs`.

        Each is an object by token id: first the token itself, then the most probable tokens at its position. A rank
        beyond those that the model returns is null.
        """
        entries, detokenizer = [], self._detokenizer()
        for token_id, score in self._scored(scores, signatures.NUM_TOP) if self.ids.size else ():
            by_id = None
            if score is not None:
                logprob, top_ids, tops = score
                ranks = {top_id: rank for rank, top_id in enumerate(top_ids, 1)}
                top = list(zip(top_ids, tops, strict=True))[:num_top]
                others = [(top_id, value) for top_id, value in top if top_id != token_id]
                by_id = {
                    str(i): {"logprob": value, "rank": ranks.get(i), "decoded_token": detokenizer.label(i)}
                    for i, value in [(token_id, logprob), *others]
                }
            # Encoded at once: Python objects take ten times the memory. A copy: orjson's own object keeps its buffer of
            # some kilobytes.
            entries.append(bytes(memoryview(orjson.dumps(by_id))))
            detokenizer.track(token_id)
        return b"[%b]" % b",".join(entries[::-1] if self.backward else entries)

    def _scored(self, scores: Sequence[Scores], num_top: int) -> Iterator[tuple[int, TokenScore | None]]:
        """Yield each token in the model's order with its score, which the first token of a text does not have."""
        ids, num_scores = self._ids_in_model_order.tolist(), 1 + sum(len(part.logprobs) for part in scores)
        every_score: Iterator[TokenScore | None] = chain([None], *(token_scores(part, num_top) for part in scores))
        # Those of the tokens before it are skipped.
        return zip(ids, islice(every_score, num_scores - len(ids), None), strict=True)

    def _detokenizer(self) -> Detokenizer:
        return self.tokenizer.detokenizer(backward=self.backward)

    @property
    def _ids_in_model_order(self) -> np.ndarray:
        return self.ids[::-1] if self.backward else self.ids


def require_encodable(raw_prompts: Sequence[PromptText], model: ServedModel, field: str, settings: Settings) -> int:
    """Return the minimum number of tokens; raise InvalidRequest for too many, or for ids that a model lacks."""
    minimums = []
    for prompt in raw_prompts:
        minimums.append(min_tokens(prompt, model))
        is_exact = isinstance(prompt, list) or model.tokenizer.max_token_characters == 1
        require_at_most(minimums[-1], settings.max_prompt_tokens, field, "" if is_exact else "at least ")
        if isinstance(prompt, list):
            require_ids(prompt, model, field)
    require_at_most(sum(minimums), settings.max_queued_tokens, field, "at least ", " in all")
    return sum(minimums)


def encode_prompts(
    raw_prompts: Sequence[PromptText],
    model: ServedModel,
    field: str,
    settings: Settings,
    memory: MemoryLease,
    *,
    prefix_ids: np.ndarray = NO_IDS,
    backward: bool,
    held: int = 0,
) -> list[EncodedPrompt]:
    """Encode prompts that `require_encodable` accepted, one by one until they exceed a limit.

    `memory` covers encoding, the prompts encoded so far, and `held` bytes. `prefix_ids`, int32 (tokens,), precede each
    prompt.

    Raises:
        InvalidRequest: they have too many tokens, or need more memory than the whole budget.
        MemoryExhausted: other requests hold too much memory.
    """
    prompts: list[EncodedPrompt] = []
    held, total, limit = held + prompt_bytes(raw_prompts), 0, settings.max_prompt_tokens
    for raw_prompt in raw_prompts:
        memory.hold(held + encoding_bytes(raw_prompt, model), field, param=field)
        prompt = EncodedPrompt.of(raw_prompt, model.tokenizer, backward=backward, prefix_ids=prefix_ids)
        if not prompt.ids.size and not prefix_ids.size and model.card.label_columns:
            prompt = replace(prompt, prefix_ids=encode_labels({}, model))
        prompts.append(prompt)
        held, total = held + prompt.num_bytes, total + prompt.num_tokens
        require_at_most(prompt.num_tokens, limit, field)
        if len(prompt.input_ids) > limit + MAX_UNREAD:
            rule = f"{field} and the unprocessed tokens of state must be at most {limit + MAX_UNREAD} tokens"
            raise InvalidRequest(f"{rule}, got {prompt.num_tokens} and {len(prefix_ids)}", param=field)
        require_at_most(total, settings.max_queued_tokens, field, "at least ", " in all")
    return prompts


def encode_labels(labels: Mapping[str, str], model: ServedModel) -> np.ndarray:
    """Return the tokens before the beginning of a text with these labels, int32 (tokens,).

    Raises:
        InvalidRequest: the model has no such column, or the column no such label.
    """
    columns, name = {column.name: column for column in model.card.label_columns}, model.ref.name
    if labels and not columns:
        raise InvalidRequest(
            f"labels must be absent: version {model.ref.number} of model {name!r} was trained without", param="labels"
        )
    for column_name in labels:
        rule = f"have columns of model {name!r}, which are {_listed([*columns])}"
        require(column_name in columns, "labels", rule, column_name)
    known = {column_name: _find_label(columns[column_name], label) for column_name, label in labels.items()}
    return np.array(opening_ids(model.tokenizer, model.card.label_columns, known), np.int32)


def _find_label(column: LabelColumn, given: str) -> str:
    found = column.find(given)
    if found is None:
        number = "" if column.bounds is None else "a number, or "
        rule = f"labels.{column.name} must be {number}one of {_listed(column.values)}"
        raise InvalidRequest(f"{rule}; got {shorten(given)}", param="labels")
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def prompt_bytes(prompts: Sequence[PromptText]) -> int:
    """Return the size of prompts before encoding, in bytes."""
    return sum(
        sys.getsizeof(prompt) if isinstance(prompt, str) else _GIVEN_ID_BYTES * len(prompt) for prompt in prompts
    )


def min_tokens(prompt: PromptText, model: ServedModel) -> int:
    """Return the minimum number of tokens of a prompt, without encoding it."""
    max_characters = 1 if isinstance(prompt, list) else model.tokenizer.max_token_characters
    return 0 if max_characters is None else -(-len(prompt) // max_characters)


def encoding_bytes(prompt: PromptText, model: ServedModel) -> int:
    """Return the maximum memory for encoding a text, or for decoding ids that the model has."""
    tokenizer = model.tokenizer
    if isinstance(prompt, list):
        # A list of the tokens' texts, and up to 4 bytes a character, joined from bytes.
        return 8 * len(prompt) + 8 * sum(len(tokenizer.tokens[i]) for i in prompt)
    num_bytes = len(prompt) if prompt.isascii() else len(prompt.encode("utf-8", "surrogatepass"))
    return tokenizer.encoding_bytes(num_bytes)


def require_ids(token_ids: list[int], model: ServedModel, field: str) -> None:
    """Refuse ids that the model does not have; the message names field, limit and value."""
    vocab_size = len(model.tokenizer.tokens)
    largest = max(token_ids, default=0)
    require(largest < vocab_size, field, f"have token ids below {vocab_size}", largest)


def require_at_most(num_tokens: int, limit: int, field: str, qualifier: str = "", total: str = "") -> None:
    require(num_tokens <= limit, field, f"be at most {limit} tokens{total}, got {qualifier}{num_tokens}")
