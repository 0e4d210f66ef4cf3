"""The client: one method per operation. Limits are the server's to check."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import requests

from sostenuto._activations import write_activations
from sostenuto._concurrency import Progress, in_batches, in_order, with_seeds
from sostenuto._conversation import Conversation
from sostenuto._errors import InvalidArgument, NotFound, SostenutoError, UnexpectedResponse
from sostenuto._fields import (
    CompletionArguments,
    ManyArguments,
    ManyPrompts,
    OnePrompt,
    Prompt,
    is_many,
    path_of,
    present_fields,
    with_query,
    with_signature,
    with_structured_outputs,
)
from sostenuto._guessing import GuessNumbers
from sostenuto._inspection import (
    EmbeddingMap,
    GuessNumber,
    Inspection,
    Neighbor,
    NextWord,
    Score,
    Tokens,
    VocabularyToken,
)
from sostenuto._reports import Report
from sostenuto._results import Choice, Generation, Model, RawResponse, Status, required
from sostenuto._resuming import Resumption
from sostenuto._retries import LinkedEvent, WaitForReady
from sostenuto._settings import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, TimeoutSeconds, resolve
from sostenuto._stream import Stream
from sostenuto._training import FILES, JOBS, Job, Source, UploadedFile, create_job, pages, upload
from sostenuto._transport import Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack  # type checkers have it; Python only from 3.11 on

T = TypeVar("T")

COMPLETIONS, SCORES, MODELS, REPORTS = "/v1/completions", "/v1/score", "/v1/models", "/v1/reports"
TOKENIZER_INFO = "/tokenizer_info"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

DEFAULT_RECIPE = "characters-3-minutes"
MAX_CONCURRENCY = 64  # the largest batch of a model server
SCORE_CONCURRENCY = 4  # requests of many texts each
MAX_SAMPLES = 10_000  # choices of a request


class Client(AbstractContextManager["Client"]):
    """A client of one Sostenuto server. Thread-safe; as a context manager it closes its connections.

    Each method that sends a request raises APIError if the server returns an error (the subclass says why), and
    ConnectionFailed, Timeout or UnexpectedResponse if there is no valid response.

    Args:
        base_url: str. URL of the server, with or without `/v1`. A user name and password in it, percent-encoded, are
            sent if there is no API key. Default: environment variable SOSTENUTO_BASE_URL, or http://127.0.0.1:8000.
        api_key: str. Default: environment variable SOSTENUTO_API_KEY, or no key.
        timeout: float or (float, float). Connect timeout and read timeout in seconds; one number sets both, None
            disables them. The read timeout limits the time between two bytes of a response. Default: (5, 300). TCP
            keepalive detects a lost host after 15 seconds, whatever the read timeout.
        max_retries: int. Maximum number of retries of a request, after a failed connection or status 408, 409, 429 or
            5xx. Read timeouts are not retried, nor is a stream that has begun. Default: 2.
        session: requests.Session. Replaces the client's own sessions, for proxies, certificates or adapters. All
            threads share it. Closing the client leaves it open.
        wait_for_ready: WaitForReady. Requests wait together for a server that is unreachable, overloaded or
            unavailable, without counting against `max_retries`. Default: they do not wait.

    Raises:
        InvalidArgument: an argument is invalid.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: TimeoutSeconds = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        session: requests.Session | None = None,
        wait_for_ready: WaitForReady | None = None,
    ) -> None:
        """Validate the settings; sends nothing."""
        self._settings = resolve(base_url, api_key, timeout, max_retries)
        self._transport = Transport(self._settings, session, wait_for_ready)
        self._default_model: str | None = None
        self._model_lookup = threading.Lock()
        self._guess_numbers: dict[tuple[str, int, int, int], GuessNumbers] = {}

    @with_signature(CompletionArguments)
    def generate(self, prompt: Prompt = "", **fields: Unpack[CompletionArguments]) -> Generation:
        """Generate a completion of a prompt and return it when it is complete.

        Arguments that are None are not sent: the server's defaults apply. The server checks all limits.

        Args:
            prompt: str, or list of int (token ids), or a list of either.
            suffix: Same types. For a backward model, instead of the prompt: the text that the completion precedes.
            model: str. Default: the first model that the server lists, looked up once.
            max_tokens: int. Maximum number of tokens to generate.
            temperature: float. Sampling temperature; 0 is greedy decoding.
            top_p: float. Nucleus sampling: sample from the most probable tokens whose probabilities add up to this.
            top_k: int. Sample from this many of the most probable tokens.
            min_p: float. Exclude tokens whose probability is below this fraction of the highest probability.
            seed: int. The same seed reproduces the same text. The response contains the seed that was used.
            stop: str or list of str. Stop strings: the text ends before the first one. Text generated for a `suffix`
                starts after it.
            n: int. Number of choices per prompt.
            labels: dict. Labels of the text by column, if the model was trained with labels: `{"style": "elvish"}`.
            regex: str. Regular expression that the whole completion matches.
            choices: list of str. The completion is one of these texts.
            json_schema: dict, or str (JSON), or a pydantic model. The completion is JSON that is valid against it.
            allowed: str. Characters; the completion has no others. May be combined with one of the three above.
            banned: str. Characters that the completion does not have. Likewise.
            min_length: int. Minimum number of characters of the completion.
            top_texts: int. Instead of sampling, return this many of the most probable completions.
            use_beam_search: bool. Instead of sampling, return the `n` best completions that beam search finds.
            fields: The API's other fields: `logprobs`, `echo`, penalties, `return_state`, `state`, …. Fields unknown to
                this client go into `extra_body`, a dict.

        Raises:
            InvalidArgument: two arguments, such as `regex` and `choices`, exclude each other.
            BadRequest: an argument is invalid, or not a field of the API.
        """
        return Generation.from_response(
            self._call(self._transport.send, "POST", COMPLETIONS, self._completion(prompt, fields))
        )

    @with_signature(CompletionArguments)
    def stream(
        self, prompt: Prompt = "", *, prepend: bool = False, resume: bool = False, **fields: Unpack[CompletionArguments]
    ) -> Stream:
        """Generate a completion and stream it.

        The call itself sends the request, and raises if it is rejected. Other arguments and errors are those of
        `generate`.

        `prepend` streams the choices of a backward model. Such a model generates a text from its end, so each delta
        goes before the earlier ones, as `TextDelta.prepend` says. Without `prepend`, each of its choices arrives as a
        single delta, so that concatenated deltas are always the text.

        `resume` resumes an interrupted stream, byte-identically. The server sends a resume token every 256 tokens.
        After a lost connection, a read timeout, or a failure or shutdown of the server, a new request continues from
        the last token. The stream fails after two minutes without new text. If the client has had a response before,
        the first request also waits that long for a lost server. Without `max_tokens` the request is sent again with
        its seed. It needs a single prompt and `n` = 1.

        Raises:
            InvalidArgument: `resume` with several prompts or `n` above 1.
            ResumptionFailed: raised while reading: the stream could not be resumed exactly.
        """
        own = {"include_usage": True, **({"prepend": True} if prepend else {})}
        options = {**own, **(fields.get("stream_options") or {})}
        body = {**self._completion(prompt, {**fields, "stream_options": options}), "stream": True}
        stopped = LinkedEvent(self._transport.closed)
        send = partial(self._transport.open_stream, "POST", COMPLETIONS, stopped=stopped)
        if not resume:
            return Stream(self._call(send, body))
        resumption = Resumption(send, body, stopped, is_known=self._transport.was_answered)
        return Stream(self._call(resumption.open), resumption)

    def resume(self, state: str, prompt: Prompt = "", **options: Any) -> Generation:
        """Continue a generation from a resume token.

        Args:
            state: str. The resume token: `Generation.state`, `Choice.state` or `SostenutoError.state`.
            prompt: Text to append before the continuation. For a backward model pass `suffix` instead.
            options: Arguments of `generate`. The token contains the model and the seed; pass the other sampling
                parameters again.

        Raises:
            StateRefused: the server rejects the token; `code` says why.
        """
        return self.generate(prompt, state=state, **options)

    @overload
    def score(self, text: OnePrompt, *, tokens: bool = False, model: str | None = None, **fields: Any) -> Score: ...
    @overload
    def score(
        self, text: ManyPrompts, *, tokens: bool = False, model: str | None = None, **fields: Any
    ) -> list[Score]: ...
    def score(
        self, text: Prompt, *, tokens: bool = False, model: str | None = None, **fields: Any
    ) -> Score | list[Score]:
        """Compute how surprising a text is to a model: its negative log probability. Generates nothing.

        Args:
            text: str or list of int (token ids), or a list of either.
            tokens: bool. Whether to return each token with its log probability.
            model: str. Default: that of `state`, or else as `generate`.
            fields: `whole`, whether a text is a whole document, whose beginning and end are scored, too (default:
                whether the model was trained on short documents); `labels`, which `model` reads before each text;
                `ratio_to`, a second model, for log-likelihood ratios; `carry_state`, whether the texts are consecutive
                parts of one text; `state`, the `Score.state` of the text before them, or a completion's resume token;
                `timeout_s`.

        Returns:
            A Score, or a list of Score for a list of texts.
        """
        scores = self._score(self._transport.send, text, {"model": model, "tokens": tokens or None, **fields})
        return scores if is_many(text) else scores[0]

    def score_many(
        self,
        texts: Iterable[str],
        *,
        model: str | None = None,
        whole: bool | None = None,
        labels: Mapping[str, str | float] | None = None,
        ratio_to: str | None = None,
        carry_state: bool = False,
        concurrency: int = SCORE_CONCURRENCY,
        progress: bool = False,
    ) -> Iterator[Score]:
        """Score many texts with concurrent requests, and yield the scores in the order of the texts.

        Nothing is sent before the first `next()`. A request that gets 429 waits and is sent again. Texts are consumed
        lazily.

        Args:
            texts: iterable of str.
            model: str. Default: as `generate`.
            whole: bool. As in `score`.
            labels: dict. Labels of all texts by column, for `model` alone: `{"style": "elvish"}`.
            ratio_to: str. A second model, for log-likelihood ratios.
            carry_state: bool. Whether the texts are consecutive parts of one text: each is scored after those before
                it, so there is one request at a time.
            concurrency: int. Maximum number of concurrent requests.
            progress: bool. Show a progress bar on standard error.

        Raises:
            InvalidArgument: `concurrency` is below 1.
            SostenutoError: as `score`.
        """
        if concurrency < 1:
            raise InvalidArgument(f"concurrency is {concurrency}: pass 1 or more")
        if isinstance(texts, str):
            raise InvalidArgument("texts is one string: pass a list of strings, or call score")
        stopped, state = LinkedEvent(self._transport.closed), None
        send = partial(self._transport.send, stopped=stopped, patient=True)
        fields = {"model": model, "whole": whole, "labels": labels, "ratio_to": ratio_to}
        fields["carry_state"] = carry_state or None

        def score(batch: list[str]) -> list[Score]:
            nonlocal state
            scores = self._score(send, batch, {**fields, "state": state})
            state = scores[-1].state  # None unless it is carried
            return scores

        num_threads, total = 1 if carry_state else concurrency, len(texts) if isinstance(texts, Sized) else None
        batches = in_order(score, in_batches(texts), lambda: num_threads, stopped=stopped)
        with Progress(total, shown=progress) as bar:
            for batch in batches:
                assert not isinstance(batch, SostenutoError), "they are raised"
                bar.advance(len(batch))
                yield from batch

    def next_words(
        self,
        prompt: OnePrompt,
        *,
        n: int | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        **extra: Any,
    ) -> list[NextWord]:
        """Return the most probable words that continue a prompt, the most probable first.

        If the prompt ends within a word, the words complete that, or follow it. There are fewer than `n` words if the
        search has computed `max_tokens` tokens before.

        Args:
            prompt: str or list of int (token ids).
            n: int. Number of words. Default: the server's, 10.
            model: str. Default: as `generate`.
            max_tokens: int. Maximum number of tokens that the search computes. Default: the server's, 2,000.
            extra: The endpoint's other fields: `labels` of the text, `timeout_s`.
        """
        fields = {"model": model, "prompt": prompt, "n": n, "max_tokens": max_tokens, **extra}
        data = required(self._post("/v1/next", fields), "data", list)
        return [NextWord.from_response(entry) for entry in data]

    def guess_numbers(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        num_samples: int = 10_000,
        max_tokens: int = 64,
        seed: int = 0,
    ) -> list[GuessNumber]:
        """Estimate how many texts a model would guess before each of these: the strength of passwords.

        The first call for a version generates and scores a sample, which the client keeps for later calls with the same
        arguments. The model must have been trained on short documents, such as the lines of a list of passwords.
        Sampled texts without an end after `max_tokens` tokens count as less probable than all others.

        Args:
            texts: list of str. Whole documents.
            model: str. Default: as `generate`.
            num_samples: int. Size of the sample; the standard error falls with its square root.
            max_tokens: int. Maximum length of its texts, in tokens.
            seed: int. Seed of the sample.

        Raises:
            InvalidArgument: no text of the sample has ended.
        """
        served = self.model(self._model_or_default(model))
        version = f"{served.id}:{served.version}"
        key = (version, num_samples, max_tokens, seed)
        if key not in self._guess_numbers:
            sample = [choice.text for choice in self._samples(version, num_samples, max_tokens, seed)]
            if not sample:
                ends = f"no text of {version} ends within {max_tokens} tokens"
                raise InvalidArgument(f"{ends}: train it on short documents, or raise max_tokens")
            scores = self.score_many(sample, model=version, whole=True)
            self._guess_numbers[key] = GuessNumbers((-score.nats for score in scores), num_samples)
        scores = self.score_many(texts, model=version, whole=True)
        return [self._guess_numbers[key].of(text, -score.nats) for text, score in zip(texts, scores, strict=True)]

    def tokenize(self, text: str, *, model: str | None = None) -> Tokens:
        """Tokenize a text with a model's tokenizer."""
        fields = {"model": model, "prompt": text, "return_token_strs": True}
        return Tokens.from_response(self._post("/tokenize", fields))

    def detokenize(self, tokens: Sequence[int], *, model: str | None = None) -> str:
        """Convert token ids to text."""
        response = self._post("/detokenize", {"model": model, "tokens": list(tokens)})
        return required(response, "prompt", str)

    def vocabulary(self, *, model: str | None = None) -> list[VocabularyToken]:
        """Return every token of a model's vocabulary; the index of each is its id.

        A large vocabulary takes several requests, all to the same version of the model.

        Args:
            model: str. Default: as `generate`.
        """
        name, tokens = self._model_or_default(model), list[VocabularyToken]()
        while True:
            path = with_query(TOKENIZER_INFO, model=name, vocabulary="true", offset=len(tokens))
            page = self._call(self._transport.send, "GET", path)
            entries = required(page, "vocabulary", list)
            tokens += map(VocabularyToken.from_response, entries)
            if not entries or len(tokens) >= required(page, "vocab_size", int):
                return tokens
            name = f"{required(page, 'model', str)}:{required(page, 'version', int)}"

    def save_tokenizer(self, directory: str | PathLike[str], *, model: str | None = None) -> None:
        """Write a model's tokenizer to a directory that Transformers' `AutoTokenizer.from_pretrained` loads.

        Args:
            directory: Where to write `tokenizer.json` and `tokenizer_config.json`; created if missing.
            model: str. Default: as `generate`.

        Raises:
            NotFound: the model does not exist, or Hugging Face's library has no equal tokenizer.
            OSError: a file cannot be written.
        """
        path = with_query(TOKENIZER_INFO, model=self._model_or_default(model))
        info = self._call(self._transport.send, "GET", path)
        # Both files are of one version.
        version = f"{required(info, 'model', str)}:{required(info, 'version', int)}"
        files = {file: self._get_of_model(version, f"tokenizer/{file}") for file in TOKENIZER_FILES}
        Path(directory).mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))  # as the server sent it
            Path(directory, file).write_text(text, encoding="utf-8")

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
        """Return the embedding of a text: the pooled outputs of the model's top layer.

        Args:
            text: str or list of int (token ids), or a list of either.
            model: str. Default: as `generate`.
            pooling: str. "mean" over all tokens, or "last" token. Default: the server's, "mean".
            extra: The embeddings endpoint's other fields: `labels` of the texts, `timeout_s`.

        Returns:
            A list of float with one value per unit of the top layer; a list of such lists for a list of texts.
        """
        fields = {"model": model, "input": text, "pooling": pooling, **extra}
        data = required(self._post("/v1/embeddings", fields), "data", list)
        vectors = [required(entry, "embedding", list) for entry in data]
        if is_many(text):
            return vectors
        if len(vectors) != 1:
            raise UnexpectedResponse(f"'data' should have 1 entry but has {len(vectors)}: check base_url")
        return vectors[0]

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
        units: Sequence[int] | None = None,
        max_units: int | None = None,
        **extra: Any,
    ) -> Inspection:
        """Run a model over a text and return its states, gate activations and predictions at each token.

        Args:
            text: str or list of int (token ids).
            model: str. Default: the model of `state`, or else as `generate`.
            state: str. Resume token: start from its state instead of the initial state.
            include: list of str. Values of each layer to return: "hidden", "cell", "gates". Default: all.
            layers: list of int. Layer numbers, from 1. Default: all.
            return_sequences: bool. Return the values at every token, or only at the token that is processed last.
            return_state: bool. Also return each layer's full state after the last token.
            go_backwards: bool. Process the text in reverse. The result stays in reading order.
            top: int. Number of alternatives per token, at most 50.
            max_positions: int. Maximum number of tokens to return values of, evenly spaced.
            units: list of int. Numbers of the units to return of each layer, from 0. Default: all.
            max_units: int. Maximum number of units to return of each layer, evenly spaced.
            extra: The endpoint's other fields: `labels` of the text, `timeout_s`.
        """
        limits = {"max_positions": max_positions, "max_units": max_units}
        values = {"include": include, "layers": layers, "units": units, **limits, "encoding_format": "base64"}
        returned = {"return_sequences": return_sequences, "return_state": return_state, **values, "logprobs": top}
        fields = {"model": model, "input": text, "state": state, "go_backwards": go_backwards, **returned, **extra}
        return Inspection.from_response(self._post("/v1/inspect", fields))

    def save_activations(
        self,
        path: str | PathLike[str],
        text: str,
        *,
        model: str | None = None,
        include: Sequence[str] = ("hidden", "cell"),
        layers: Sequence[int] | None = None,
        labels: Mapping[str, str | float] | None = None,
        observe: Callable[[int, int], object] = lambda *_: None,
    ) -> None:
        """Write the activations of each token of a text to a file that `safetensors.numpy.load_file` reads.

        The text is read in windows, the state carried from one to the next. The file has `token_ids`, int32 (tokens,),
        and for each kind and layer a tensor such as `cell_1`, float16 (tokens, units).

        Args:
            path: The file; written atomically.
            text: str. At most the server's maximum of tokens per prompt.
            model: str. Default: as `generate`.
            include: list of str. "hidden", "cell" and "gates".
            layers: list of int. Layer numbers, from 1. Default: all.
            labels: dict. Labels of the text by column, which the model reads before it: `{"style": "elvish"}`.
            observe: Called with the number of processed tokens, and of all.

        Raises:
            OSError: the file cannot be written.
        """
        served = self.model(self._model_or_default(model))
        fields = {"include": list(include), "layers": layers}
        write_activations(self, text, path, model=served, fields=fields, labels=labels, observe=observe)

    def report(
        self,
        generated: Sequence[str] | Sequence[Mapping[str, Any]],
        training: Sequence[str] | Sequence[Mapping[str, Any]] | None = None,
        *,
        held_out: Sequence[str] | Sequence[Mapping[str, Any]] | None = None,
        training_file: str | None = None,
        held_out_file: str | None = None,
        **fields: Any,
    ) -> Report:
        """Let the server report how valid, unique, novel and similar to real ones generated records are.

        `Report.compute` does the same without a server and its limits.

        Args:
            generated: list of str, or list of dict (rows of a table). A value that is not a number (NaN), as which a
                data frame has a missing one, is sent as null.
            training: Same types. What the model was trained on.
            held_out: Same types. Real records that it was not trained on: they get the same report, as the ceiling.
            training_file: str. Id of an uploaded file, instead of `training`.
            held_out_file: str. Id of an uploaded file, instead of `held_out`.
            fields: The endpoint's other fields: `pattern`, `json_schema`, `columns`, `field`, `near`, `smiles`, `seed`.

        Raises:
            InvalidArgument: records are a str, or have a value without a form in JSON, such as an infinite number.
            BodyTooLarge: the records are too large for a request; upload the training file, or use `Report.compute`.
            Overloaded: the server computes as many reports as it may.
            DeadlineExceeded: the report takes too long.
        """
        given = {"generated": generated, "training": training, "held_out": held_out}
        for name, values in given.items():
            if isinstance(values, str):
                raise InvalidArgument(f"{name} must be a list of records, got the str {values[:60]!r}")
        lists = {name: list(map(_without_nan, values)) for name, values in given.items() if values is not None}
        files = {"training_file": training_file, "held_out_file": held_out_file}
        data = self._transport.send("POST", REPORTS, present_fields({**lists, **files, **fields}))
        required(data, "generated", dict)
        return Report({name: value for name, value in data.items() if name not in {"summary", "html"}})

    def neighbors(self, token: str | int, *, model: str | None = None, count: int = 10) -> list[Neighbor]:
        """Return the nearest neighbors of a token in the model's embedding matrix.

        Args:
            token: str or int. Text or id of the token.
            model: str. Default: as `generate`.
            count: int. Number of neighbors.

        Raises:
            BadRequest: the text is not a single token.
            NotFound: the model does not exist, or its embedding is unavailable.
        """
        name = "token_id" if isinstance(token, int) else "token"
        response = self._get_of_model(model, "embedding/neighbors", **{name: token, "count": count})
        return [Neighbor.from_response(entry) for entry in required(response, "data", list)]

    def embedding_map(self, *, model: str | None = None, count: int = 1000) -> EmbeddingMap:
        """Project the embedding vectors of a model's first tokens onto the first two principal components.

        Args:
            model: str. Default: as `generate`.
            count: int. Number of tokens; in most vocabularies the first tokens are the most frequent.

        Raises:
            NotFound: the model does not exist, or its embedding is unavailable.
        """
        return EmbeddingMap.from_response(self._get_of_model(model, "embedding/map", count=count))

    def conversation(self, prompt: str = "", *, model: str | None = None, **options: Any) -> Conversation:
        """Start a conversation, a text that grows by turns. Each turn resumes from the state of the previous one.

        Args:
            prompt: str. Start of the text.
            model: str. Default: as `generate`.
            options: Arguments of `generate` for every turn.
        """
        return Conversation(self, model=self._model_or_default(model), prompt=prompt, **options)

    def load_conversation(self, path: str | PathLike[str]) -> Conversation:
        """Load a conversation from a file that `Conversation.save` wrote.

        Raises:
            OSError: the file cannot be read.
            InvalidArgument: the file contains no conversation.
        """
        return Conversation.load(path, self)

    @overload
    def generate_many(
        self, prompts: Iterable[OnePrompt], *, return_errors: Literal[False] = False, **options: Unpack[ManyArguments]
    ) -> Iterator[Generation]: ...
    @overload
    def generate_many(
        self, prompts: Iterable[OnePrompt], *, return_errors: bool, **options: Unpack[ManyArguments]
    ) -> Iterator[Generation | SostenutoError]: ...
    @with_signature(ManyArguments)
    def generate_many(
        self, prompts: Iterable[OnePrompt], *, return_errors: bool = False, **options: Unpack[ManyArguments]
    ) -> Iterator[Generation] | Iterator[Generation | SostenutoError]:
        """Generate a completion of each prompt, with concurrent requests, and yield them in the order of the prompts.

        Nothing is sent before the first `next()`. A request that gets 429 (full queue, rate limit) waits and is sent
        again. Prompts are consumed lazily, so the iterable may be infinite. For files use `sostenuto batch`.

        Args:
            prompts: iterable of str or of lists of int (token ids).
            seed: int. Seed of the first prompt; the prompt at index i gets `seed` + i, so equal prompts get different
                texts. `Generation.seed` is the seed of each. Default: random.
            seeds: sequence of int, instead of `seed`. One seed per prompt.
            concurrency: int. Maximum number of concurrent requests. Default: the server's limit, at most 64.
            progress: bool. Show a progress bar on standard error.
            return_errors: bool. Yield errors as results, instead of raising them.
            options: Arguments of `generate` for every prompt.

        Raises:
            InvalidArgument: `concurrency` is below 1, or `seeds` does not have one entry per prompt. If the number of
                prompts is unknown, `next()` raises the latter after the results of prompts with a seed.
            SostenutoError: as `generate`, unless `return_errors`. Requests in flight finish in the background; no more
                are sent.
        """
        concurrency, progress = options.pop("concurrency", None), options.pop("progress", None)
        seeded = with_seeds(prompts, options.pop("seed", None), options.pop("seeds", None))
        if concurrency is not None and concurrency < 1:
            raise InvalidArgument(f"concurrency is {concurrency}: pass 1 or more")
        if isinstance(prompts, str):
            raise InvalidArgument("prompts is one string: pass a list of strings, or call generate")

        stopped = LinkedEvent(self._transport.closed)
        post = partial(self._transport.send, "POST", stopped=stopped, patient=True)

        def generate(seeded_prompt: tuple[OnePrompt, int | None]) -> Generation:
            prompt, seed = seeded_prompt
            body = self._completion(prompt, {**options, "seed": seed})
            return Generation.from_response(self._call(post, COMPLETIONS, body))

        return in_order(
            generate,
            seeded,
            # By default as many as the server admits.
            lambda: concurrency or max(1, min(self.status().max_sequences, MAX_CONCURRENCY)),
            total=len(prompts) if isinstance(prompts, Sized) else None,
            show_progress=bool(progress),
            return_errors=return_errors,
            stopped=stopped,
        )

    def train(
        self,
        text: Source | UploadedFile,
        *,
        minutes: float | None = None,
        model: str | None = None,
        name: str | None = None,
        validation: float | Source | UploadedFile | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Job:
        """Train a model on the server, and publish it there under a name. Returns at once; `Job.wait` waits.

        Args:
            text: What to train on: a path; a directory, which is sent as a .zip archive; a text, which is a str with a
                line break; bytes; a file that is open for reading; or what `upload` returned. The suffix `.jsonl` or
                `.csv` means records with a field `text`, or `prompt` and `completion`.
            minutes: float. Time limit. Default: the recipe's; the server's if `epochs` is given.
            model: str. A recipe for a new model, or a served model to fine-tune. Default:
                "characters-3-minutes". If a model is named like a recipe, its name with a version means the model.
            name: str. Name of the trained model. Default: that of the file. If it exists, this is its next version.
            validation: As `text`: what to validate with. Or float: the fraction of the text that is held out.
                Default: a tenth.
            seed: int. Seed of the training.
            settings: Settings of `sostenuto train`, with underscores: `units`, `layers`, `documents`, `epochs`, ….

        Raises:
            InvalidArgument: there is no such file, or a text cannot be encoded.
            OSError: a file cannot be read.
            BadRequest: a setting is invalid or exceeds a limit of the server.
            QuotaReached: you are at the server's limit of jobs, minutes of training or bytes of files.
            TrainingDisabled: the server does not train.
        """
        if minutes is not None:
            settings["max_minutes"] = minutes
        if isinstance(validation, (int, float)):
            settings["validation"], validation = validation, None
        options = {"suffix": name, "seed": seed, "settings": settings}
        fields = {key: value for key, value in options.items() if value is not None}
        return create_job(self._transport, text, validation, {"model": model or DEFAULT_RECIPE, **fields})

    def job(self, id: str) -> Job:
        """Return a training job.

        Raises:
            NotFound: there is no such job.
        """
        return Job.from_response(self._transport.send("GET", path_of(JOBS, id=id)), self._transport)

    def jobs(self, *, limit: int | None = None) -> list[Job]:
        """Return the training jobs, newest first: all of them, or at most `limit`."""
        return [Job.from_response(raw, self._transport) for raw in pages(self._transport, JOBS, limit)]

    def upload(self, file: Source, filename: str | None = None) -> UploadedFile:
        """Upload a text to train on. `train` does this by itself; upload it to train on it several times.

        If the response is lost, the text is sent again: the server may then have a copy, which it deletes by age.

        Args:
            file: As `text` of `train`.
            filename: str. Its suffix decides the format. Default: the name of the file or directory; for a text,
                `text.txt`.

        Raises:
            InvalidArgument, OSError: as `train`.
            BodyTooLarge: it exceeds the server's limit.
            QuotaReached: your files would exceed the server's limit of bytes.
        """
        return upload(self._transport, file, filename)

    def files(self) -> list[UploadedFile]:
        """Return the uploaded files, newest first."""
        return [UploadedFile.from_response(raw) for raw in pages(self._transport, FILES)]

    def delete_file(self, id: str) -> None:
        """Delete an uploaded file.

        Raises:
            NotFound: there is no such file.
            Conflict: a job that has not ended needs it.
        """
        self._transport.delete(path_of(FILES, id=id))

    def post(self, path: str, body: bytes | str | dict[str, Any]) -> RawResponse:
        """Send a request body unchanged, and return the response unparsed.

        Use it for endpoints without a method, and for encoded bodies.

        Args:
            path: str. Path of the endpoint, such as "/v1/completions".
            body: bytes or str (JSON, sent in UTF-8), or dict.

        Raises:
            UnexpectedResponse: the response is not JSON; raised after `max_retries` retries.
            APIError, ConnectionFailed, Timeout: as `generate`. `APIError.content` is the response body.
        """
        if not path.startswith("/"):  # it would become a part of the host's name
            raise InvalidArgument(f"path is {path!r}: pass one that begins with /, such as /v1/completions")
        return self._transport.send_raw(path, body)

    def status(self) -> Status:
        """Return the server's load and limit."""
        return Status.from_response(self._transport.send("GET", "/v1/status"))

    def models(self) -> list[Model]:
        """Return the models that the server serves."""
        return [Model.from_response(entry) for entry in required(self._transport.send("GET", MODELS), "data", list)]

    def model(self, id: str) -> Model:
        """Return a model with the details of its versions: size, loss, corpus, labels, ….

        Args:
            id: str. NAME, NAME:VERSION or NAME@LABEL.
        """
        return Model.from_response(self._transport.send("GET", path_of(MODELS, id=id)))

    def update_model(
        self, id: str, *, labels: Mapping[str, int | None] | None = None, shares: Mapping[str, float] | None = None
    ) -> Model:
        """Move labels of a model to versions, and set its traffic split; return how requests are routed then.

        When it returns, the change is in effect. A version that is still being loaded, which takes a second or two, is
        in `Model.unloaded`; until it is loaded, requests go to the previous version.

        Args:
            id: str. NAME.
            labels: dict. Version of each label to move; None removes the label. Other labels stay. `{"stable": 2}`
                promotes version 2.
            shares: dict. Traffic split of the requests that name no version, by label or number of a version, such as
                `{"stable": 90, "canary": 10}`. It replaces the one before; `{}` ends it. Default: it stays.

        Raises:
            MissingRole: the API key has neither the role `admin`, nor `train` for a model that its tenant trained.
            Conflict: a label that is to be removed has a share of the traffic.
            TrainerUnavailable: no trainer of the server runs; nothing was changed.
            TrainingDisabled: the server has none.
        """
        fields = {"labels": labels, "shares": shares}
        body = {name: dict(value) for name, value in fields.items() if value is not None}
        return Model.from_response(self._transport.send("PATCH", path_of(MODELS, id=id), body))

    def promote(self, id: str, version: int, *, label: str = "stable") -> Model:
        """Move a label, by default `stable`, to a version; see `update_model`."""
        return self.update_model(id, labels={label: version})

    def rollback(self, id: str) -> Model:
        """Make the previous stable version stable again; return how requests are routed then.

        The request is sent once: if the response is lost, check the model before you repeat it.

        Raises:
            Conflict: there is no earlier stable version.
            MissingRole, TrainerUnavailable, TrainingDisabled: as `update_model`.
        """
        return Model.from_response(self._transport.send("POST", f"{path_of(MODELS, id=id)}/rollback", {}, once=True))

    def delete_model(self, id: str) -> None:
        """Delete a model, or one version of it.

        Args:
            id: str. NAME or NAME:VERSION. Deleting the last version deletes the model.

        Raises:
            ModelNotFound: there is no such model or version.
            Conflict: the version has a label or a share of the traffic, or a training job needs it.
            MissingRole, TrainerUnavailable, TrainingDisabled: as `update_model`.
        """
        self._transport.delete(path_of(MODELS, id=id))
        self._default_model = None

    def close(self) -> None:
        """Close the client's connections. Requests that wait for a retry raise ClientClosed.

        Open streams continue, but do not resume after an interruption. Idempotent, callable from any thread.
        """
        self._transport.close()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._settings.shown_url!r})"

    def _samples(self, model: str, count: int, max_tokens: int, seed: int) -> Iterator[Choice]:
        """Generate texts without a prompt, and yield those that have ended."""
        for number, start in enumerate(range(0, count, MAX_SAMPLES)):
            fields: Any = {"max_tokens": max_tokens, "seed": seed + number, "n": min(MAX_SAMPLES, count - start)}
            choices = self.generate("", model=model, **fields).choices
            yield from (choice for choice in choices if choice.finish_reason == "stop")

    def _score(self, send: Callable[..., Any], text: Prompt, fields: Mapping[str, Any]) -> list[Score]:
        body = self._body({"input": text, **fields})
        return Score.from_response(self._call(send, "POST", SCORES, body), text)

    def _completion(self, prompt: Prompt, fields: Mapping[str, Any]) -> dict[str, Any]:
        if "stream" in fields:
            raise InvalidArgument("stream is not an argument: call client.stream(...) or client.generate(...)")
        return self._body(with_structured_outputs({"prompt": prompt, **fields}))

    def _body(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Build a request body, with the default model unless one is given or implied by a resume token."""
        present = present_fields(fields)
        return present if "model" in present or "state" in present else {"model": self._first_model(), **present}

    def _post(self, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        return self._call(self._transport.send, "POST", path, self._body(fields))

    def _get_of_model(self, model: str | None, rest: str, **query: str | int) -> dict[str, Any]:
        path = f"{path_of(MODELS, model=self._model_or_default(model))}/{rest}"
        return self._call(self._transport.send, "GET", with_query(path, **query))

    def _call(self, send: Callable[..., T], *arguments: Any) -> T:
        """Send a request. NotFound resets the default model, as the server may serve other models by now."""
        try:
            return send(*arguments)
        except NotFound:
            self._default_model = None
            raise

    def _model_or_default(self, model: str | None) -> str:
        return model if model is not None else self._first_model()

    def _first_model(self) -> str:
        """Return the first model that the server lists; threads share one lookup."""
        with self._model_lookup:
            if self._default_model is None:
                models = self.models()
                if not models:
                    raise UnexpectedResponse(f"{self._settings.shown_url} serves no model: publish one, or pass model")
                self._default_model = models[0].id
            return self._default_model


def _without_nan(record: Any) -> Any:
    """Return a record; of a row, values that are not a number, such as a data frame's missing ones, become None."""
    if not isinstance(record, Mapping):
        return record
    return {name: None if value != value else value for name, value in record.items()}  # noqa: PLR0124
