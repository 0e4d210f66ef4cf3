"""Trains the tokenizer of a run; `sostenuto vocabulary` shows how it encodes a corpus, without TensorFlow."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from contract.files import write_atomically
from contract.label_columns import LabelColumn, label_tokens
from contract.tokenizers import (
    KERAS_RULES,
    CharacterTokenizer,
    ExactWordTokenizer,
    RegexTokenizer,
    SubwordTokenizer,
    Tokenizer,
    WordTokenizer,
)
from contract.tokenizers.base import Vocabulary
from contract.tokenizers.exact_words import MIN_FREQUENCY, SpelledVocabulary
from contract.tokenizers.huggingface import count_words
from contract.tokenizers.subwords import DEFAULT_VOCAB_SIZE
from export.config import TrainConfig, load_config
from export.corpora.corpus import Corpus, read_corpus
from export.corpora.labels import learn_columns
from export.errors import ConfigError, CorpusError

# Fewer tokens leave nothing to sample from.
MIN_VOCABULARY = 2
SHOWN_LINES, SHOWN_TOKENS, SHOWN_UNKNOWN = 3, 30, 10
# Maximum characters to read for the first lines of a text without line ends.
SHOWN_CHARACTERS = 1 << 20
_PLURALS = {
    "character": "characters",
    "word": "words",
    "exact_word": "words",
    "subword": "subwords",
    "regex": "matches or characters",
}


def run(config_file: Path | None, source: str | None, save: Path | None, show: int, **settings: Any) -> int:
    """Train a tokenizer as a training run does, and print how it encodes a text. Returns the exit code.

    A source of None is the validation split or the validation corpus; the settings override the file.
    """
    # `TrainConfig` requires a name; nothing here depends on it.
    config = load_config(config_file, {"name": "tokenizer", **settings})
    if source == config.corpus == "-":
        raise ConfigError("corpus and text are both -: standard input can be read only once")
    if config.base is not None:
        raise ConfigError(f"from = {config.base}: a fine-tuned model has the vocabulary of its base; omit from")
    corpus = read_corpus(config.corpus, config.documents, label_columns=config.label_column or ())
    other = config.validation_corpus
    fraction = config.validation_fraction(corpus.num_characters) if other is None else 0.0
    head, tail = corpus.split(fraction, config.seed)
    if source is not None:
        text, name = read_corpus(source, config.documents, role="text"), source
    elif other is not None:
        text, name = read_corpus(other, config.documents, role="validation corpus"), f"the validation corpus {other}"
    else:
        text, name = (tail, "the validation split") if tail else (head, "the corpus, as nothing is held out")
    tokenizer = train_tokenizer(config, head, learn_columns(head))
    sizes = f"{head.num_characters:,} of {corpus.num_characters:,} characters"
    print(f"{config.token_unit}: a vocabulary of {len(tokenizer.tokens):,} tokens from {sizes} of {corpus.name}")
    first = range(min(show, len(tokenizer.tokens)))
    for line in (
        *describe_dropped_words(config, head, tokenizer),
        *([f"the first {len(first)}: {_labels(tokenizer, first)}"] if first else []),
        f"text: {name}",
        *describe(tokenizer, text),
    ):
        print(line)
    if save is not None:
        write_atomically(save, tokenizer.to_json())
        print(f"saved {save}")
    return 0


def _labels(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """Format tokens with their white space; show incomplete characters as bytes."""
    labels = map(tokenizer.detokenizer().label, token_ids)
    return " ".join(label if label.startswith("bytes:") else repr(label) for label in labels)


def describe(tokenizer: Tokenizer, text: Corpus) -> Iterator[str]:
    """Yield the lines that show how a text is encoded: its beginning, and the counts of all documents."""
    beginning, continues = _first_excerpt(text)
    yield from _first_lines(tokenizer, beginning, continues=continues)
    num_tokens, num_lines, unknown = 0, 0, Counter[str]()
    for chunk, is_last in text.chunks("encoding"):
        ids = tokenizer.encode(chunk)
        num_tokens += len(ids)
        # A trailing newline does not start another line.
        num_lines += chunk.count("\n") + is_last * (not chunk.endswith("\n"))
        if tokenizer.special.unknown in ids:
            unknown.update(_unknown_excerpts(tokenizer, chunk, ids))
    yield (
        f"{num_tokens:,} tokens: {num_tokens / num_lines:.1f} per line, "
        f"{text.num_characters / max(1, num_tokens):.2f} characters per token"
    )
    yield f"unknown: {unknown.total():,} tokens, {unknown.total() / max(1, num_tokens):.2%}"
    for excerpt, count in unknown.most_common(SHOWN_UNKNOWN):
        yield f"  {count:,} × {excerpt!r}"


def _first_excerpt(text: Corpus) -> tuple[str, bool]:
    """Return the beginning of the first document, with the lines to show, and whether the document continues."""
    beginning, continues = "", False
    for chunk in text.chunks():
        beginning, continues = beginning + chunk.text, not chunk.is_last
        whole_lines = [line for line in beginning.splitlines()[:-1] if line.strip()]
        if not continues or len(whole_lines) >= SHOWN_LINES or len(beginning) >= SHOWN_CHARACTERS:
            break
    return beginning, continues


def _first_lines(tokenizer: Tokenizer, document: str, *, continues: bool) -> Iterator[str]:
    """Yield ids and tokens of the first lines that are not blank; a token is shown with the line that it begins in."""
    lines = document.splitlines(keepends=True)
    numbers = [number for number, line in enumerate(lines) if line.strip()][:SHOWN_LINES]
    line_starts = list(accumulate(map(len, lines[: max(numbers, default=-1) + 1]), initial=0))
    shown = document[: line_starts[-1]]
    pairs = list(zip(tokenizer.offsets(shown), tokenizer.encode(shown), strict=True))
    for number in numbers:
        ids = [token_id for offset, token_id in pairs if line_starts[number] <= offset < line_starts[number + 1]]
        # The rest of a line that is longer than the excerpt is not counted.
        at_least = "at least " if continues and number == len(lines) - 1 else ""
        more = f" … and {at_least}{len(ids) - SHOWN_TOKENS:,} more" if len(ids) > SHOWN_TOKENS else ""
        yield f"  {' '.join(map(str, ids[:SHOWN_TOKENS]))}{more}"
        yield f"  {_labels(tokenizer, ids[:SHOWN_TOKENS])}{more}"


def _unknown_excerpts(tokenizer: Tokenizer, text: str, ids: list[int]) -> Iterator[str]:
    offsets = [*tokenizer.offsets(text), len(text)]
    for start, end, token_id in zip(offsets, offsets[1:], ids, strict=False):
        if token_id == tokenizer.special.unknown:
            # The span of a word also covers separators outside words; elsewhere an unknown token is one character.
            words = tokenizer.rules.words(text[start:end]) if isinstance(tokenizer, WordTokenizer) else []
            yield words[0] if words else text[start]


def train_tokenizer(config: TrainConfig, corpus: Corpus, columns: Iterable[LabelColumn] = ()) -> Tokenizer:
    """Build the vocabulary from the training split, and add the labels of the columns.

    Raises:
        CorpusError: the split has fewer than `MIN_VOCABULARY` different tokens.
        TokenizerError: the settings leave no room for a vocabulary, or a label is a token of the text.
    """
    tokenizer = _train(config, corpus)
    if labels := label_tokens(columns):
        tokenizer = tokenizer.extended((), end_token=corpus.ends, labels=labels)
    num_texts = sum(bool(tokenizer.decode([i])) for i in range(len(tokenizer.tokens)))
    if num_texts < MIN_VOCABULARY:
        raise CorpusError(
            f"corpus {corpus.name}: at least {MIN_VOCABULARY} different {_PLURALS[config.token_unit]} are needed, "
            f"got {num_texts}"
        )
    return tokenizer


def describe_dropped_words(config: TrainConfig, corpus: Corpus, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield a line with the number of words of the training split that a vocabulary limit removed, if any."""
    setting, limit = ("num_words", config.num_words) if config.num_words else ("vocab_size", config.vocab_size)
    if limit is None:
        return
    if config.token_unit == "word":
        words = {word for text in corpus.texts("counting words") for word in KERAS_RULES.words(text)}
        kind, fate = "different words", "the others are unknown"
    elif isinstance(tokenizer, SpelledVocabulary):
        words = set(count_words(corpus.texts("counting words"), tokenizer.pre_tokenizer, MIN_FREQUENCY))
        noun = "matches" if config.token_unit == "regex" else "words"
        kind, fate = f"different {noun} that occur at least {MIN_FREQUENCY} times", "the others are spelled"
    else:
        return
    num_kept = len(words.intersection(tokenizer.tokens))
    if num_kept < len(words):
        yield f"{setting} = {limit:,} keeps {num_kept:,} of {len(words):,} {kind}; {fate}"


def _train(config: TrainConfig, corpus: Corpus) -> Vocabulary:
    texts, end_token = corpus.texts("learning the vocabulary"), corpus.ends
    if config.token_unit == "character":
        return CharacterTokenizer.train(texts, end_token=end_token)
    if config.token_unit == "word":
        return WordTokenizer.train(texts, num_words=config.num_words, end_token=end_token)
    num_words, vocab_size = config.num_words, config.vocab_size
    if config.token_unit == "exact_word":
        return ExactWordTokenizer.train(texts, num_words=num_words, vocab_size=vocab_size, end_token=end_token)
    if config.token_regex is not None:
        return RegexTokenizer.train(
            texts, regexes=config.token_regex, num_words=num_words, vocab_size=vocab_size, end_token=end_token
        )
    return SubwordTokenizer.train(texts, vocab_size=vocab_size or DEFAULT_VOCAB_SIZE, end_token=end_token)
