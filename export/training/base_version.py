"""The published version that a fine-tuning starts from: its settings, its tokenizer and its lineage."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contract.card import Ancestor, GeneratorCard, Lineage
from contract.label_columns import LabelColumn, label_tokens
from contract.signatures import ASSETS
from contract.tokenizers import ImportedTokenizer, Tokenizer
from contract.tokenizers.base import Vocabulary
from export.config import TrainConfig, architecture_of, require_architecture, validated
from export.corpora.corpus import Corpus
from export.errors import ConfigError
from export.repository.versions import KERAS_FILE, Repository, Version


@dataclass(frozen=True)
class BaseVersion:
    """A published version that a fine-tuning starts from."""

    version: Version
    card: GeneratorCard
    tokenizer: Vocabulary

    @classmethod
    def find(cls, reference: str, models_dir: Path) -> "BaseVersion":
        """Find the version NAME:VERSION, or the newest one of NAME.

        Raises:
            RepositoryError: there is no such version, or it is damaged.
            ConfigError: it has no Keras model, or a tokenizer that cannot encode a corpus.
        """
        version = Repository(models_dir).named(reference)[-1]
        card, tokenizer = version.read()
        base = cls(version, card, tokenizer)
        if not base.keras_file.is_file():
            base._refuse(f"it has no {KERAS_FILE}, as it was imported from a SavedModel")
        if isinstance(tokenizer, ImportedTokenizer) or not isinstance(tokenizer, Vocabulary):
            base._refuse("it has an imported tokenizer of Hugging Face's library")
        if card.training is None and (card.context is not None or card.cell is None or not card.embedding):
            base._refuse(
                "it was imported, and has layers other than Embedding, recurrent ones of one kind and size, and Dense"
            )
        return base

    def _refuse(self, reason: str) -> None:
        raise ConfigError(f"from = {self.version.label}: this version cannot be trained further: {reason}")

    @property
    def keras_file(self) -> Path:
        return self.version.path / ASSETS / KERAS_FILE

    def complete(self, config: TrainConfig) -> TrainConfig:
        """Return the settings of a run with the architecture of this version, and its number in `base`.

        Raises:
            ConfigError: a setting that was given contradicts the architecture.
        """
        require_architecture(config, self.card, self.version.label)
        return validated({**config.model_dump(), **architecture_of(self.card), "base": self.version.label})

    def extended_tokenizer(self, corpus: Corpus, columns: Iterable[LabelColumn] = ()) -> Tokenizer:
        """Return the tokenizer with the new characters and labels of a training split.

        If the split has documents, the tokenizer has an end token, too.
        """
        texts, labels = corpus.texts("looking for new characters"), label_tokens(columns)
        return self.tokenizer.extended(texts, end_token=corpus.ends, labels=labels)

    def lineage(self, tokenizer: Tokenizer) -> Lineage:
        """Return the lineage of a model that is fine-tuned from this version with a tokenizer."""
        training = self.card.training
        corpus = {name: getattr(training, name) for name in ("corpus", "corpus_sha256")} if training else {}
        own = Ancestor(
            name=self.version.path.parent.name,
            version=self.version.number,
            weights_sha256=self.card.weights_sha256,
            **corpus,
        )
        before = training.lineage.ancestors if training and training.lineage else ()
        return Lineage(ancestors=(own, *before), added_tokens=tokenizer.tokens[len(self.tokenizer.tokens) :])
