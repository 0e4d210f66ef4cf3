"""The endpoints of completions, next words and scores, in OpenAI's format: one JSON object, or server-sent events."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NoReturn, cast

import orjson
from flask import Response, g

from service.api.requests import CompletionRequest, NextRequest, ScoreRequest
from service.api.responses import (
    ChoiceObject,
    CompletionObject,
    CompletionUsage,
    LogprobsObject,
    NextWordsObject,
    PromptLogprobs,
    ScoresObject,
)
from service.errors import ClientGone, GatewayError, InternalError, NotFound, Unauthorized, VersionGone
from service.generation.choice import TextDelta
from service.generation.completion_processor import CompletionProcessor
from service.generation.logprobs import DIGITS
from service.generation.running_request import RunningRequest
from service.generation.search_processor import SearchProcessor
from service.web.endpoint import COMPLETIONS, MODEL_ERRORS, Endpoint, Services, json_response, start_request

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
# Beyond this, events that share a chunk are sent: 10,000 choices have some 4 MB.
_MAX_CHUNK_BYTES = 2**16
# The end of the constant prefix of every completion event.
_CHOICES = b'"choices":['


@Endpoint(
    "POST /v1/completions",
    COMPLETIONS,
    "Generate completions",
    (*MODEL_ERRORS, 410),
    request=CompletionRequest,
    response=CompletionObject,
    streams=CompletionObject,
)
def completions(services: Services) -> Response:
    """Continue each prompt; a backward model generates the text before each `suffix`.

    `stream` returns a stream of server-sent events, `state` continues from a resume token, `echo` with `max_tokens` 0
    scores the prompt.
    """
    with ExitStack() as stack:
        processor = start_request(services, CompletionRequest, services.engine.start_completion, stack)
        completion = CompletionResponse(processor, g.request_log.record_error)
        if not processor.body.stream:
            return json_response(completion.whole())
        # Closed even if the stream is dropped before its first event, when no `finally` of the generator would run.
        return event_stream(completion.events(), stack.pop_all().close)


@Endpoint(
    "POST /v1/next", COMPLETIONS, "Predict the next words", MODEL_ERRORS, request=NextRequest, response=NextWordsObject
)
def next_words(services: Services) -> Response:
    """Return the most probable words that continue a prompt: the rest of its last word, or the next word."""
    with ExitStack() as stack:
        processor = start_request(services, NextRequest, services.engine.start_next, stack)
        words, request = processor.words(), processor.request
        response = {
            "object": "list",
            "data": words,
            "unexplored": round(processor.unexplored, DIGITS),
            "limit_reached": processor.limit_reached,
            "model": request.model.ref.name,
            "version": request.model.ref.number,
            "system_fingerprint": request.fingerprint,
            "usage": _usage_of(request),
        }
        return json_response(orjson.dumps(response))


NO_CHAT = (
    "these models complete text and have no chat format: use /v1/completions with a prompt instead of "
    "/v1/chat/completions with messages"
)


@Endpoint(
    "POST /v1/score", COMPLETIONS, "Score texts", (*MODEL_ERRORS, 410), request=ScoreRequest, response=ScoresObject
)
def score(services: Services) -> Response:
    """Return how surprising each text is to a model: its negative log probability in nats.

    `tokens` returns the surprisal of each token, `ratio_to` the log-likelihood ratio to another model, and
    `carry_state` scores each text after those before it.
    """
    with ExitStack() as stack:
        processor = start_request(services, ScoreRequest, services.engine.start_score, stack)
        request = processor.request
        response = {"object": "list", "data": processor.results(), "whole": processor.is_whole}
        response |= {"model": request.model.ref.name, "version": request.model.ref.number}
        response["system_fingerprint"] = request.fingerprint
        if processor.body.carry_state:
            response["state"] = processor.resume_token()
        response["usage"] = dict.fromkeys(("prompt_tokens", "total_tokens"), request.total_prompt_tokens)
        return json_response(orjson.dumps(response))


@Endpoint("POST /v1/chat/completions", COMPLETIONS, "Chat completions (unsupported)", (404,))
def chat(services: Services) -> NoReturn:  # noqa: ARG001 - every view takes them
    """Always return 404: these models have no chat format. Use `/v1/completions` with a prompt."""
    raise NotFound(NO_CHAT)


def event_stream(events: Iterator[bytes], close: Callable[[], object]) -> Response:
    """Return a stream of server-sent events, which proxies neither buffer nor cache, and call `close` at its end."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = Response(events, mimetype="text/event-stream", headers=headers)
    response.call_on_close(close)
    return response


def sse(data: Any) -> bytes:
    """Encode one event, in UTF-8 (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def error_event(error: GatewayError, on_error: Callable[[GatewayError], None]) -> bytes:
    """Report an error that ends a stream, and return its event: the status has been sent already."""
    on_error(error)
    event = sse(error.body())
    error.release()
    return event


class CompletionResponse:
    """The response to one completion request; `on_error` gets an error that becomes the last event of a stream."""

    def __init__(
        self, processor: CompletionProcessor | SearchProcessor, on_error: Callable[[GatewayError], None]
    ) -> None:
        self._processor, self._request, self._on_error = processor, processor.request, on_error
        model = self._request.model
        self._head: dict[str, Any] = {
            "id": f"cmpl-{random.randbytes(16).hex()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.ref.name,
            "version": model.ref.number,
            "system_fingerprint": model.fingerprint,
            "seed": processor.seed,
        }
        self._prefix = self._event_prefix()
        self._tail = b', "prepend": true}]}\n\n' if processor.prepends else b"}]}\n\n"

    def whole(self) -> bytes:
        """Wait for every choice and return one object."""
        try:
            results = self._processor.results()
        except GatewayError as error:
            raise self._with_partial_output(error) from None
        self._update_fingerprint()
        choices = [_choice(result, self._processor.prompt_logprobs(result.index)) for result in results]
        reached = self._processor.limit_reached
        flag = {} if reached is None else {"limit_reached": reached}
        return orjson.dumps({**self._head, "choices": choices, "usage": self._usage(), **flag})

    def events(self) -> Iterator[bytes]:
        """Yield server-sent events; an error becomes the last one, as the status has been sent already.

        Once all sequences have finished, the remaining events share a chunk: a chunk costs a system call and a switch.
        """
        assert isinstance(self._processor, CompletionProcessor), "a search has no stream"
        unsent = bytearray()
        try:
            for delta in self._processor.client_deltas():
                self._update_fingerprint()
                unsent += self._event(delta)
                if not self._request.is_finished or len(unsent) >= _MAX_CHUNK_BYTES:
                    yield bytes(unsent)
                    unsent.clear()
            if self._processor.body.stream_options.include_usage:
                unsent += sse({**self._head, "choices": [], "usage": self._usage()})
            yield bytes(unsent + DONE)
        except GatewayError as error:
            yield bytes(unsent + error_event(self._with_partial_output(error), self._on_error))
        except Exception:
            log.exception("a stream failed")
            yield bytes(unsent + error_event(InternalError("internal error; see the gateway's log"), self._on_error))

    def _event_prefix(self) -> bytes:
        return b"data: " + orjson.dumps({**self._head, "choices": []})[: -len("]}")]

    def _update_fingerprint(self) -> None:
        """Update `system_fingerprint` once a backend that is not bit-exact with the model's own has been used."""
        fingerprint = self._request.fingerprint
        if self._head["system_fingerprint"] != fingerprint:
            self._head["system_fingerprint"] = fingerprint
            self._prefix = self._event_prefix()

    def _with_partial_output(self, error: GatewayError) -> GatewayError:
        """Attach the partial output to an error, so that a client with resume tokens can resume."""
        if not isinstance(error, ClientGone | Unauthorized):
            gone = isinstance(error, VersionGone)
            rest = self._processor.partial_outputs(with_resume_tokens=not gone)
            flag = {"prepend": True} if self._processor.prepends else {}
            error.rest = {"choices": [{**_choice(each), **flag} for each in rest], "usage": self._usage()}
            if self._processor.body.return_state and not gone:
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

    def _usage(self) -> CompletionUsage:
        usage = _usage_of(self._request)
        if self._processor.num_rejected is not None:
            usage["rejected_choices"] = self._processor.num_rejected
        return usage


def _usage_of(request: RunningRequest) -> CompletionUsage:
    prompt, completion = request.num_prompt_tokens, request.num_completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": request.num_cached_tokens},
    }


def _choice(result: TextDelta, prompt_logprobs: bytes | None = None) -> ChoiceObject:
    choice: ChoiceObject = {
        "index": result.index,
        "text": result.text,
        "logprobs": None if result.logprobs is None else cast("LogprobsObject", vars(result.logprobs)),
        "finish_reason": result.finish_reason,
    }
    if prompt_logprobs is not None:
        choice["prompt_logprobs"] = cast("list[PromptLogprobs | None]", orjson.Fragment(prompt_logprobs))
    if result.cumulative_logprob is not None:
        choice["cumulative_logprob"] = round(result.cumulative_logprob, DIGITS)
    return choice if result.resume_token is None else {**choice, "state": result.resume_token}
