"""A corpus made ready for a training: what is learnt from it, what the training is judged by, and what is said of it.

Knows corpora, tokenizers and the settings. Does not know the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from contract.card import HeldOut
from contract.tokenizer import Tokenizer
from export.config import TrainConfig
from export.corpora.bits_per_character import count_characters
from export.corpora.corpus import Corpus, read_corpus
from export.errors import CorpusError
from export.layout import say
from export.training.dataset import Dataset
from export.training.embeddings import initial_embedding
from export.training.memory import require_memory
from export.training.model import count_parameters
from export.training.runs import CorpusFacts


@dataclass(frozen=True)
class TrainingData:
    """A corpus made ready.

    Attributes:
        corpus: All of it.
        head: What is learnt.
        tail: What is held out, if anything is.
        embedding: What the embedding starts from, float32 (vocab, embedding); None where it starts as Keras starts it,
            or has started.
        is_shuffled: Whether documents were shuffled before the split.
    """

    corpus: Corpus
    head: Corpus
    tail: Corpus | None
    dataset: Dataset
    tokenizer: Tokenizer
    embedding: np.ndarray | None = None
    is_shuffled: bool = False

    @classmethod
    def prepare(
        cls, config: TrainConfig, corpus: Corpus, tokenizer: Tokenizer, *, shuffled: bool = True
    ) -> "TrainingData":
        """Split, encode and lay out a corpus.

        Args:
            config: The settings.
            corpus: All of it.
            tokenizer: Of its part that training sees.
            shuffled: Whether documents are shuffled by the seed before; False for a run that an earlier release began.

        Raises:
            CorpusError: there is too little of it.
            TrainingFailed: the model and a window of it do not fit into memory.
        """
        head, tail = corpus.split(config.validation, config.seed if shuffled else None)
        dataset, vocab_size = Dataset.lay_out(head, tail, tokenizer, config), len(tokenizer.tokens)
        require_memory(config, count_parameters(config, vocab_size), vocab_size, dataset.train.batch_tokens)
        return cls(corpus, head, tail, dataset, tokenizer, is_shuffled=shuffled and corpus.ends)

    def with_embedding(self, config: TrainConfig) -> "TrainingData":
        """Add what the embedding starts from, if the settings name anything.

        Raises:
            ConfigError: a file of vectors does not fit.
            CorpusError: there is no word to learn a vector of.
        """
        if config.embedding_init is None:
            return self
        ids = self.dataset.train.ids
        start = initial_embedding(config.embedding_init, self.tokenizer, ids, config.embedding, config.seed, say)
        return replace(self, embedding=start)

    @property
    def samples_from(self) -> Sequence[str]:
        """Documents that samples go on from, or parts of them: held out, if anything is."""
        return (self.tail or self.head).excerpts()

    @cached_property
    def facts(self) -> CorpusFacts:
        """What the card says of it."""
        validation = self.dataset.validation
        return CorpusFacts(
            corpus=self.corpus.name,
            corpus_sha256=self.corpus.sha256(),
            corpus_characters=self.corpus.num_characters,
            held_out_characters=self.tail.num_characters if self.tail else 0,
            held_out=_held_out(self.is_shuffled) if self.tail else None,
            held_out_sha256=self.tail.sha256() if self.tail else None,
            train_tokens=self.dataset.train.num_tokens,
            validation_tokens=self.dataset.num_judged,
            judged_characters=count_characters(self.tokenizer, validation.ids) if validation else 0,
        )


def _held_out(is_shuffled: bool) -> HeldOut:
    return "shuffled_documents" if is_shuffled else "tail"


def require_enough(config: TrainConfig, corpus: Corpus) -> None:
    """Refuse a corpus that is too small to learn anything from but itself.

    Raises:
        CorpusError: it has fewer characters than the settings ask for.
    """
    if corpus.num_characters < config.min_characters:
        raise CorpusError(
            f"corpus {corpus.name}: at least {config.min_characters:,} characters are needed, got "
            f"{corpus.num_characters:,}; to train on so few all the same: --min-characters {corpus.num_characters}"
        )


def read_again(config: TrainConfig, facts: CorpusFacts) -> Corpus | None:
    """Return the corpus of a training, if it can be read again and is still the same."""
    try:
        corpus = None if config.corpus == "-" else read_corpus(config.corpus, config.documents)
    except CorpusError:
        return None
    return corpus if corpus and corpus.sha256() == facts.corpus_sha256 else None
