"""The endpoints of served models and of their tokenizers."""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, cast

import orjson
from flask import Response, g

from contract.card import GeneratorCard, TrainingReport
from contract.errors import TokenizerError
from contract.models_config import STABLE
from contract.tokenizers import Tokenizer
from contract.tokenizers.pretrained import tokenizer_config, tokenizer_json
from service.api.requests import MAX_ID, DetokenizeRequest, TokenizeRequest
from service.api.responses import (
    DetokenizeObject,
    DiscoveryObject,
    ModelDetails,
    ModelFacts,
    ModelList,
    PretrainedFile,
    ProvenanceObject,
    SampleObject,
    TokenizeObject,
    TokenizerObject,
    VersionDetails,
    VersionObject,
)
from service.errors import NotFound
from service.generation.logprobs import labels
from service.generation.prompts import encoding_bytes, min_tokens, prompt_bytes, require_at_most, require_ids
from service.models.registry import ServedModel
from service.models.routing import Route
from service.web.endpoint import (
    MODELS,
    TOKENIZER,
    Endpoint,
    QueryParameter,
    Services,
    integer,
    json_response,
    parse_body,
)

MAX_VOCABULARY = 10_000
# Bytes per token of /tokenize, as an id and in JSON, and per token string (measured: 48 and 110).
_TOKEN_BYTES, _LABEL_BYTES = 60, 120
# Bytes per token of a vocabulary, as an object and in JSON (measured: 485, and 585 in a file for Hugging Face), and per
# character of its name (measured: 8; a byte that is not a character has the label `bytes:` and its code).
_ENTRY_BYTES, _CHARACTER_BYTES = 600, 40


@Endpoint("GET /v1/models", MODELS, "List models", (503,))
def list_models(services: Services) -> ModelList:
    """Return every served model."""
    return {
        "object": "list",
        "data": [
            {**_model_facts(model), "versions": [version_object(version, route) for version in route.versions]}
            for model, route in services.model_registry.models(g.context.may_use)
        ],
    }


@Endpoint("GET /v1/models/{name}", MODELS, "Get a model", (404, 503))
def get_model(services: Services, name: str) -> ModelDetails:
    """Return its stable version, or the version that `name` selects, and the details of all versions."""
    registry, may_use = services.model_registry, g.context.may_use
    model = registry.find(name, may_use=may_use)
    stored = registry.stored(model.ref.name, may_use=may_use)
    served, route = [each for each in registry.versions() if each.ref.name == model.ref.name], stored.route
    return {
        **_model_facts(model),
        "versions": [_version_details(each, route) for each in served if route and each.ref.number in route.versions],
        "labels": dict(stored.labels),
        "shares": dict(stored.shares),
        "unloaded": stored.unloaded,
    }


def _model_facts(model: ServedModel) -> ModelFacts:
    card, report = model.card, model.card.training
    return {
        "id": model.ref.name,
        "object": "model",
        "created": card.created,
        "owned_by": "sostenuto",
        "root": model.ref.name,
        "parent": card.base,
        "provenance": _provenance_object(card),
        "corpus": _corpus_name(report),
        "validation_loss": report.validation_loss if report else None,
        "trained_s": report.seconds if report else None,
        "discoveries": None
        if card.discoveries is None
        else [cast("DiscoveryObject", each.model_dump()) for each in card.discoveries],
        "label_columns": {column.name: column.values for column in card.label_columns},
        "max_model_len": None,
        "version": model.ref.number,
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


def _corpus_name(report: TrainingReport | None) -> str | None:
    """Return the name of the corpus, without its path on the training machine."""
    return PurePath(report.corpus).name if report else None


def _provenance_object(card: GeneratorCard) -> ProvenanceObject | None:
    found = card.training.provenance if card.training else None
    if found is None:
        return None
    return {
        "title": found.title,
        "license": found.license,
        "package": found.package,
        "num_works": len(found.works),
        "num_bytes": found.num_bytes,
    }


def version_object(version: int, route: Route) -> VersionObject:
    """Return a served version, with its labels and its share of the traffic."""
    shares = route.shares or {route.stable: 1.0}
    labels = {**route.labels, STABLE: route.stable}
    return {
        "version": version,
        "labels": sorted(label for label, number in labels.items() if number == version),
        "share": shares.get(version, 0.0) / sum(shares.values()),
    }


def _version_details(model: ServedModel, route: Route) -> VersionDetails:
    card, report = model.card, model.card.training
    samples = report.samples if report else ()
    return {
        **version_object(model.ref.number, route),
        "created": card.created,
        "parameters": report.parameters if report else None,
        "size_bytes": model.size_bytes,
        "weights_bytes": model.weights_bytes,
        "validation_loss": report.validation_loss if report else None,
        "bits_per_character": report.bits_per_character if report else None,
        "ngram_loss": report.ngram_loss if report else None,
        "accuracy": report.accuracy if report else None,
        "corpus": _corpus_name(report),
        "corpus_characters": report.corpus_characters if report else None,
        "parent": card.base,
        "sample": cast("SampleObject", samples[0].model_dump()) if samples else None,
    }


@Endpoint("POST /tokenize", TOKENIZER, "Tokenize a text", (404, 503), request=TokenizeRequest)
def tokenize(services: Services) -> TokenizeObject:
    """Return token ids, and with `return_token_strs` the text of each token."""
    body = parse_body(services, TokenizeRequest)
    model, memory = services.model_registry.find(body.model, may_use=g.context.may_use), g.context.memory
    tokenizer = model.tokenizer
    require_at_most(min_tokens(body.prompt, model), services.settings.max_request_tokens, "prompt")
    memory.hold(prompt_bytes([body.prompt]) + encoding_bytes(body.prompt, model), "prompt", param="prompt")
    special = {tokenizer.tokens[i]: i for i in tokenizer.special.ids}
    # A prompt that is exactly the name of a special token is encoded as that token, by which the evaluation harness
    # finds the id of the start token.
    ids = [special[body.prompt]] if body.prompt in special else tokenizer.encode(body.prompt)
    require_at_most(len(ids), services.settings.max_request_tokens, "prompt")
    token_bytes = _TOKEN_BYTES + (_LABEL_BYTES if body.return_token_strs else 0)
    memory.hold(prompt_bytes([body.prompt]) + len(ids) * token_bytes, "prompt", param="prompt")
    strings = labels(tokenizer.detokenizer(), ids) if body.return_token_strs else None
    return {"count": len(ids), "tokens": ids, "token_strs": strings, "max_model_len": None}


@Endpoint("POST /detokenize", TOKENIZER, "Detokenize token ids", (404, 503), request=DetokenizeRequest)
def detokenize(services: Services) -> DetokenizeObject:
    """Return the text of the token ids."""
    body = parse_body(services, DetokenizeRequest)
    model = services.model_registry.find(body.model, may_use=g.context.may_use)
    require_at_most(len(body.tokens), services.settings.max_request_tokens, "tokens")
    require_ids(body.tokens, model, "tokens")
    num_bytes = prompt_bytes([body.tokens]) + 2 * encoding_bytes(body.tokens, model)
    g.context.memory.hold(num_bytes, "tokens", param="tokens")
    return {"prompt": model.tokenizer.decode(body.tokens)}


@Endpoint(
    "GET /tokenizer_info",
    TOKENIZER,
    "Get the tokenizer of a model",
    (404, 503),
    response=TokenizerObject,
    query=(
        QueryParameter("model", "name of a model; required if several models are served", example="demo"),
        QueryParameter("vocabulary", "return tokens as well", {"type": "boolean", "default": False}, True),
        integer("offset", "with `vocabulary`: the first id", 0, MAX_ID, 0),
        integer("count", "with `vocabulary`: maximum number of tokens", 1, MAX_VOCABULARY, MAX_VOCABULARY, 3),
    ),
)
def tokenizer_info(services: Services, model: str | None, vocabulary: bool, offset: int, count: int) -> Response:
    """Return its class, unit, vocabulary size and special tokens, and with `vocabulary` the tokens by id.

    A token is listed with its text, or its name if it is special and has no text.
    """
    served = services.model_registry.find(model, may_use=g.context.may_use)
    tokenizer, special = served.tokenizer, served.tokenizer.special
    tokens = tokenizer.tokens
    info: TokenizerObject = {
        "tokenizer_class": type(tokenizer).__name__,
        "model": served.ref.name,
        "version": served.ref.number,
        "unit": tokenizer.unit,
        "vocab_size": len(tokens),
        "bos_token": tokens[special.start],
        "eos_token": None if special.end is None else tokens[special.end],
        "pad_token": tokens[special.padding],
        # If nothing is unknown, or unknown characters are dropped, it is the padding token's id.
        "unk_token": None if special.unknown == special.padding else tokens[special.unknown],
        "chat_template": None,
    }
    if vocabulary:
        g.context.charge_request()
        page, label, textless = tokens[offset : offset + count], tokenizer.detokenizer().label, tokenizer.textless_ids
        g.context.memory.hold(_vocabulary_bytes(page), "count", param="count")
        info["vocabulary"] = [
            {"token_id": i, "token": label(i), "special": i in textless} for i in range(offset, offset + len(page))
        ]
    return json_response(orjson.dumps(info))


def _vocabulary_bytes(tokens: Sequence[str]) -> int:
    return _ENTRY_BYTES * len(tokens) + _CHARACTER_BYTES * sum(map(len, tokens))


@Endpoint(
    "GET /v1/models/{name}/tokenizer/tokenizer.json",
    TOKENIZER,
    "Download tokenizer.json",
    (400, 404, 429, 503),
    response=PretrainedFile,
)
def tokenizer_file(services: Services, name: str) -> Response:
    """Return a model's tokenizer in the format of Hugging Face's `tokenizers`; 404 if that has no equal.

    Beside `tokenizer_config.json` in a directory, Transformers loads it, and encodes and decodes as this server does;
    `tokenizers` alone does so once `encode_special_tokens` is set.
    """
    return _file_response(services, name, tokenizer_json)


@Endpoint(
    "GET /v1/models/{name}/tokenizer/tokenizer_config.json",
    TOKENIZER,
    "Download tokenizer_config.json",
    (400, 404, 429, 503),
    response=PretrainedFile,
)
def tokenizer_config_file(services: Services, name: str) -> Response:
    """Return the special tokens of a model for Transformers, marked as never matched in plain text."""
    return _file_response(services, name, tokenizer_config)


def _file_response(services: Services, name: str, content: Callable[[Tokenizer], dict[str, Any]]) -> Response:
    model = services.model_registry.find(name, may_use=g.context.may_use)
    g.context.charge_request()
    g.context.memory.hold(_vocabulary_bytes(model.tokenizer.tokens), "the tokenizer")
    try:
        return json_response(orjson.dumps(content(model.tokenizer)))
    except TokenizerError as error:
        raise NotFound(
            f"the tokenizer of model {model.ref.name!r} has no equivalent in Hugging Face's library: {error}"
        ) from error
