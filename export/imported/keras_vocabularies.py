"""Vocabularies of Keras's layers `TextVectorization` and `StringLookup` as tokenizers.

A vocabulary is that of `get_vocabulary()`, in a text or JSON file, or with the layer's options in a `.keras` file.
Keras itself is not imported.
"""

import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from contract.errors import TokenizerError
from contract.tokenizers import (
    CharacterTokenizer,
    Standardization,
    Tokenizer,
    WhitespaceRules,
    WordTokenizer,
    padding_name,
)
from export.corpora.encodings import decode
from export.imported.archives import read_vocabularies

# Keras's names of the layers' directories in a `.keras` file.
_DIRECTORIES = {"TextVectorization": "text_vectorization", "StringLookup": "string_lookup"}
# Keras's default `oov_token`, and the `mask_token` of `TextVectorization`.
_OOV, _MASK = "[UNK]", ""


def _named(value: Any) -> Any:
    """Return an option, for a function its name."""
    if isinstance(value, dict):
        return f"function {value['config']}" if isinstance(value.get("config"), str) else value.get("class_name")
    return value


class _Config(BaseModel, frozen=True, extra="ignore", strict=True):
    """The options that affect token ids, limited to supported values."""

    vocabulary: Annotated[list[str], Field(min_length=1)]
    output_mode: Literal["int"] = "int"
    encoding: Literal["utf-8"] = "utf-8"


class _VectorizationConfig(_Config, frozen=True):
    standardize: Annotated[
        Literal["lower_and_strip_punctuation", "lower", "strip_punctuation"] | None, BeforeValidator(_named)
    ] = "lower_and_strip_punctuation"
    split: Annotated[Literal["whitespace", "character"] | None, BeforeValidator(_named)] = "whitespace"
    ngrams: None = None


class _LookupConfig(_Config, frozen=True):
    num_oov_indices: Annotated[int, Field(ge=0, le=1)] = 1
    oov_token: str | None = _OOV
    mask_token: str | None = None


_Kind = TypeVar("_Kind", bound=_Config)


def read_layers(path: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Read a `.keras` file.

    Returns:
        The model's config, and the entries of its `TextVectorization` and `StringLookup` layers in it, including
        vocabularies that Keras stores in separate files.

    Raises:
        UnsupportedModel: the file is damaged or not a `.keras` file.
        TokenizerError: a vocabulary is damaged.
    """
    config, files = read_vocabularies(path)
    layers, counts = list(_find_layers(config)), Counter[str]()
    own = [name for name in files if "/_lookup_layer/" not in name]
    for layer in layers:
        name = _DIRECTORIES[layer["class_name"]]
        number = f"_{counts[name]}" if counts[name] else ""
        counts[name] += 1
        # A layer in a nested model has another path.
        default = files[own[0]] if len(own) == len(layers) == 1 else None
        content = files.get(f"assets/layers/{name}{number}/vocabulary.txt", default)
        if layer["config"].get("vocabulary") is None and content is not None:
            layer["config"]["vocabulary"] = parse_lines(decode(content, str(path)))
    return config, layers


def _find_layers(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, list):
        for item in config:
            yield from _find_layers(item)
    elif isinstance(config, dict):
        if config.get("class_name") in _DIRECTORIES and isinstance(config.get("config"), dict):
            yield config
        else:
            yield from _find_layers(list(config.values()))


def model_tokenizer(path: Path) -> Tokenizer | None:
    """Return the tokenizer of the layer in a `.keras` file; None if there is no such layer.

    Raises:
        UnsupportedModel: the file is damaged or not a `.keras` file.
        TokenizerError: there are several layers, or the layer has options that are not supported.
    """
    layers = [layer for layer in read_layers(path)[1] if not layer["config"].get("invert")]
    if len(layers) > 1:
        names = ", ".join(str(layer["config"].get("name")) for layer in layers)
        raise TokenizerError(f"one TextVectorization or StringLookup layer is supported, got {len(layers)}: {names}")
    return layer_tokenizer(layers[0]["class_name"], layers[0]["config"]) if layers else None


def layer_tokenizer(class_name: str, config: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of a layer, from its config with the vocabulary.

    Raises:
        TokenizerError: an option is not supported; the message names it.
    """
    if class_name == "TextVectorization":
        return _vectorization(_parse(_VectorizationConfig, class_name, config))
    lookup = _parse(_LookupConfig, class_name, config)
    unknown = lookup.oov_token if lookup.num_oov_indices else None
    if lookup.mask_token is None and not lookup.num_oov_indices:
        raise TokenizerError("StringLookup: num_oov_indices must be 1 if there is no mask_token, got 0")
    return _tokenizer(lookup.vocabulary, lookup.mask_token, unknown, split=None, standardization=Standardization())


def vocabulary_tokenizer(terms: Sequence[str]) -> Tokenizer:
    """Return the tokenizer of `get_vocabulary()`, whose layer's options are inferred from it.

    Terms of one character each are characters; other terms are words between white space. A vocabulary that begins with
    a mask is assumed to be from `TextVectorization`, which lower-cases and strips punctuation, unless a term has an
    upper-case letter or punctuation. Any other is assumed to be from `StringLookup`, which does neither.
    """
    mask = _MASK if terms[:1] == [_MASK] else None
    vectorizes = mask is not None
    terms = terms[vectorizes:]
    terms = terms[terms[:1] == [_OOV] :]
    text = "".join(terms)
    standardization = Standardization(
        lower=vectorizes and set(text).isdisjoint(string.ascii_uppercase),
        strip_punctuation=vectorizes and set(text).isdisjoint(string.punctuation),
    )
    return _tokenizer(terms, mask, _OOV, split=None, standardization=standardization)


def parse_lines(text: str) -> list[str]:
    r"""Return the terms of a vocabulary file with a term per line, as `"\n".join(layer.get_vocabulary())` writes it.

    The term "\n" makes two empty lines. Keras writes such files into its `.keras` files, but does not read them.

    Raises:
        TokenizerError: a line is empty; the message has its number.
    """
    if text.count("\r\n") == text.count("\n"):
        text = text.replace("\r\n", "\n")
    lines, terms = text.split("\n"), list[str]()
    num_leading = next((i for i, line in enumerate(lines) if line), len(lines))
    i = num_leading % 2
    terms += [_MASK] * i
    while i < len(lines):
        if lines[i]:
            terms.append(lines[i])
        elif lines[i + 1 : i + 2] == [""]:
            terms.append("\n")
            i += 1
        elif i < len(lines) - 1:
            raise TokenizerError(f"line {i + 1} is empty; a vocabulary has a term per line")
        i += 1
    return terms


def _vectorization(config: _VectorizationConfig) -> Tokenizer:
    option = config.standardize or ""
    standardization = Standardization(lower="lower" in option, strip_punctuation="strip_punctuation" in option)
    if config.split is None and standardization.strip_punctuation:
        # Punctuation would become an empty string, which has the id of the mask.
        raise TokenizerError(f"TextVectorization: split must not be None with standardize {config.standardize!r}")
    return _tokenizer(config.vocabulary, _MASK, _OOV, split=config.split, standardization=standardization)


def _parse(kind: type[_Kind], class_name: str, config: dict[str, Any]) -> _Kind:
    try:
        return kind.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        option, given = ".".join(map(str, first["loc"])), str(first["input"])[:60]
        raise TokenizerError(f"{class_name}: {option} is not supported: {first['msg']}, got {given!r}") from error


def _tokenizer(
    vocabulary: Sequence[str],
    mask: str | None,
    unknown: str | None,
    split: str | None,
    standardization: Standardization,
) -> Tokenizer:
    """Return the tokenizer of a vocabulary, with or without its special tokens; unsplit text is split by its terms."""
    special = [*([] if mask is None else [mask]), *([] if unknown is None else [unknown])]
    terms = list(vocabulary[len(special) :] if list(vocabulary[: len(special)]) == special else vocabulary)
    _require_distinct(terms)
    if split is None:
        split = "character" if all(len(term) == 1 for term in terms) else "whitespace"
    oov = None if unknown is None else _free_name(unknown, terms)
    tokens = [*([] if oov is None else [oov]), *terms]
    if mask is not None:
        tokens.insert(0, padding_name(tokens))
    if split == "character":
        return CharacterTokenizer(tokens, unknown=oov, standardization=standardization)
    return WordTokenizer(tokens, WhitespaceRules(standardization), oov)


def _free_name(name: str, terms: Sequence[str]) -> str:
    """Return a name for the unknown token that neither a term nor the padding token has."""
    taken = {*terms, padding_name(terms), ""}
    while name in taken:
        name += "_"
    return name


def _require_distinct(terms: Sequence[str]) -> None:
    if not terms:
        raise TokenizerError("the vocabulary has no terms")
    term, count = Counter(terms).most_common(1)[0]
    if count > 1:
        raise TokenizerError(f"the vocabulary has {term!r} {count} times")
    if "" in terms:
        raise TokenizerError(f"the vocabulary has an empty term with the index {terms.index('')}, which no text spells")
    for term in terms:
        try:
            term.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"{term!r} has a lone surrogate, which is not a character") from error
