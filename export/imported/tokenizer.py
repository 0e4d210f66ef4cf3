"""Imported tokenizers: vocabularies and JSON of Keras, Hugging Face's `tokenizer.json`, and this project's own.

Pickles are refused.
"""

import contextlib
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from contract.errors import TokenizerError
from contract.tokenizers import (
    KERAS_FILTERS,
    CharacterTokenizer,
    ImportedTokenizer,
    Tokenizer,
    WordRules,
    WordTokenizer,
    load_tokenizer,
    padding_name,
)
from export.corpora.encodings import decode
from export.errors import NotText, UnsupportedModel
from export.imported.keras_vocabularies import model_tokenizer, parse_lines, vocabulary_tokenizer

# Twice the size of the largest vocabularies in use. Parsed JSON takes up to thirty times the memory.
MAX_BYTES = 64 << 20
_ZIP = b"PK\x03\x04"
_PICKLE_SUFFIXES = {".pickle", ".pkl"}
# Pickle protocols from 2 on begin with this byte; in protocols 0 and 1 an object begins with its constructor's name.
# All end with a dot.
_PICKLE = re.compile(rb"\x80|c[\w.]+\n\w+\n")
_UNPICKLE = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).to_json())"
_EXPECTED_FORMATS = (
    "pass a .txt file with the vocabulary of a layer of Keras, a .keras file with the layer, the JSON of Keras's "
    "Tokenizer.to_json(), or a file of save() of Hugging Face's tokenizers"
)


def read_tokenizer(path: Path) -> Tokenizer:
    """Read an imported tokenizer and keep its token ids, which the model was trained with.

    Args:
        path: Output of Keras's legacy `Tokenizer.to_json()`, plain or encoded once more as a JSON string; a
            `tokenizer.json` of Hugging Face's `tokenizers` or of this project; the vocabulary of a `TextVectorization`
            or `StringLookup` layer, as a `.txt` file of lines or as a JSON list; or a `.keras` file with the layer.

    Raises:
        TokenizerError: the file is missing, damaged, a pickle or of an unsupported format; the message names it.
    """
    try:
        return _read(path)
    except (TokenizerError, NotText, UnsupportedModel) as error:
        raise TokenizerError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _read(path: Path) -> Tokenizer:
    content = _content(path)
    if content.startswith(_ZIP):
        if (tokenizer := model_tokenizer(path)) is None:
            raise TokenizerError(
                "it has no TextVectorization or StringLookup layer; pass the tokenizer's file (--tokenizer)"
            )
        return tokenizer
    if path.suffix.lower() == ".txt":
        return vocabulary_tokenizer(parse_lines(decode(content, str(path))))
    document = _parse(content, path)
    if isinstance(document, list):
        return vocabulary_tokenizer(document)
    if document.get("class_name") == "Tokenizer":
        return _keras(document.get("config"))
    if "model" not in document:
        raise TokenizerError(_describe_unknown_format(document))
    # It may be one of this project's tokenizers.
    with contextlib.suppress(TokenizerError):
        return load_tokenizer(path)
    try:
        return ImportedTokenizer(document)
    except (LookupError, TypeError, AttributeError) as error:
        raise TokenizerError(f"a tokenizer.json that is damaged ({type(error).__name__}: {error})") from error


def _content(path: Path) -> bytes:
    """Return the content of a file, for a `.keras` file its beginning, unless it is too large or a pickle."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TokenizerError(error.strerror or str(error)) from error
    # `model_tokenizer` has its own limits: the weights of a `.keras` file may have any size.
    if len(content) > MAX_BYTES and not content.startswith(_ZIP):
        size = max(len(content), path.stat().st_size)
        raise TokenizerError(f"a tokenizer file must have at most {MAX_BYTES:,} bytes, got {size:,}")
    if path.suffix.lower() in _PICKLE_SUFFIXES or (_PICKLE.match(content) and content.rstrip().endswith(b".")):
        target = shlex.quote(str(path.with_suffix(".json")))
        command = f'python -c "{_UNPICKLE}" {shlex.quote(str(path))}'
        raise TokenizerError(
            "this is a pickle, which can execute arbitrary code, so it is not loaded; convert it where it was written, "
            f"with: {command} > {target}"
        )
    return content


def _parse(content: bytes, path: Path) -> dict[str, Any] | list[str]:
    try:
        document = json.loads(decode(content, str(path)))
        if isinstance(document, str):
            # `json.dump(tokenizer.to_json(), file)` encodes the JSON twice.
            document = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"this is not JSON ({error}); {_EXPECTED_FORMATS}") from error
    if isinstance(document, list) and all(isinstance(term, str) for term in document):
        return document
    if not isinstance(document, dict):
        raise TokenizerError(f"this JSON is not a tokenizer: {type(document).__name__}; {_EXPECTED_FORMATS}")
    return document


def _describe_unknown_format(document: dict[str, Any]) -> str:
    if "class_name" in document:
        return f"class_name must be 'Tokenizer', got {document['class_name']!r}"
    if document and all(type(value) is int for value in document.values()):
        return f"this is only an index, without the rules of tokenization; {_EXPECTED_FORMATS}"
    return f"this JSON is not a tokenizer: it has neither class_name nor model; {_EXPECTED_FORMATS}"


def _require_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    index = dict(pairs)
    if len(index) < len(pairs):
        words = sorted(word for word, _ in pairs)
        duplicate = next(word for word, following in pairwise(words) if word == following)
        raise ValueError(f"{duplicate!r} occurs twice")
    return index


def _unpack(value: Any) -> Any:
    """Decode a field that Keras writes as JSON within JSON."""
    return json.loads(value, object_pairs_hook=_require_unique_keys) if isinstance(value, str) else value


class _KerasConfig(BaseModel, frozen=True, extra="ignore", strict=True):
    """The settings of Keras's legacy `Tokenizer` that token ids depend on; a missing one has Keras's default."""

    num_words: Annotated[int, Field(ge=0)] | None = None
    filters: str = KERAS_FILTERS
    lower: bool = True
    split: str = Field(" ", min_length=1)
    char_level: bool = False
    oov_token: str | None = None
    word_index: Annotated[dict[str, int], BeforeValidator(_unpack)]


def _keras(content: Any) -> Tokenizer:
    try:
        config = _KerasConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "config"
        raise TokenizerError(f"{field}: {first['msg']}, got {str(first['input'])[:60]!r}") from error
    words = _kept_words(config)
    tokens = [padding_name(words), *words]
    if config.char_level:
        tokenizer: Tokenizer = CharacterTokenizer(tokens, unknown=config.oov_token, lower=config.lower)
    else:
        rules = WordRules(config.filters, config.lower, config.split)
        tokenizer = WordTokenizer(tokens, rules, config.oov_token)
    text = tokenizer.to_json()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{text[error.start]!r} is a lone surrogate, not a character") from error
    return tokenizer


def _kept_words(config: _KerasConfig) -> list[str]:
    """Return the words that Keras encodes, in order of their ids from 1.

    Some vocabularies have a padding token with the id 0. It is dropped; no text encodes to it.
    """
    index = {word: i for word, i in config.word_index.items() if i != 0}
    words = sorted(index, key=index.__getitem__)
    for expected_id, word in enumerate(words, 1):
        if index[word] != expected_id:
            # Its texts contain the token as a word; Keras then leaves the id unused.
            hint = f"; oov_token {config.oov_token!r} is a word of the texts" if config.oov_token in index else ""
            raise TokenizerError(
                f"word_index: ids must run from 1 to {len(words)} without a gap, got {word!r} = {index[word]} instead "
                f"of {expected_id}{hint}"
            )
    oov, limit = config.oov_token, config.num_words or len(words) + 1
    if oov is not None and oov not in index:
        raise TokenizerError(f"oov_token {oov!r} is not in word_index")
    if oov is not None and index[oov] >= limit:
        raise TokenizerError(f"oov_token {oov!r} has the id {index[oov]}, which num_words = {limit} cuts off")
    kept = words[: limit - 1]
    if not set(kept) - {oov}:
        raise TokenizerError(f"it has no words: word_index has {len(index)} entries, num_words is {limit}")
    return kept
