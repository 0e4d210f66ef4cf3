"""Training data: a corpus split, encoded and laid out in batches, and the facts about it.

Knows corpora, tokenizers and the settings. Does not know the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from contract.card import CorpusDescription
from contract.tokenizer import Tokenizer
from export.config import TrainConfig
from export.corpora.corpus import Corpus, read_corpus
from export.errors import CorpusError
from export.terminal import echo
from export.training.dataset import Dataset
from export.training.embeddings import initial_embedding
from export.training.memory import require_memory
from export.training.model import count_parameters
from export.training.report import count_characters


@dataclass(frozen=True)
class TrainingData:
    """A corpus, split, encoded and laid out.

    Attributes:
        corpus: The whole corpus.
        head: The training split.
        tail: The validation split; None if nothing is held out.
        embedding: Initial embedding, float32 (vocab, embedding); None if Keras initializes it, or the run is resumed.
    """

    corpus: Corpus
    head: Corpus
    tail: Corpus | None
    dataset: Dataset
    tokenizer: Tokenizer
    embedding: np.ndarray | None = None

    @classmethod
    def prepare(cls, config: TrainConfig, corpus: Corpus, tokenizer: Tokenizer) -> "TrainingData":
        """Split, encode and lay out a whole corpus; the tokenizer was trained on the training split.

        Raises:
            CorpusError: the corpus is too small.
            TrainingFailed: the model and one update do not fit into memory.
        """
        head, tail = corpus.split(config.validation, config.seed)
        dataset, vocab_size = Dataset.lay_out(head, tail, tokenizer, config), len(tokenizer.tokens)
        require_memory(config, count_parameters(config, vocab_size), vocab_size, dataset.train.batch_tokens)
        return cls(corpus, head, tail, dataset, tokenizer)

    def with_embedding(self, config: TrainConfig) -> "TrainingData":
        """Return the data with an initial embedding, if the settings ask for one.

        Raises:
            ConfigError: the vector file cannot be used.
            CorpusError: the training text has no token to learn a vector for.
        """
        if config.embedding_init is None:
            return self
        ids = self.dataset.train.ids
        embedding = initial_embedding(config.embedding_init, self.tokenizer, ids, config.embedding, config.seed, echo)
        return replace(self, embedding=embedding)

    @property
    def prompt_source(self) -> Sequence[str]:
        """Documents, or excerpts of them, for the prompts of samples: held out, if anything is."""
        return (self.tail or self.head).excerpts()

    @cached_property
    def description(self) -> CorpusDescription:
        """The description of the corpus for the card."""
        validation = self.dataset.validation
        how = "shuffled_documents" if self.corpus.ends else "tail"
        return CorpusDescription(
            corpus=self.corpus.name,
            corpus_sha256=self.corpus.sha256(),
            corpus_characters=self.corpus.num_characters,
            held_out_characters=self.tail.num_characters if self.tail else 0,
            held_out=how if self.tail else None,
            held_out_sha256=self.tail.sha256() if self.tail else None,
            train_tokens=self.dataset.train.num_tokens,
            validation_tokens=self.dataset.num_evaluated,
            validation_characters=count_characters(self.tokenizer, validation.ids) if validation else 0,
        )


def require_enough(config: TrainConfig, corpus: Corpus) -> None:
    """Raise CorpusError if a corpus is so small that a model would only memorize it."""
    if corpus.num_characters < config.min_characters:
        raise CorpusError(
            f"corpus {corpus.name}: at least {config.min_characters:,} characters are needed, got "
            f"{corpus.num_characters:,}; to train on it anyway, pass --min-characters {corpus.num_characters}"
        )


def reread_corpus(config: TrainConfig, corpus_sha256: str) -> Corpus | None:
    """Return the corpus of a run; None if it cannot be read again or has changed."""
    try:
        corpus = None if config.corpus == "-" else read_corpus(config.corpus, config.documents)
    except CorpusError:
        return None
    return corpus if corpus and corpus.sha256() == corpus_sha256 else None
