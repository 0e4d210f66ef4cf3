"""Generated samples: one after each epoch, those stored in a version, and those checked for memorization."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice

import keras
import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import Sample
from contract.label_columns import LabelColumn, opening_ids
from contract.tokenizers import Tokenizer, WordTokenizer
from export.config import TrainConfig
from export.corpora.corpus import Chunk
from export.corpora.memorization import Memorization, find_memorized_spans
from export.graphs.exportable import prepare
from export.graphs.signatures import Generator
from export.graphs.specs import input_specs
from export.interrupts import raise_if_interrupted

SAMPLE_TOKENS = 200
# Characters of a sample that are shown: 200 words would fill the screen.
SAMPLE_CHARACTERS = 400
# Characters of the prompt, or of the suffix of a backward model.
PROMPT_CHARACTERS = 40
SAMPLE_TEMPERATURE = 0.7
# Maximum number of labels with a sample each.
MAX_LABELLED = 4

# Samples that a version stores.
KEPT_TEMPERATURES = (0.5, 0.8, 1.0)
KEPT_TOKENS = SAMPLE_CHARACTERS

# Memorization check: batch size and words per sequence, some 4,000 words in all. A sliding-window model recomputes its
# window for every token, so it generates fewer sequences.
MEMORIZATION_BATCH_SIZE, MEMORIZATION_WINDOWS, MEMORIZATION_WORDS = 64, 16, 64
# Maximum tokens per sequence, and maximum tokens that a sliding-window model reads for it.
MAX_MEMORIZATION_TOKENS, MAX_MEMORIZATION_READ = 512, 16_384
# Maximum number of batches, as sequences may end early.
MAX_MEMORIZATION_BATCHES = 4


class SampleWriter:
    """Generates samples with the `prefill` and `decode` that are published, for the models of one training run.

    The prompts come from documents, preferably held out; without documents, they are empty. So are those from a short
    document with an end, such as a name, after which there would be nothing to generate. The run's seed determines
    prompts and sampling. `columns` are the label columns of the model.

    Attributes:
        documents: The text.
    """

    def __init__(
        self, tokenizer: Tokenizer, documents: Sequence[str], config: TrainConfig, columns: Sequence[LabelColumn] = ()
    ) -> None:
        self._tokenizer, self.documents, self._config, self._columns = tokenizer, documents, config, columns
        self._lengths = np.array([len(document) for document in documents])
        self._backward = config.direction == "backward"
        self._rng = np.random.default_rng(config.seed)
        self._generator: Generator | None = None

    def write(self, model: keras.Model) -> tuple[Sample, ...]:
        """Return the continuation of a prompt; for a model with labels, a text for each of some labels."""
        labels = self._some_labels(MAX_LABELLED)
        temperatures, num_characters = [SAMPLE_TEMPERATURE] * len(labels), SAMPLE_CHARACTERS // len(labels)
        return self._samples(model, labels, temperatures, SAMPLE_TOKENS, num_characters, self._rng)

    def samples(self, model: keras.Model) -> tuple[Sample, ...]:
        """Return the reproducible samples that a version stores; with labels, each has one of them."""
        rng, count = np.random.default_rng([self._config.seed, 0]), len(KEPT_TEMPERATURES)
        labels = [*islice(cycle(self._some_labels(count)), count)]
        return self._samples(model, labels, KEPT_TEMPERATURES, KEPT_TOKENS, SAMPLE_CHARACTERS, rng)

    def _some_labels(self, count: int) -> list[dict[str, str]]:
        """Return at most `count` labels, spread over all columns; without columns, one text without a label."""
        labels = [{column.name: value} for column in self._columns for value in column.values] or [{}]
        return labels[:: -(-len(labels) // count)]

    def _samples(
        self,
        model: keras.Model,
        labels: Sequence[dict[str, str]],
        temperatures: Sequence[float],
        num_tokens: int,
        num_characters: int,
        rng: np.random.Generator,
    ) -> tuple[Sample, ...]:
        self._use_model(model)
        prompts = ["" if given else self._pick_prompt(rng) for given in labels]
        texts = self._generate(prompts, temperatures, num_tokens, rng, labels=labels)
        shown = slice(-num_characters, None) if self._backward else slice(num_characters)
        return tuple(
            Sample(temperature=temperature, given=prompt, text=text[shown], labels=given)
            for temperature, prompt, text, given in zip(temperatures, prompts, texts, labels, strict=True)
        )

    def measure_memorization(self, model: keras.Model, training_text: Iterable[Chunk]) -> Memorization:
        """Generate some 4,000 words at temperature 1 and find their n-gram overlap with the training text.

        A sliding-window model generates 1,000 words.
        """
        self._use_model(model)
        rng, generated = np.random.default_rng([self._config.seed, 1]), list[str]()
        batch_size = MEMORIZATION_WINDOWS if self._config.window_length else MEMORIZATION_BATCH_SIZE
        for _ in range(MAX_MEMORIZATION_BATCHES if self._tokenizer.special.end is not None else 1):
            prompts = [self._pick_prompt(rng) for _ in range(batch_size)]
            num_tokens = self._num_memorization_tokens(prompts)
            generated += self._generate(prompts, [1.0] * batch_size, num_tokens, rng)
            raise_if_interrupted()
            if sum(len(self._words(text)) for text in generated) >= batch_size * MEMORIZATION_WORDS // 2:
                break
        return find_memorized_spans(generated, training_text, self._words)

    def _words(self, text: str) -> list[str]:
        """Return the words of a text, as the model generates them."""
        tokenizer = self._tokenizer
        if isinstance(tokenizer, WordTokenizer):
            return tokenizer.rules.words(text)
        if tokenizer.changes_text:
            text = tokenizer.decode(tokenizer.encode(text))
        return text.split()

    def _num_memorization_tokens(self, prompts: Sequence[str]) -> int:
        """Return how many tokens make `MEMORIZATION_WORDS` words, within the limits."""
        num_tokens = sum(len(self._tokenizer.encode(prompt)) for prompt in prompts)
        num_words = sum(len(self._words(prompt)) for prompt in prompts)
        num_needed = -(-MEMORIZATION_WORDS * num_tokens // max(1, num_words)) or MAX_MEMORIZATION_TOKENS
        num_readable = MAX_MEMORIZATION_READ // (self._config.window_length or 1)
        return max(1, min(num_needed, MAX_MEMORIZATION_TOKENS, num_readable))

    def _pick_prompt(self, rng: np.random.Generator) -> str:
        """Return a random excerpt of a document, cut at word boundaries; empty if it is as long as the document."""
        if not len(self._lengths):
            return ""
        text = self.documents[rng.choice(len(self._lengths), p=self._lengths / self._lengths.sum())]
        if self._tokenizer.special.end is not None and len(text) <= PROMPT_CHARACTERS:
            return ""
        first = int(rng.integers(0, max(1, len(text) - PROMPT_CHARACTERS)))
        words = text[first : first + PROMPT_CHARACTERS].split(" ")
        # The first and the last word may be incomplete, unless the document begins or ends there.
        complete = words[first > 0 : len(words) - (first + PROMPT_CHARACTERS < len(text))]
        return " ".join(complete if any(complete) else words)

    def _use_model(self, model: keras.Model) -> None:
        """Use this model from now on. The first call traces the graph; later calls only assign its variables."""
        fresh = Generator(prepare(model).network, self._tokenizer.special, len(self._tokenizer.tokens))
        if self._generator is None:
            self._generator = fresh
            specs = input_specs(fresh.network.state_size, fresh.network.output_size, fresh.network.vocab_size)
            self._prefill_signature, self._decode_signature = (
                tf.function(function, autograph=False).get_concrete_function(**specs[name])
                for name, function in ((signatures.PREFILL, fresh.prefill), (signatures.DECODE, fresh.decode))
            )
        else:
            for variable, value in zip(self._generator.variables, fresh.variables, strict=True):
                variable.assign(value)

    def _generate(
        self,
        prompts: Sequence[str],
        temperatures: Sequence[float],
        num_tokens: int,
        rng: np.random.Generator,
        labels: Sequence[Mapping[str, str]] = (),
    ) -> list[str]:
        """Return the continuation of each prompt; for a backward model, the text before each suffix.

        Each sequence has a temperature; an end token may end it before `num_tokens`. A sequence begins with its
        `labels`, if given.
        """
        last, state = self._prefill(prompts, labels)
        batch_size, special, sampled = len(prompts), self._tokenizer.special, []
        ended = np.zeros(batch_size, bool)
        for start in range(0, num_tokens, signatures.MAX_DECODE_STEPS):
            count = min(signatures.MAX_DECODE_STEPS, num_tokens - start)
            decoded = self._decode_signature(
                token_id=tf.constant(last),
                state=state,
                uniforms=tf.constant(rng.random((batch_size, count), dtype=np.float32)),
                steps=tf.constant(np.where(ended, 0, count).astype(np.int32)),
                temperature=tf.constant(temperatures, tf.float32),
                top_k=tf.zeros([batch_size], tf.int32),
                top_p=tf.ones([batch_size]),
                min_p=tf.zeros([batch_size]),
            )
            token_ids, state = decoded["token_ids"].numpy(), decoded["state"]
            # After its end token a sequence has padding zeros, which decode to no text.
            sampled.append(token_ids)
            last, ended = token_ids[:, -1], ended | (token_ids == special.end).any(axis=1)
            if ended.all():
                break
        return [self._text(*pair) for pair in zip(prompts, np.concatenate(sampled, axis=1).tolist(), strict=True)]

    def _prefill(
        self, prompts: Sequence[str], labels: Sequence[Mapping[str, str]] = ()
    ) -> tuple[np.ndarray, tf.Tensor]:
        """Return the last token of each prompt, int32 (batch,), and the state before it, float32 (batch, S)."""
        assert self._generator is not None, "_use_model comes first"
        step, encoded = (-1 if self._backward else 1), []
        for prompt, given in zip(prompts, labels or [{}] * len(prompts), strict=True):
            token_ids = self._tokenizer.encode(prompt)[::step]
            # Without labels, a prompt is an excerpt from within a document.
            opens = given or not token_ids
            encoded.append([*(opening_ids(self._tokenizer, self._columns, given) if opens else ()), *token_ids])
        padded = np.zeros((len(encoded), max(map(len, encoded)) - 1), np.int32)
        for slot, ids in enumerate(encoded):
            padded[slot, : len(ids) - 1] = ids[:-1]
        prefilled = self._prefill_signature(
            token_ids=tf.constant(padded),
            lengths=tf.constant([len(ids) - 1 for ids in encoded], tf.int32),
            state=tf.zeros([len(encoded), self._generator.network.state_size]),
        )
        return np.array([ids[-1] for ids in encoded], np.int32), prefilled["state"]

    def _text(self, prompt: str, sampled: list[int]) -> str:
        detokenizer = self._tokenizer.detokenizer(prompt, backward=self._backward)
        text, rest = detokenizer.feed(sampled), detokenizer.flush()
        return rest + text if self._backward else text + rest
