"""Texts that a model writes: a sample after each epoch, and those that a version keeps.

Knows `decode` as it is published, and where in a text a sample begins. Does not know screens or files.
"""

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import Sample
from contract.tokenizer import Tokenizer, WordTokenizer
from export.config import TrainConfig
from export.corpora.memorization import Memorization, find_memorized_spans
from export.corpora.text import Piece
from export.graphs.exportable import prepare
from export.graphs.signatures import Generator
from export.graphs.specs import input_specs

SAMPLE_TOKENS = 200
# Of these, what is shown: 200 words would fill the screen.
SAMPLE_CHARACTERS = 400
# Characters of given text that a sample goes on from, or leads up to.
SAMPLE_GIVEN = 40
SAMPLE_TEMPERATURE = 0.7

# What a version keeps.
KEPT_TEMPERATURES = (0.5, 0.8, 1.0)
KEPT_TOKENS = SAMPLE_CHARACTERS

# Texts written side by side to look for copies in, and words wanted of each: some 4,000 in all. A window model, which
# reads its window anew for every token, writes fewer texts.
COPY_ROWS, COPY_WINDOW_ROWS, COPY_WORDS = 64, 16, 64
# Bounds of each text's tokens, and of the tokens that a window model reads for it.
MAX_COPY_TOKENS, MAX_COPY_READ = 512, 16_384
# Rounds of these, where texts may end early.
MAX_COPY_ROUNDS = 4

Obey = Callable[[], None]


class Writer:
    """Lets a model go on with texts, or lead up to them, by the same `decode` that is published."""

    def __init__(self, tokenizer: Tokenizer, *, backward: bool) -> None:
        self._tokenizer, self._backward = tokenizer, backward
        self._generator: Generator | None = None

    def take(self, model: keras.Model) -> None:
        """Write with this model from now on; the graph is traced once, and its variables are assigned after."""
        fresh = Generator(prepare(model).network, self._tokenizer.special, len(self._tokenizer.tokens))
        if self._generator is None:
            self._generator = fresh
            specs = input_specs(fresh.network.state_size, fresh.network.output_size)
            self._prefill = tf.function(fresh.prefill).get_concrete_function(**specs[signatures.PREFILL])
            self._decode = tf.function(fresh.decode).get_concrete_function(**specs[signatures.DECODE])
        else:
            for variable, value in zip(self._generator.variables, fresh.variables, strict=True):
                variable.assign(value)

    def write(
        self,
        given: Sequence[str],
        temperatures: Sequence[float],
        num_tokens: int,
        rng: np.random.Generator,
        raise_if_interrupted: Obey = lambda: None,
    ) -> list[str]:
        """Return what the model makes of each text.

        Args:
            given: What stands before, or behind it.
            temperatures: One for each.
            num_tokens: Bound of each text; one may end before.
            rng: What is drawn with.
            raise_if_interrupted: Called between two steps; what it raises ends the writing.
        """
        last, state = self._read(given)
        rows, special, drawn = len(given), self._tokenizer.special, []
        ended = np.zeros(rows, bool)
        for start in range(0, num_tokens, signatures.MAX_DECODE_STEPS):
            count = min(signatures.MAX_DECODE_STEPS, num_tokens - start)
            decoded = self._decode(
                token_id=tf.constant(last),
                state=state,
                uniforms=tf.constant(rng.random((rows, count), dtype=np.float32)),
                steps=tf.constant(np.where(ended, 0, count).astype(np.int32)),
                temperature=tf.constant(temperatures, tf.float32),
                top_k=tf.zeros([rows], tf.int32),
                top_p=tf.ones([rows]),
                min_p=tf.zeros([rows]),
            )
            token_ids, state = decoded["token_ids"].numpy(), decoded["state"]
            # Behind a row's end stand zeros: padding, which has no text.
            drawn.append(token_ids)
            last, ended = token_ids[:, -1], ended | (token_ids == special.end).any(axis=1)
            raise_if_interrupted()
            if ended.all():
                break
        return [self._text(*pair) for pair in zip(given, np.concatenate(drawn, axis=1).tolist(), strict=True)]

    def _read(self, given: Sequence[str]) -> tuple[np.ndarray, tf.Tensor]:
        """Return the last token of each text, int32 (rows,), and the state before it, float32 (rows, S)."""
        assert self._generator is not None, "take a model first"
        step, start = (-1 if self._backward else 1), [self._tokenizer.special.start]
        rows = [self._tokenizer.encode(text)[::step] or start for text in given]
        token_ids = np.zeros((len(rows), max(map(len, rows)) - 1), np.int32)
        for place, row in enumerate(rows):
            token_ids[place, : len(row) - 1] = row[:-1]
        read = self._prefill(
            token_ids=tf.constant(token_ids),
            lengths=tf.constant([len(row) - 1 for row in rows], tf.int32),
            state=tf.zeros([len(rows), self._generator.network.state_size]),
        )
        return np.array([row[-1] for row in rows], np.int32), read["state"]

    def _text(self, given: str, drawn: list[int]) -> str:
        if self._backward:
            detokenizer = self._tokenizer.backward_detokenizer(given)
            text = detokenizer.feed(drawn)
            return detokenizer.flush() + text
        detokenizer = self._tokenizer.detokenizer(given)
        return detokenizer.feed(drawn) + detokenizer.flush()


class SampleWriter:
    """Lets the models of one training go on with pieces of a text."""

    def __init__(self, tokenizer: Tokenizer, documents: Sequence[str], config: TrainConfig) -> None:
        """Prepare.

        Args:
            tokenizer: The models'.
            documents: Where the pieces come from, best ones that the training does not see; without any, the models
                begin from nothing.
            config: Of the training; its seed chooses places in the text and what is drawn.
        """
        self._tokenizer, self._documents, self._config = tokenizer, documents, config
        self._lengths = np.array([len(document) for document in documents])
        self._backward = config.direction == "backward"
        self._rng = np.random.default_rng(config.seed)
        self._writer = Writer(tokenizer, backward=self._backward)

    def write(self, model: keras.Model) -> str:
        """Return a piece of the text in brackets, and behind it what the model makes of it, or before it."""
        self._writer.take(model)
        given = self._pick_piece(self._rng)
        (text,) = self._writer.write([given], [SAMPLE_TEMPERATURE], SAMPLE_TOKENS, self._rng)
        if self._backward:
            return f"{text}[{given}]"[-SAMPLE_CHARACTERS:]
        return f"[{given}]{text}"[:SAMPLE_CHARACTERS]

    def samples(self, model: keras.Model) -> tuple[Sample, ...]:
        """Return what a version keeps; of one model always the same."""
        self._writer.take(model)
        rng = np.random.default_rng([self._config.seed, 0])
        given = [self._pick_piece(rng) for _ in KEPT_TEMPERATURES]
        texts = self._writer.write(given, KEPT_TEMPERATURES, KEPT_TOKENS, rng)
        kept = slice(-SAMPLE_CHARACTERS, None) if self._backward else slice(SAMPLE_CHARACTERS)
        rows = zip(KEPT_TEMPERATURES, given, texts, strict=True)
        return tuple(Sample(temperature=degree, given=piece, text=text[kept]) for degree, piece, text in rows)

    def copies(self, model: keras.Model, learnt: Iterable[Piece], raise_if_interrupted: Obey) -> Memorization:
        """Let a model write some 4,000 words at temperature 1, a window model 1,000, and look for them.

        Args:
            model: The model.
            learnt: What it was trained on.
            raise_if_interrupted: Called between two steps; what it raises ends the search.
        """
        self._writer.take(model)
        words = self._tokenizer.rules.words if isinstance(self._tokenizer, WordTokenizer) else str.split
        rng = np.random.default_rng([self._config.seed, 1])
        rows, written = COPY_WINDOW_ROWS if self._config.num_seen else COPY_ROWS, list[str]()
        for _ in range(MAX_COPY_ROUNDS if self._tokenizer.special.end is not None else 1):
            given = [self._pick_piece(rng) for _ in range(rows)]
            num_tokens = self._num_copy_tokens(given, words)
            written += self._writer.write(given, [1.0] * rows, num_tokens, rng, raise_if_interrupted)
            if sum(len(words(text)) for text in written) >= rows * COPY_WORDS // 2:
                break
        return find_memorized_spans(written, learnt, words, raise_if_interrupted)

    def _num_copy_tokens(self, given: Sequence[str], words: Callable[[str], list[str]]) -> int:
        """Return how many tokens make `COPY_WORDS` words, within the bounds."""
        num_tokens = sum(len(self._tokenizer.encode(text)) for text in given)
        num_words = sum(len(words(text)) for text in given)
        wanted = -(-COPY_WORDS * num_tokens // max(1, num_words)) or MAX_COPY_TOKENS
        return max(1, min(wanted, MAX_COPY_TOKENS, MAX_COPY_READ // (self._config.num_seen or 1)))

    def _pick_piece(self, rng: np.random.Generator) -> str:
        """Take some characters of a document, from the beginning of a word to the end of one."""
        if not len(self._lengths):
            return ""
        text = self._documents[rng.choice(len(self._lengths), p=self._lengths / self._lengths.sum())]
        first = int(rng.integers(0, max(1, len(text) - SAMPLE_GIVEN)))
        words = text[first : first + SAMPLE_GIVEN].split(" ")
        # The first and the last word may be cut, unless the document begins or ends there.
        whole = words[first > 0 : len(words) - (first + SAMPLE_GIVEN < len(text))]
        return " ".join(whole if any(whole) else words)
