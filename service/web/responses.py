"""Response bodies in OpenAI's format, as one JSON object or as server-sent events.

The schemas are in `service.api.responses`, from which `/openapi.json` is generated.
"""

import base64
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import orjson

from contract.labels import STABLE
from service.api import responses
from service.errors import ClientGone, GatewayError, InternalError, Unauthorized, VersionGone
from service.generation.choice import TextDelta
from service.generation.hidden_states import EmbeddingProcessor
from service.generation.output_processor import OutputProcessor
from service.models.registry import ServedModel
from service.models.routing import Route

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
# The end of the constant prefix of every completion event.
_CHOICES = b'"choices":['


def sse(data: Any) -> bytes:
    """Encode one event, in UTF-8 (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


class CompletionResponse:
    """The response to one completion request; `failed` gets an error that becomes the last event of a stream."""

    def __init__(self, builder: OutputProcessor, failed: Callable[[GatewayError], None]) -> None:
        self._builder, self._request, self._failed = builder, builder.request, failed
        model = self._request.model
        self._head: dict[str, Any] = {
            "id": f"cmpl-{random.randbytes(16).hex()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.ref.name,
            "version": model.ref.version,
            "system_fingerprint": model.fingerprint,
            "seed": builder.seed,
        }
        self._prefix = self._event_prefix()
        self._tail = b', "prepend": true}]}\n\n' if builder.prepends else b"}]}\n\n"

    def whole(self) -> bytes:
        """Wait for every choice and return one object."""
        try:
            results = self._builder.results()
        except GatewayError as error:
            raise self._with_partial_output(error) from None
        self._update_fingerprint()
        choices = [_choice(result, self._builder.prompt_logprobs(result.index)) for result in results]
        return orjson.dumps({**self._head, "choices": choices, "usage": self._usage()})

    def events(self) -> Iterator[bytes]:
        """Yield server-sent events; an error becomes the last one, as the status has been sent already.

        The last events are yielded together: each chunk costs a system call and a switch between threads.
        """
        unsent = b""
        try:
            for delta in self._builder.client_deltas():
                self._update_fingerprint()
                unsent += self._event(delta)
                if not self._builder.is_finished:
                    yield unsent
                    unsent = b""
            if self._builder.body.stream_options.include_usage:
                unsent += sse({**self._head, "choices": [], "usage": self._usage()})
            yield unsent + DONE
        except GatewayError as error:
            yield unsent + self._error_event(self._with_partial_output(error))
        except Exception:
            log.exception("a stream failed")
            yield unsent + self._error_event(InternalError("internal error; see the gateway's log"))

    def _event_prefix(self) -> bytes:
        """Return the constant prefix of an event, up to its choice."""
        return b"data: " + orjson.dumps({**self._head, "choices": []})[: -len("]}")]

    def _update_fingerprint(self) -> None:
        """Update `system_fingerprint` once a backend that is not bit-exact with the model's own has been used."""
        fingerprint = self._request.fingerprint
        if self._head["system_fingerprint"] != fingerprint:
            self._head["system_fingerprint"] = fingerprint
            self._prefix = self._event_prefix()

    def _error_event(self, error: GatewayError) -> bytes:
        self._failed(error)
        event = sse(error.body())
        error.release()
        return event

    def _with_partial_output(self, error: GatewayError) -> GatewayError:
        """Attach the partial output to an error: a client with resume tokens can resume instead of starting again."""
        if not isinstance(error, ClientGone | Unauthorized):
            gone = isinstance(error, VersionGone)
            rest = self._builder.partial_outputs(with_resume_tokens=not gone)
            error.rest = {"choices": [_choice(each) for each in rest], "usage": self._usage()}
            if self._builder.body.return_state and not gone:
                error.should_retry = False
        return error

    def _event(self, delta: TextDelta) -> bytes:
        """Encode one text delta; with a resume token before the end, include the usage so far.

        Concatenated by hand: serializing the whole object was the most expensive step per chunk (9 µs of 40).
        """
        reason = b"null" if delta.finish_reason is None else b'"%b"' % delta.finish_reason.encode()
        # A dataclass, as an object of its fields; None as null.
        logprobs = orjson.dumps(delta.logprobs)
        # Not escaped: a resume token consists of letters, digits, - and _.
        state = b"" if delta.resume_token is None else b', "state": "%b"' % delta.resume_token.encode()
        prefix = self._prefix
        if state and delta.finish_reason is None:
            prefix = b'%b"usage":%b,%b' % (prefix[: -len(_CHOICES)], orjson.dumps(self._usage()), _CHOICES)
        return b'%b{"index": %d, "text": %b, "logprobs": %b, "finish_reason": %b%b%b' % (
            prefix,
            delta.index,
            orjson.dumps(delta.text),
            logprobs,
            reason,
            state,
            self._tail,
        )

    def _usage(self) -> responses.CompletionUsage:
        prompt, completion = self._request.num_prompt_tokens, self._request.num_completion_tokens
        usage: responses.CompletionUsage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self._request.num_cached_tokens},
        }
        if self._builder.num_rejected is not None:
            usage["rejected_choices"] = self._builder.num_rejected
        return usage


def _choice(result: TextDelta, prompt_logprobs: bytes | None = None) -> responses.ChoiceObject:
    choice: responses.ChoiceObject = {
        "index": result.index,
        "text": result.text,
        "logprobs": None if result.logprobs is None else cast("responses.LogprobsObject", vars(result.logprobs)),
        "finish_reason": result.finish_reason,
    }
    if prompt_logprobs is not None:
        choice["prompt_logprobs"] = cast("list[responses.PromptLogprobs | None]", orjson.Fragment(prompt_logprobs))
    return choice if result.resume_token is None else {**choice, "state": result.resume_token}


def embeddings_response(builder: EmbeddingProcessor) -> bytes:
    """Wait for every vector and return one object."""
    request, as_base64 = builder.request, builder.body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector}
        for index, vector in enumerate(builder.vectors())
    ]
    usage = {"prompt_tokens": request.num_prompt_tokens, "total_tokens": request.num_prompt_tokens}
    response = {
        "object": "list",
        "data": data,
        "model": request.model.ref.name,
        "version": request.model.ref.version,
        "system_fingerprint": request.fingerprint,
        "usage": usage,
    }
    return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def model_object(model: ServedModel, route: Route) -> responses.ModelObject:
    """Return the model object: one version, and the labels and traffic split of all.

    `max_model_len` is null: a recurrent model has no maximum sequence length.
    """
    card = model.card
    return {
        "id": model.ref.name,
        "object": "model",
        "created": card.created,
        "owned_by": "sostenuto",
        "root": model.ref.name,
        "max_model_len": None,
        "version": model.ref.version,
        "versions": [_version_object(version, route) for version in route.versions],
        "system_fingerprint": model.fingerprint,
        "cell": card.cell,
        "layers": card.layers,
        "units": card.units,
        "unit": card.unit,
        "direction": card.direction,
        "context": card.context,
        "vocab_size": card.vocab_size,
        "precision": model.batch_limits.precision,
        "batch_sizes": model.batch_limits.batch_sizes,
        "deterministic": model.is_deterministic,
    }


def _version_object(version: int, route: Route) -> responses.VersionObject:
    shares = route.shares or {route.stable: 1.0}
    labels = {**route.labels, STABLE: route.stable}
    return {
        "version": version,
        "labels": sorted(label for label, number in labels.items() if number == version),
        "share": shares.get(version, 0.0) / sum(shares.values()),
    }


def neighbors_object(
    model: ServedModel, token_id: int, neighbors: list[tuple[int, float]]
) -> responses.NeighborsObject:
    """Return the nearest neighbors of a token in the embedding."""
    label = model.tokenizer.detokenizer().label
    return {
        "object": "list",
        "model": model.ref.name,
        "version": model.ref.version,
        "token_id": token_id,
        "token": label(token_id),
        "data": [
            {"token_id": neighbor, "token": label(neighbor), "cosine": round(cosine, 6)}
            for neighbor, cosine in neighbors
        ],
    }


def embedding_map_object(
    model: ServedModel, token_ids: np.ndarray, plane: np.ndarray, explained: tuple[float, float]
) -> responses.EmbeddingMapObject:
    """Return the coordinates of tokens in the embedding map."""
    label = model.tokenizer.detokenizer().label
    return {
        "object": "embedding_map",
        "model": model.ref.name,
        "version": model.ref.version,
        "token_ids": token_ids.tolist(),
        "tokens": [label(token_id) for token_id in token_ids.tolist()],
        # Rounded as float64: a rounded float32 would be written with 17 digits.
        "x": plane[:, 0].astype(np.float64).round(5).tolist(),
        "y": plane[:, 1].astype(np.float64).round(5).tolist(),
        "explained": [round(share, 6) for share in explained],
    }


def vocabulary_page(model: ServedModel, token_ids: range) -> list[responses.VocabularyToken]:
    """Return the tokens with these ids."""
    label, textless = model.tokenizer.detokenizer().label, model.tokenizer.textless_ids
    return [{"token_id": i, "token": label(i), "special": i in textless} for i in token_ids]


def tokenizer_object(model: ServedModel) -> responses.TokenizerObject:
    """Return a model's tokenizer with the field names of Hugging Face's `tokenizer_config.json`."""
    tokens, special = model.tokenizer.tokens, model.tokenizer.special
    return {
        "tokenizer_class": type(model.tokenizer).__name__,
        "model": model.ref.name,
        "version": model.ref.version,
        "unit": model.tokenizer.unit,
        "vocab_size": len(tokens),
        "bos_token": tokens[special.start],
        "eos_token": None if special.end is None else tokens[special.end],
        "pad_token": tokens[special.padding],
        # Where nothing is unknown, or unknown characters are dropped, the tokenizer has the padding token's id for it.
        "unk_token": None if special.unknown == special.padding else tokens[special.unknown],
        "chat_template": None,
    }
