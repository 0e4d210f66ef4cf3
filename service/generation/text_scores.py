"""Scores of texts: the surprisal of each token, -log p in nats, and its sum, means and percentile."""

import secrets
from dataclasses import replace
from typing import Any

import numpy as np

from contract import signatures
from service.api.body import require
from service.api.requests import SEED_BITS, ScoreRequest
from service.generation.logprobs import DIGITS, LOGPROBS_BYTES
from service.generation.prompts import NO_IDS, EncodedPrompt, encode_labels
from service.generation.resume_tokens import Checkpoint, ResumeTokens
from service.generation.running_request import RunningRequest
from service.scheduling.sequence import ChoiceIndex, Scores, Sequence

# The score of a text, as an object and as JSON.
_SCORE_BYTES = 1000


class ScoreProcessor:
    """Scores texts: each by itself, or, with `carry_state`, as parts of one text that a single sequence reads."""

    # Scores the same texts with the model of `ratio_to`.
    reference: "ScoreProcessor | None" = None

    def __init__(self, body: ScoreRequest, request: RunningRequest, resume_tokens: ResumeTokens) -> None:
        """Refuse a body that does not suit the request's model; its prompts are encoded before `lay_out`."""
        model, card, special = request.model, request.model.card, request.model.tokenizer.special
        self.request, self.body, self._resume_tokens = request, body, resume_tokens
        # First: labels that the model lacks would also be a reason for `whole`.
        opening = encode_labels(body.labels, model)
        self.is_whole = card.has_short_documents or bool(body.labels) if body.whole is None else body.whole
        name = repr(model.ref.name)
        knows_ends = not self.is_whole or special.end is not None
        require(knows_ends, "whole", f"be false for model {name}, which was not trained on documents")
        is_forward = not (body.carry_state and model.backward)
        require(is_forward, "carry_state", f"be false for model {name}, which reads a text from its end")
        rule = f"be absent {'with carry_state' if body.carry_state else 'without whole'}"
        require(not body.labels or (self.is_whole and not body.carry_state), "labels", rule)
        # Tokens before a whole text, int32 (tokens,), and after it, (1,); both (0,) if texts are not whole.
        self.start = opening if self.is_whole else NO_IDS
        self.end = np.array([special.end] if self.is_whole else [], np.int32)
        # The labels of joined texts, which the model reads after the end of each but the last, int32 (columns,).
        before = request.checkpoint
        self._label_ids = before.label_ids if before else tuple(encode_labels({}, model)[1:].tolist())
        self._between = np.array(self._label_ids if self.is_whole else (), np.int32)
        # After joined texts, float32 (S,), without the last token.
        self._state = request.initial_state

    def lay_out(self) -> None:
        """Lay out the inputs of the sequences. A request with joined texts has one prompt from then on."""
        request, end = self.request, self.end
        self.texts = request.prompts
        if self.body.carry_state:
            parts = [part for text in self.texts for part in (text.ids, end, self._between)]
            num_last = end.size + self._between.size
            request.prompts = [replace(self.texts[0], ids=np.concatenate(parts)[: -num_last or None])]
        self._inputs = [np.concatenate([prompt.input_ids, end]) for prompt in request.prompts]
        # What it takes until the end of the request, its part of the response included: a float32 per token in results,
        # and lists and JSON.
        self.num_bytes = len(self.texts) * _SCORE_BYTES
        self.num_bytes += request.num_prompt_tokens * (8 + self.body.tokens * LOGPROBS_BYTES)
        self.num_bytes += sum(text.num_bytes for text in self.texts) + 2 * sum(ids.nbytes for ids in self._inputs)

    @property
    def choices(self) -> list[ChoiceIndex]:
        """The sequences sorted by length, as a batch takes as long as its longest."""
        lengths = [ids.size for ids in self._inputs]
        # One token has no predecessor: there is nothing to compute.
        scored = [number for number, length in enumerate(lengths) if length > 1]
        return [(number, 0) for number in sorted(scored, key=lengths.__getitem__, reverse=True)]

    def create(self, indexes: list[ChoiceIndex]) -> list[Sequence]:
        """Create the sequences of texts. They are not cached: their states would crowd out those of prompts."""
        return [
            self.request.new_sequence(
                index,
                prompt_ids=self._inputs[index[0]],
                cache_namespace=None,
                prefill_signature=signatures.SCORE,
                returns_state=self.body.carry_state,
            )
            for index in indexes
        ]

    def surprisals(self) -> list[np.ndarray]:
        """Wait for every text; return the surprisals of its tokens and its EOS token, float64 (≤ tokens + 1,).

        They are in the model's order, without a first token that has no predecessor. Raises as
        `RunningRequest.results`.
        """
        parts: list[list[np.ndarray]] = [[np.zeros(0, np.float32)] for _ in self._inputs]
        for result in self.request.results(self.create):
            assert result.scores is not None, "score returns scores"
            parts[result.index[0]].append(result.scores.logprobs)
            if result.is_prefilled:
                self.request.finish(result.index)
                self._state = self._state if result.state is None else result.state
        found = [0.0 - np.concatenate(part).astype(np.float64) for part in parts]
        if not self.body.carry_state:
            # Without the scores of labels.
            lengths = (text.ids.size + self.end.size for text in self.texts)
            return [scores[max(0, scores.size - length) :] for scores, length in zip(found, lengths, strict=True)]
        num_labels = self._between.size
        ends = np.cumsum([text.ids.size + self.end.size + num_labels for text in self.texts]) - num_labels
        # A checkpoint may have several unread tokens, whose scores belong to no text. Without one, and without a BOS
        # token, the first token has no score.
        scores = found[0][max(0, found[0].size - ends[-1]) :]
        first, *others = np.split(scores, np.maximum(0, ends[:-1] - ends[-1] + scores.size))
        return [first, *(part[num_labels:] for part in others)]

    def resume_token(self) -> str:
        """Return a resume token for the point after joined texts, once they are scored."""
        before, model = self.request.checkpoint, self.request.model
        detokenizer, held_back = model.tokenizer.detokenizer("".join(text.text for text in self.texts)), ""
        if before and all(text.is_empty for text in self.texts) and not self.end.size:
            detokenizer.restore(before.detokenizer)
            held_back = before.held_back
        elif before:
            ended = model.tokenizer.detokenizer()
            ended.restore(before.detokenizer)
            # A completion returns it first.
            held_back = before.held_back + ended.flush()
        checkpoint = Checkpoint(
            model=model.ref,
            weights_sha256=model.card.weights_sha256,
            state=self._state,
            unread_ids=self._inputs[0][-1:],
            num_sampled=before.num_sampled if before else 0,
            seed=before.seed if before else secrets.randbits(SEED_BITS),
            random_stream=before.random_stream if before else 0,
            detokenizer=detokenizer.save(),
            held_back=held_back,
            token_counts=before.token_counts if before else None,
            label_ids=self._label_ids,
        )
        return self._resume_tokens.seal(checkpoint, self.request.context.tenant)

    def num_characters(self, text: EncodedPrompt, num_scored: int) -> int:
        """Return the characters of the scored tokens; the EOS token counts as one."""
        if num_scored == text.num_tokens + self.end.size:
            return len(text.text) + self.end.size
        return len(text.text) - text.tokenizer.first_length(text.text, backward=text.backward)

    def results(self) -> list[dict[str, Any]]:
        """Wait for every text, and return its `ScoreObject`; raise as `RunningRequest.results`."""
        surprisals = self.surprisals()
        others = self.reference.surprisals() if self.reference else [None] * len(surprisals)
        return [
            self._score(index, text, own, other)
            for index, (text, own, other) in enumerate(zip(self.texts, surprisals, others, strict=True))
        ]

    def _score(self, index: int, text: EncodedPrompt, own: np.ndarray, other: np.ndarray | None) -> dict[str, Any]:
        nats = float(own.sum())
        num_characters = self.num_characters(text, own.size) if own.size else 0
        per_character = nats / num_characters if num_characters else None
        percentile, held_out = None, self.request.model.card.held_out_scores
        is_alike = held_out is not None and self.is_whole == (held_out.kind == "documents")
        is_comparable = is_alike and not (self.body.carry_state or self.body.labels)
        if held_out is not None and is_comparable and per_character is not None:
            percentile = round(float(np.interp(per_character, held_out.quantiles, np.arange(101))), 3)
        return {
            "object": "score",
            "index": index,
            "nats": round(nats, DIGITS),
            "nats_per_token": round(nats / own.size, DIGITS) if own.size else None,
            "nats_per_character": None if per_character is None else round(per_character, DIGITS),
            "num_tokens": own.size,
            "percentile": percentile,
            **({} if other is None else {"ratio": round(float(other.sum()) - nats, DIGITS)}),
            **(self._tokens(text, own) if self.body.tokens else {}),
        }

    def _tokens(self, text: EncodedPrompt, own: np.ndarray) -> dict[str, Any]:
        """Return the tokens in reading order; a backward model reads the EOS token last, before the first of them."""
        end = self.end
        logprobs = text.logprobs([Scores(-own[: own.size - end.size])], 0)
        columns = {
            "tokens": logprobs.tokens,
            "surprisals": [None if value is None else 0.0 - value for value in logprobs.token_logprobs],
            "text_offset": logprobs.text_offset,
        }
        if end.size:
            name, at = text.tokenizer.tokens[int(end[0])], 0 if text.backward else len(logprobs.tokens)
            ended = (name, round(float(own[-1]), DIGITS), 0 if text.backward else len(text.text))
            for column, value in zip(columns.values(), ended, strict=True):
                column.insert(at, value)  # type: ignore[attr-defined]
        return columns
