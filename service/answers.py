"""The JSON that clients of OpenAI's completions expect, whole or as server-sent events."""

import json
import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any

from service.catalog import LiveModel
from service.engine import Generation, Piece
from service.errors import GatewayError, InternalError

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
_json_string = json.JSONEncoder(ensure_ascii=False).encode


def sse(data: Any) -> bytes:
    """Frame one event, in UTF-8 (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


class CompletionAnswer:
    """Builds the answer to one completion request."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        request, model = generation.request, generation.model
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.ref.name,
            "system_fingerprint": model.fingerprint,
            "seed": request.seed,
        }
        self._frame = "data: " + json.dumps({**self._head, "choices": []}, ensure_ascii=False)[: -len("]}")]

    def whole(self) -> dict[str, Any]:
        """Wait for every choice and return one object.

        Raises:
            GatewayError: see `Generation`.
        """
        texts = [""] * self._generation.request.num_choices
        reasons: list[str | None] = ["length"] * len(texts)
        for piece in self._generation:
            texts[piece.choice] += piece.text
            reasons[piece.choice] = piece.finish_reason
        choices = [_choice(Piece(i, text, reasons[i])) for i, text in enumerate(texts)]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def events(self) -> Iterator[bytes]:
        """Yield server-sent events; a failure becomes the last one, as the status is sent already."""
        generation = self._generation
        try:
            if not generation.sequences:
                for choice in range(generation.request.num_choices):
                    yield self._event(Piece(choice, "", "length"))
            for piece in generation:
                yield self._event(piece)
            if generation.request.include_usage:
                yield sse({**self._head, "choices": [], "usage": self._usage()})
            yield DONE
        except GatewayError as error:
            yield sse(error.body())
        except Exception:
            log.exception("a stream failed")
            yield sse(InternalError("an unexpected error; the server's log has the trace").body())

    def _event(self, piece: Piece) -> bytes:
        """Frame one piece.

        Joined by hand: of everything that is done per chunk this was the dearest (9 µs of 40 as a whole object).
        """
        reason = "null" if piece.finish_reason is None else f'"{piece.finish_reason}"'
        event = (
            f'{self._frame}{{"index": {piece.choice}, "text": {_json_string(piece.text)}, '
            f'"logprobs": null, "finish_reason": {reason}}}]}}\n\n'
        )
        return event.encode()

    def _usage(self) -> dict[str, Any]:
        prompt, completion = self._generation.num_prompt_tokens, self._generation.num_completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _choice(piece: Piece) -> dict[str, Any]:
    return {"index": piece.choice, "text": piece.text, "logprobs": None, "finish_reason": piece.finish_reason}


def model_object(model: LiveModel) -> dict[str, Any]:
    """Describe a served model.

    `max_model_len` is null: a recurrent model has no longest text.
    """
    card = model.card
    return {
        "id": model.ref.name,
        "object": "model",
        "created": card.created,
        "owned_by": "ostinato",
        "root": model.ref.name,
        "max_model_len": None,
        "version": model.ref.version,
        "system_fingerprint": model.fingerprint,
        "cell": card.cell,
        "layers": card.layers,
        "units": card.units,
        "unit": card.unit,
        "vocab_size": card.vocab_size,
        "row_counts": model.shapes.row_counts,
    }
