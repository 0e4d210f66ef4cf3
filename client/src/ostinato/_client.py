"""The client: one method per thing to ask for. It knows the API's fields, and leaves their bounds to the server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable, TypeVar, Union

from ostinato._errors import InvalidArgument, NotFound, UnexpectedAnswer
from ostinato._results import Generation, Model, required
from ostinato._settings import DEFAULT_TIMEOUT, TimeoutSeconds, resolve
from ostinato._stream import Stream
from ostinato._transport import Transport

if TYPE_CHECKING:
    from types import TracebackType

    import requests

T = TypeVar("T")
Prompt = Union[str, Sequence[str], Sequence[int], Sequence[Sequence[int]]]

COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"


class Client:
    """A server of recurrent text generators. Any number of threads may share it; `with` closes its connections.

    Args:
        base_url: str. Where the server is, with or without `/v1`. Default: the environment's OSTINATO_BASE_URL, or else
            http://127.0.0.1:8000.
        api_key: str. Default: the environment's OSTINATO_API_KEY, or else none.
        timeout: float or (float, float). Seconds to connect, and seconds between two bytes of an answer; one number is
            both, and None waits for ever. Default: (5, 300).
        max_retries: int. How often a request is sent again when the connection fails or the server answers 408, 409,
            429 or 500 and above. A read timeout is not repeated, and a stream is not once it has begun.
        session: requests.Session. Used in place of the client's own, for proxies, certificates or adapters. All threads
            share it, and it stays open when the client is closed.

    Raises:
        InvalidArgument: a value that no request could be sent with.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: TimeoutSeconds = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        session: requests.Session | None = None,
    ) -> None:
        """Check the settings; nothing is sent."""
        self._settings = resolve(base_url, api_key, timeout, max_retries)
        self._transport = Transport(self._settings, session)
        self._lock = threading.Lock()
        self._first_model: str | None = None

    def generate(
        self,
        prompt: Prompt = "",
        *,
        suffix: Prompt | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        n: int | None = None,
        **extra: Any,
    ) -> Generation:
        """Generate a text that goes on from the prompt, or leads up to the suffix, and return it when it is complete.

        What is None is not sent: the server's default applies. The server also checks all bounds.

        Args:
            prompt: str, or token ids, or a list of either.
            suffix: the same, in place of the prompt, for a model that reads backwards: the text's ending.
            model: str. Default: the first that the server lists, asked for once.
            max_tokens: int. The most tokens to generate.
            temperature: float. 0 always takes the likeliest token.
            top_p: float. Sample among the likeliest tokens that together have this probability.
            top_k: int. Sample among so many of the likeliest tokens.
            min_p: float. Drop tokens less likely than this times the likeliest.
            seed: int. The same seed brings the same text. The answer has the seed that was used.
            stop: str or list of str. End before the first of these; a text that leads up to a suffix, behind it.
            n: int. How many texts to generate per prompt.
            extra: any further fields, sent as they are.

        Raises:
            APIError: the server refused or failed; the subclass says how.
            ConnectionFailed, Timeout, UnexpectedAnswer: there was no proper answer.
        """
        named = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
        fields = {"suffix": suffix, **named, "seed": seed, "stop": stop, "n": n, **extra}
        return Generation.from_answer(self._complete(self._transport.post, prompt, model, fields))

    def stream(
        self,
        prompt: Prompt = "",
        *,
        suffix: Prompt | None = None,
        prepend: bool = False,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        n: int | None = None,
        **extra: Any,
    ) -> Stream:
        """Generate a text that goes on from the prompt, or leads up to the suffix, and return it meanwhile.

        Further arguments and errors are those of `generate`. The request is sent at once, and so refused at once. With
        `prepend` the text of a model that reads backwards comes piece by piece, too: it is written from its end, and
        each piece goes before those so far, as `Piece.prepend` says. Without, each of its choices comes as one piece at
        its end, so that pieces joined are always the text.
        """
        named = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
        options = {"include_usage": True, **({"prepend": True} if prepend else {})}
        fields = {"suffix": suffix, **named, "seed": seed, "stop": stop, "n": n, "stream_options": options, **extra}
        return Stream(self._complete(self._open_stream, prompt, model, fields))

    def models(self) -> list[Model]:
        """Return the models that the server has.

        Raises:
            APIError: the server refused or failed; the subclass says how.
            ConnectionFailed, Timeout, UnexpectedAnswer: there was no proper answer.
        """
        return [Model.from_answer(entry) for entry in required(self._transport.get(MODELS), "data", list)]

    def close(self) -> None:
        """Close the client's connections; streams that are open go on to their end. Safe to repeat."""
        self._transport.close()

    def __enter__(self) -> Client:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client's connections."""
        self.close()

    def __repr__(self) -> str:
        """Show where the server is, and not the key."""
        return f"Client({self._settings.base_url!r})"

    def _complete(
        self, send: Callable[[str, dict[str, Any]], T], prompt: Prompt, model: str | None, fields: dict[str, Any]
    ) -> T:
        if "stream" in fields:
            raise InvalidArgument("stream is not an argument: call client.stream(...) or client.generate(...)")
        given = {name: value for name, value in fields.items() if value is not None}
        name = model if model is not None else self._default_model()
        try:
            return send(COMPLETIONS, {"model": name, "prompt": prompt, **given})
        except NotFound:
            self._first_model = None  # the server may have other models by now: ask again next time
            raise

    def _open_stream(self, path: str, body: dict[str, Any]) -> requests.Response:
        return self._transport.open_stream(path, {**body, "stream": True})

    def _default_model(self) -> str:
        with self._lock:  # threads that start together ask once together
            if self._first_model is None:
                models = self.models()
                if not models:
                    raise UnexpectedAnswer(f"{self._settings.base_url} lists no model: give it one, or pass model")
                self._first_model = models[0].id
            return self._first_model
