"""The client: one method per thing to ask for. It knows the API's fields, and leaves their bounds to the server."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Literal, TypeVar, Union, overload
from urllib.parse import quote, urlencode

from ostinato._concurrency import in_order
from ostinato._conversation import Conversation
from ostinato._errors import InvalidArgument, NotFound, UnexpectedResponse
from ostinato._events import LinkedEvent
from ostinato._fields import COMPLETION_FIELDS, EMBEDDING_FIELDS, INSPECT_FIELDS
from ostinato._inspection import Inspection
from ostinato._results import Generation, Model, Status, required
from ostinato._resuming import Resumption
from ostinato._scores import EmbeddingMap, Neighbor, Score, Tokens
from ostinato._settings import DEFAULT_TIMEOUT, TimeoutSeconds, resolve
from ostinato._stream import Stream
from ostinato._transport import Transport

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    import requests

    from ostinato._errors import OstinatoError

T = TypeVar("T")
OnePrompt = Union[str, Sequence[int]]
ManyPrompts = Union[Sequence[str], Sequence[Sequence[int]]]
Prompt = Union[OnePrompt, ManyPrompts]

COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
INSPECT = "/v1/inspect"
MODELS = "/v1/models"
STATUS = "/v1/status"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"

MAX_CONCURRENCY = 64  # a model server computes so many texts in one call


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
        self._first_model: Future[str] | None = None

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
            extra: the API's other fields: `logprobs`, `echo`, penalties, `return_state`, `state`, …. What it has no
                name for yet goes into `extra_body`, a dict.

        Raises:
            InvalidArgument: there is no such field.
            APIError: the server refused or failed; the subclass says how.
            ConnectionFailed, Timeout, UnexpectedResponse: there was no proper answer.
        """
        named = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
        fields = {"suffix": suffix, **named, "seed": seed, "stop": stop, "n": n, **extra}
        return self._generate(self._transport.post, prompt, model, fields)

    def stream(
        self,
        prompt: Prompt = "",
        *,
        suffix: Prompt | None = None,
        prepend: bool = False,
        resume: bool = False,
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
        each piece goes before those so far, as `TextDelta.prepend` says. Without, each of its choices comes as one
        piece at its end, so that pieces joined are always the text.

        With `resume` a stream that breaks off in the middle goes on, exactly: the server sends a state every few
        hundred tokens, and after a lost connection, a read timeout or a server that stops another request goes on from
        the last one. It is tried for a minute without anything new. It is for one text: one prompt, and no `n` above 1.

        Raises:
            InvalidArgument: `resume` for several texts.
            ResumptionFailed: while it is read: it could not be gone on with exactly.
        """
        named = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
        options = {"include_usage": True, **({"prepend": True} if prepend else {})}
        fields = {"suffix": suffix, **named, "seed": seed, "stop": stop, "n": n, "stream_options": options, **extra}
        if not resume:
            return Stream(self._complete(self._open_stream, prompt, model, fields))
        stopped = LinkedEvent(self._transport.closed)
        send = partial(self._open_stream, COMPLETIONS, stopped=stopped)
        resumption = Resumption(send, self._completion(prompt, model, fields), stopped)
        return Stream(self._forgetting(resumption.open), resumption)

    def resume(self, state: str, prompt: Prompt = "", **options: Any) -> Generation:
        """Go on with a text from a state that `return_state=True`, a stream or an error gave.

        Args:
            state: str. `Generation.state`, `Choice.state` or `OstinatoError.state`.
            prompt: read after the text so far; of a model that reads backwards pass `suffix` instead.
            options: arguments of `generate`. Those of sampling are not in the state; the seed is.

        Raises:
            StateRefused: the state cannot be gone on with; the subclass says why.
            APIError, ConnectionFailed, Timeout, UnexpectedResponse: as `generate`.
        """
        return self.generate(prompt, state=state, **options)

    @overload
    def score(
        self,
        prompt: OnePrompt = "",
        *,
        suffix: OnePrompt | None = None,
        model: str | None = None,
        top: int = 0,
        **extra: Any,
    ) -> Score: ...
    @overload
    def score(
        self,
        prompt: ManyPrompts,
        *,
        suffix: ManyPrompts | None = None,
        model: str | None = None,
        top: int = 0,
        **extra: Any,
    ) -> list[Score]: ...
    @overload
    def score(
        self,
        prompt: Literal[""] = "",
        *,
        suffix: ManyPrompts,
        model: str | None = None,
        top: int = 0,
        **extra: Any,
    ) -> list[Score]: ...
    def score(
        self,
        prompt: Prompt = "",
        *,
        suffix: Prompt | None = None,
        model: str | None = None,
        top: int = 0,
        **extra: Any,
    ) -> Score | list[Score]:
        """Say how probable a text is, token by token. Nothing is generated.

        Args:
            prompt: str or token ids: a Score. A list of either: a list of Score.
            suffix: the same, in place of the prompt, for a model that reads backwards.
            model: str. Default: as `generate`.
            top: int. How many alternatives to tell in each token's place, at most 5.
            extra: the API's other fields of a completion.

        Raises:
            APIError, ConnectionFailed, Timeout, UnexpectedResponse: as `generate`.
        """
        fields = {"suffix": suffix, "echo": True, "logprobs": top, "max_tokens": 0, **extra}
        generation = Generation.from_response(self._complete(self._transport.post, prompt, model, fields))
        scores = [Score.from_choice(choice) for choice in generation.choices]
        return scores if _is_many(prompt if suffix is None else suffix) else _only(scores, "choices")

    def tokenize(self, text: str, *, model: str | None = None) -> Tokens:
        """Cut a text into the tokens that a model reads.

        Raises:
            APIError, ConnectionFailed, Timeout, UnexpectedResponse: as `generate`.
        """
        fields = {"prompt": text, "return_token_strs": True}
        return Tokens.from_response(
            self._ask(self._transport.post, TOKENIZE, self._body(model, fields, frozenset(fields)))
        )

    def detokenize(self, tokens: Sequence[int], *, model: str | None = None) -> str:
        """Join tokens to a text.

        Raises:
            APIError, ConnectionFailed, Timeout, UnexpectedResponse: as `generate`.
        """
        body = self._body(model, {"tokens": list(tokens)}, frozenset({"tokens"}))
        return required(self._ask(self._transport.post, DETOKENIZE, body), "prompt", str)

    @overload
    def embed(
        self, text: OnePrompt, *, model: str | None = None, pooling: str | None = None, **extra: Any
    ) -> list[float]: ...
    @overload
    def embed(
        self, text: ManyPrompts, *, model: str | None = None, pooling: str | None = None, **extra: Any
    ) -> list[list[float]]: ...
    def embed(
        self, text: Prompt, *, model: str | None = None, pooling: str | None = None, **extra: Any
    ) -> list[float] | list[list[float]]:
        """Return a text as the model's hidden state: as many numbers as its top layer has units.

        Args:
            text: str or token ids: a list of numbers. A list of either: a list of such lists.
            model: str. Default: as `generate`.
            pooling: "mean" of the outputs over all tokens, or the "last" one. Default: the server's, "mean".
            extra: the API's other fields.

        Raises:
            APIError, ConnectionFailed, Timeout, UnexpectedResponse: as `generate`.
        """
        body = self._body(model, {"input": text, "pooling": pooling, **extra}, EMBEDDING_FIELDS)
        data = required(self._ask(self._transport.post, EMBEDDINGS, body), "data", list)
        vectors = [required(entry, "embedding", list) for entry in data]
        return vectors if _is_many(text) else _only(vectors, "data")

    def inspect(
        self,
        text: OnePrompt,
        *,
        model: str | None = None,
        state: str | None = None,
        include: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        return_sequences: bool = True,
        return_state: bool = False,
        go_backwards: bool = False,
        top: int = 5,
        max_positions: int | None = None,
        max_units: int | None = None,
        **extra: Any,
    ) -> Inspection:
        """Look into a model while it reads a text: states, gates, and what it expected at each token.

        Args:
            text: str or token ids.
            model: str. Default: as `generate`, or the one that the state is of.
            state: str. Read the text after the one of this state.
            include: what to tell of each layer: "hidden", "cell", "gates". Default: all.
            layers: numbers of layers, from 1. Default: all.
            return_sequences: bool. Tell of every token, or of the last one alone.
            return_state: bool. Tell each layer's whole state after the last token, too.
            go_backwards: bool. Read the text from its other end; the answer is in order of reading all the same.
            top: int. How many alternatives to tell in each token's place, at most 5.
            max_positions: int. Tell values of so many tokens at most, spread evenly over the text.
            max_units: int. Tell so many units of each layer at most, spread evenly.
            extra: the API's other fields.

        Raises:
            APIError, ConnectionFailed, Timeout, UnexpectedResponse: as `generate`.
        """
        fields = {
            "input": text,
            "state": state,
            "include": include,
            "layers": layers,
            "return_sequences": return_sequences,
            "return_state": return_state,
            "go_backwards": go_backwards,
            "logprobs": top,
            "max_positions": max_positions,
            "max_units": max_units,
            "encoding_format": "base64",
            **extra,
        }
        return Inspection.from_response(
            self._ask(self._transport.post, INSPECT, self._body(model, fields, INSPECT_FIELDS))
        )

    def neighbors(self, token: str | int, *, model: str | None = None, count: int = 10) -> list[Neighbor]:
        """Return the tokens whose vectors in the model's embedding are nearest to that of a token.

        Args:
            token: str or int. Its text, or its id.
            model: str. Default: as `generate`.
            count: int. How many.

        Raises:
            BadRequest: the text is no single token.
            NotFound: there is no such model, or its embedding is not known.
            APIError, ConnectionFailed, Timeout, UnexpectedResponse: as `generate`.
        """
        name = "token_id" if isinstance(token, int) else "token"
        answer = self._ask_of_model(model, f"embedding/neighbors?{urlencode({name: token, 'count': count})}")
        return [
            Neighbor(required(entry, "token", str), required(entry, "token_id", int), required(entry, "cosine", float))
            for entry in required(answer, "data", list)
        ]

    def embedding_map(self, *, model: str | None = None, count: int = 1000) -> EmbeddingMap:
        """Lay a model's first tokens out in the plane in which their vectors differ most.

        Args:
            model: str. Default: as `generate`.
            count: int. How many tokens; in most vocabularies the first are the most frequent.

        Raises:
            NotFound: there is no such model, or its embedding is not known.
            APIError, ConnectionFailed, Timeout, UnexpectedResponse: as `generate`.
        """
        answer = self._ask_of_model(model, f"embedding/map?count={count}")
        return EmbeddingMap(*(required(answer, name, list) for name in ("tokens", "token_ids", "x", "y", "explained")))

    def conversation(self, prompt: str = "", *, model: str | None = None, **options: Any) -> Conversation:
        """Begin a text that grows by turns, each of which goes on from the state of the one before.

        Args:
            prompt: str. What the text begins with.
            model: str. Default: as `generate`.
            options: arguments of `generate` for every turn.
        """
        return Conversation(self, model=model if model is not None else self._default_model(), prompt=prompt, **options)

    def load_conversation(self, path: str | PathLike[str]) -> Conversation:
        """Take up a conversation that `Conversation.save` wrote.

        Raises:
            OSError: the file cannot be read.
            InvalidArgument: it holds no conversation.
        """
        return Conversation.load(path, self)

    @overload
    def generate_many(
        self,
        prompts: Iterable[OnePrompt],
        *,
        concurrency: int | None = None,
        progress: bool = False,
        return_errors: Literal[False] = False,
        **options: Any,
    ) -> Iterator[Generation]: ...
    @overload
    def generate_many(
        self,
        prompts: Iterable[OnePrompt],
        *,
        concurrency: int | None = None,
        progress: bool = False,
        return_errors: bool,
        **options: Any,
    ) -> Iterator[Generation | OstinatoError]: ...
    def generate_many(
        self,
        prompts: Iterable[OnePrompt],
        *,
        concurrency: int | None = None,
        progress: bool = False,
        return_errors: bool = False,
        **options: Any,
    ) -> Iterator[Generation] | Iterator[Generation | OstinatoError]:
        """Generate a text for each of many prompts, some at a time, and yield them in the order of the prompts.

        Nothing is sent before the first is asked for. A full queue and a used up allowance are waited for. Prompts may
        be an endless iterable: they are read as they are needed. For files there is `python -m service.batch`.

        Args:
            prompts: each a text or token ids.
            concurrency: int. Requests at once. Default: what the server says it takes, at most 64.
            progress: bool. Show on standard error how far it is.
            return_errors: bool. Yield an error in the place of its text, instead of raising it.
            options: arguments of `generate` for every prompt.

        Raises:
            InvalidArgument: `concurrency` is below 1.
            OstinatoError: as `generate`, unless `return_errors`; requests on their way go on in the background, others
                are not sent.
        """
        if concurrency is not None and concurrency < 1:
            raise InvalidArgument(f"concurrency is {concurrency}: pass 1 or more")
        if isinstance(prompts, str):
            raise InvalidArgument("prompts is one text: pass a list of them, or call generate")

        stopped = LinkedEvent(self._transport.closed)
        post = partial(self._transport.post, stopped=stopped)
        fields = {name: value for name, value in options.items() if name != "model"}

        def generate(prompt: OnePrompt) -> Generation:
            return self._generate(post, prompt, options.get("model"), dict(fields))

        return in_order(generate, prompts, lambda: concurrency or self._room(), progress, return_errors, stopped)

    def status(self) -> Status:
        """Return how much the server has to do, and takes.

        Raises:
            APIError, ConnectionFailed, Timeout, UnexpectedResponse: as `generate`.
        """
        return Status.from_response(self._transport.get(STATUS))

    def models(self) -> list[Model]:
        """Return the models that the server has.

        Raises:
            APIError: the server refused or failed; the subclass says how.
            ConnectionFailed, Timeout, UnexpectedResponse: there was no proper answer.
        """
        return [Model.from_response(entry) for entry in required(self._transport.get(MODELS), "data", list)]

    def close(self) -> None:
        """Close the client's connections; a request that waits to be sent again ends with ClientClosed.

        Streams that are open go on to their end, and do not resume. Safe to repeat, from any thread.
        """
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
        return f"Client({self._settings.shown_url!r})"

    def _generate(
        self,
        post: Callable[[str, dict[str, Any]], dict[str, Any]],
        prompt: Prompt,
        model: str | None,
        fields: dict[str, Any],
    ) -> Generation:
        return Generation.from_response(self._complete(post, prompt, model, fields))

    def _complete(
        self, send: Callable[[str, dict[str, Any]], T], prompt: Prompt, model: str | None, fields: dict[str, Any]
    ) -> T:
        return self._ask(send, COMPLETIONS, self._completion(prompt, model, fields))

    def _completion(self, prompt: Prompt, model: str | None, fields: dict[str, Any]) -> dict[str, Any]:
        if "stream" in fields:
            raise InvalidArgument("stream is not an argument: call client.stream(...) or client.generate(...)")
        return self._body(model, {"prompt": prompt, **fields}, COMPLETION_FIELDS)

    def _body(self, model: str | None, fields: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
        """Leave out what is None, and name the model, unless a state does.

        Raises:
            InvalidArgument: a name is none of the API's.
        """
        more = fields.pop("extra_body", None) or {}
        for name in fields.keys() - known:
            close = difflib.get_close_matches(name, known, n=1)
            instead = f"did you mean {close[0]}? " if close else ""
            raise InvalidArgument(
                f"there is no argument {name}: {instead}what the API has no name for goes into "
                f"extra_body={{{name!r}: …}}"
            )
        given = {name: value for name, value in {**fields, **more}.items() if value is not None}
        if model is None and "state" in given:
            return given
        return {"model": model if model is not None else self._default_model(), **given}

    def _ask(self, send: Callable[[str, dict[str, Any]], T], path: str, body: dict[str, Any]) -> T:
        return self._forgetting(partial(send, path, body))

    def _ask_of_model(self, model: str | None, rest: str) -> dict[str, Any]:
        name = model if model is not None else self._default_model()
        return self._forgetting(partial(self._transport.get, f"{MODELS}/{quote(name, safe='')}/{rest}"))

    def _forgetting(self, send: Callable[[], T]) -> T:
        try:
            return send()
        except NotFound:
            self._first_model = None  # the server may have other models by now: ask again next time
            raise

    def _room(self) -> int:
        """Return how many requests to send at once."""
        return max(1, min(self.status().max_sequences, MAX_CONCURRENCY))

    def _open_stream(self, path: str, body: dict[str, Any], stopped: LinkedEvent | None = None) -> requests.Response:
        return self._transport.open_stream(path, {**body, "stream": True}, stopped)

    def _default_model(self) -> str:
        with self._lock:  # threads that start together ask once together
            asked, first = self._first_model, self._first_model is None
            if asked is None:
                asked = self._first_model = Future()
        if first:
            try:
                asked.set_result(self._ask_for_first_model())
            except BaseException as error:
                self._first_model = None
                asked.set_exception(error)
                raise
        return asked.result()

    def _ask_for_first_model(self) -> str:
        models = self.models()
        if not models:
            raise UnexpectedResponse(f"{self._settings.shown_url} lists no model: give it one, or pass model")
        return models[0].id


def _only(entries: list[T], name: str) -> T:
    if len(entries) != 1:
        raise UnexpectedResponse(f"the answer's {name!r} should be one but are {len(entries)}: check base_url")
    return entries[0]


def _is_many(prompt: Prompt) -> bool:
    """Whether it is a list of prompts, and not one prompt."""
    return not isinstance(prompt, str) and len(prompt) > 0 and not isinstance(prompt[0], int)
