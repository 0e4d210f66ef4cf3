"""The training workflow, from corpus to published version: the order of its steps, and how it is interrupted."""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from contract.card import CorpusDescription, Lineage, NoTrainingFilter, Sample, TrainingReport
from contract.files import write_atomically
from contract.label_columns import LabelColumn
from contract.tokenizers import Tokenizer, WordTokenizer
from contract.training_filter import TrainingFilter
from export.config import MODELS, TrainConfig
from export.corpora.bits_per_character import bits_per_character
from export.corpora.corpus import Corpus, read_corpus
from export.corpora.labels import learn_columns
from export.corpora.memorization import SPAN_WORDS, Memorization
from export.corpora.training_filter import build_training_filter
from export.errors import CorpusError, ExportError, RunError, TrainingFailed
from export.interrupts import deferred_interrupts, raise_if_interrupted
from export.repository.history import Progress
from export.repository.plots import history_png
from export.repository.publishing import publish, require_writable
from export.terminal import echo, file_size
from export.training.base_version import BaseVersion
from export.training.dataset import Dataset, Mixed
from export.training.devices import Devices
from export.training.display import EventWriter, ProgressFile, TerminalDisplay
from export.training.initial_weights import Weights, initial_weights
from export.training.model import build_model, count_parameters, require_memory
from export.training.optimization import precision_of
from export.training.runs import PICTURE, RunFolder
from export.training.samples import SampleWriter
from export.training.trainer import Display, Trainer
from export.vocabulary import describe_dropped_words, train_tokenizer


@dataclass(frozen=True)
class TrainingRun:
    """A training run in its directory, and the repository that it publishes to."""

    folder: RunFolder
    models_dir: Path
    config: TrainConfig
    tokenizer: Tokenizer
    corpus: CorpusDescription
    devices: Devices = field(default_factory=Devices)
    progress_file: Path | None = None  # see `ProgressFile`
    evaluations: int = 1  # see `Trainer`
    publishes: bool = True  # whether the best epoch is published at the end

    def _describe(self, corpus: Corpus, dataset: Dataset) -> None:
        """Print the model and its training text."""
        config, lineage, vocab_size = self.config, self.folder.lineage(), len(self.tokenizer)
        held_out = dataset.validation.num_tokens if dataset.validation else 0
        sampled = f", documents sampled by seed {config.seed}" if self.corpus.held_out == "shuffled_documents" else ""
        unknown = f" ({dataset.share_unknown:.1%} of it unknown)" if dataset.share_unknown else ""
        echo(
            f"corpus {corpus.name}: {corpus.num_characters:,} characters in {corpus.num_documents:,} document(s), "
            f"vocabulary {vocab_size:,}"
        )
        dropped = describe_dropped_words(config, dataset.head, self.tokenizer)
        for line in _describe_lineage(lineage, dataset) if lineage else dropped:
            echo(line)
        train, mixed = dataset.train, ""
        if isinstance(train, Mixed):
            mixed = f", of them {train.num_other_tokens:,} of {config.mix}"
        echo(f"{train.num_tokens:,} tokens to train on{mixed}, {held_out:,} held out{unknown}{sampled}")
        if (loss := self.corpus.ngram_loss) is not None:
            echo(f"baseline: {self.corpus.ngram_order}-grams of this text reach {loss:.3f} nats/token")
        for column in dataset.columns:
            echo(f"label {column.name}: {', '.join(column.values)}")
        ways, length = "", f"sequences × {config.sequence_length} steps"
        if config.bidirectional:
            ways, length = "bidirectional ", f"windows of {config.window_length}"
        echo(
            f"model {config.name}: {config.layers} × {ways}{config.cell}, {config.units} units, "
            f"{count_parameters(config, vocab_size):,} parameters, {train.batch_size} {length}"
        )
        echo(f"precision {precision_of(config, self.devices)}, on {self.devices.describe()}")
        if not held_out:
            print(
                "warning: nothing is held out: the training loss measures only how well the text is memorized",
                file=sys.stderr,
            )

    def train_and_publish(self, corpus: Corpus, dataset: Dataset, weights: Weights | None) -> None:
        """Train from the last complete epoch on; the chief publishes.

        The initial weights are None if they are random or the run has an epoch.
        """
        self._describe(corpus, dataset)
        try:
            writer = self.sample_writer(dataset.tail or dataset.head)
            with deferred_interrupts():
                progress = self._train(dataset, weights, writer)
                if self.devices.is_chief:
                    if self.publishes:
                        self.publish(progress, writer, dataset.head)
                    else:
                        echo(f"publish the best epoch, {progress.best_epoch}, with:  {self.command('publish')}")
                    self._warn_if_something_is_better(progress)
        except (KeyboardInterrupt, ExportError, OSError, tf.errors.ResourceExhaustedError) as error:
            self._suggest_commands(can_resume=isinstance(error, KeyboardInterrupt | OSError))
            if isinstance(error, tf.errors.ResourceExhaustedError):
                config, (reason, *_) = self.config, error.message.split("\n")
                raise TrainingFailed(
                    f"{reason}; lower --batch-size (now {config.batch_size}), --sequence-length (now "
                    f"{config.sequence_length}) or --units (now {config.units})"
                ) from error
            raise

    def sample_writer(self, text: Corpus | None) -> SampleWriter:
        documents = text.excerpts() if text else ()
        return SampleWriter(self.tokenizer, documents, self.config, self.corpus.label_columns)

    def _train(self, dataset: Dataset, weights: Weights | None, writer: SampleWriter) -> Progress:
        with self.devices.strategy.scope():
            model = build_model(self.config, len(self.tokenizer.tokens), dataset.target_counts)
        if weights is not None:
            model.set_weights(weights)
        before = self.folder.progress()
        trainer = Trainer(self.config, model, dataset, self.devices, self.evaluations)
        if not self.devices.is_chief:
            return trainer.run(self.folder)
        with contextlib.ExitStack() as stack:
            terminal = stack.enter_context(TerminalDisplay(writer.write, self.config.direction))
            displays: list[Display] = [terminal]
            if self.progress_file is not None:
                displays.append(ProgressFile(self.progress_file, lambda: terminal.samples, before))
            if self.config.tensorboard:
                events = EventWriter(self.folder.events, self.config, before.last.tokens)
                displays.append(stack.enter_context(events))
            progress = trainer.run(self.folder, displays)
        if progress.epochs == before.epochs:
            echo(f"nothing is left to train: {progress.epochs} epochs are done")
        write_atomically(self.folder.path / PICTURE, history_png(progress, self.config.name))
        return progress

    def _warn_if_something_is_better(self, progress: Progress) -> None:
        before, baseline, reached = progress.base_loss, self.corpus.ngram_loss, progress.best.validation_loss
        if reached is not None and before is not None and reached >= before:
            print(
                f"warning: no epoch is better than {self.config.base}, whose validation loss is {before:.3f}: lower "
                f"--learning-rate (now {self.config.learning_rate}), or give more text",
                file=sys.stderr,
            )
        if reached is not None and baseline is not None and reached >= baseline:
            print(
                f"warning: the validation loss is {reached:.3f}, and counting {self.corpus.ngram_order}-grams gives "
                f"{baseline:.3f}. The model needs more updates: train longer, with fewer --units, with a smaller "
                f"--batch-size or --sequence-length, or with a smaller vocabulary; or more text",
                file=sys.stderr,
            )

    def publish(self, progress: Progress, writer: SampleWriter, training_text: Corpus | None) -> None:
        """Publish the best epoch. Ctrl-C and SIGTERM have no effect during the last step, which writes the version.

        Without the training text, memorization is not measured, and the version has no training filter.
        """
        model, best = self.folder.load_best(progress), progress.best
        raise_if_interrupted()
        echo(f"generating samples with epoch {progress.best_epoch}, the best one")
        samples, memorization = writer.samples(model), None
        if training_text is not None:
            chunks = training_text.chunks("measuring memorization")
            memorization = writer.measure_memorization(model, chunks)
        if memorization and memorization.share is not None:
            spans = f"{memorization.num_copied:,} of {memorization.num_spans:,} generated {SPAN_WORDS}-grams of words"
            echo(f"memorization: {spans} occur in the training text ({memorization.share:.1%})")
        training_filter, without = self._training_filter(training_text)
        training = self.report(progress, samples, memorization, without)
        version_dir = publish(
            model,
            self.tokenizer,
            self.config.name,
            self.models_dir,
            training,
            direction=self.config.direction,
            history=progress,
            held_out=writer.documents if self.corpus.held_out else (),
            training_filter=training_filter,
        )
        kind = "training" if best.validation_loss is None else "validation"
        echo(f"published {version_dir}: epoch {progress.best_epoch}, {kind} loss {best.loss:.3f}")

    def report(
        self,
        progress: Progress,
        samples: Sequence[Sample],
        memorization: Memorization | None,
        no_training_filter: NoTrainingFilter | None,
    ) -> TrainingReport:
        """Return the report of the best of at least one epoch for the card, ignoring later epochs.

        `memorization` is None if the training text is unavailable; `no_training_filter` is the reason why the version
        has no training filter.
        """
        best, corpus = progress.best, self.corpus
        return TrainingReport(
            **corpus.model_dump(),
            epochs=round(best.tokens / corpus.train_tokens, 2),
            train_loss=best.train_loss,
            validation_loss=best.validation_loss,
            accuracy=best.accuracy,
            bits_per_character=bits_per_character(
                best.validation_loss, corpus.validation_tokens, corpus.validation_characters
            ),
            tokens_per_s=best.tokens / max(best.seconds, 1e-9),
            seconds=best.seconds,
            seed=self.config.seed,
            parameters=count_parameters(self.config, len(self.tokenizer)),
            settings=self.config.model_dump(mode="json"),
            samples=tuple(samples),
            copied_spans=memorization.share if memorization else None,
            written_spans=memorization.num_spans if memorization else None,
            no_training_filter=no_training_filter,
            lineage=self.folder.lineage(),
            base_loss=progress.base_loss,
        )

    def _training_filter(self, training_text: Corpus | None) -> tuple[TrainingFilter | None, NoTrainingFilter | None]:
        """Return the filter of the training text, or why there is none."""
        if not self.config.training_filter:
            return None, "disabled"
        if training_text is None:
            return None, "no_corpus"
        built = build_training_filter(training_text, self.tokenizer, self.config.direction)
        if built is None:
            echo(f"no training filter: {training_text.num_documents:,} documents are too many")
            return None, "too_many_documents"
        echo(f"training filter: {built.num_entries:,} {built.kind}, {file_size(built.num_bytes)}")
        return built, None

    def _suggest_commands(self, *, can_resume: bool) -> None:
        progress = self.folder.progress()
        echo(f"stopped after {progress.epochs} complete epoch(s)")
        if progress.epochs:
            echo(f"publish the best, epoch {progress.best_epoch}, with:  {self.command('publish')}")
        if can_resume:
            echo(f"resume with:  {self.command('resume')}")

    def command(self, name: str) -> str:
        words = ["sostenuto", name, str(self.folder.path)]
        return shlex.join(words if self.models_dir == MODELS else [*words, "--models-dir", str(self.models_dir)])


def train(config: TrainConfig, models_dir: Path, runs_dir: Path, base: BaseVersion | None = None, **output: Any) -> int:
    """Train from the beginning, or fine-tune a base, and publish the best epoch. Returns the exit code.

    For `progress_file`, `evaluations` and `publishes` see `TrainingRun`.
    """
    require_writable(models_dir / config.name)
    devices = Devices.find(config.batch_size, config.units)
    corpus = _read(config, config.corpus)
    if corpus.num_characters < config.min_characters:
        raise CorpusError(
            f"corpus {corpus.name}: at least {config.min_characters:,} characters are needed, got "
            f"{corpus.num_characters:,}; to train on it anyway, pass --min-characters {corpus.num_characters}"
        )
    head, tail = _split(corpus, config)
    columns = learn_columns(head, base.card.label_columns if base else ())
    tokenizer = train_tokenizer(config, head, columns) if base is None else base.extended_tokenizer(head, columns)
    dataset = _lay_out(config, head, tail, tokenizer, columns)
    weights, lineage = initial_weights(config, dataset, base), base.lineage(tokenizer) if base else None
    description, folder = dataset.describe(corpus), RunFolder(runs_dir / config.name)
    with folder.locked() if devices.is_chief else contextlib.nullcontext():
        # Only after all checks: a failing command must not replace the previous run.
        previous = folder.create(config, tokenizer, description, lineage, weights) if devices.is_chief else None
        if previous:
            echo(f"the previous run in {folder.path} is now in {previous}")
        # The other processes read the directory once the chief has created it.
        devices.broadcast(0.0)
        run = TrainingRun(folder, models_dir, config, tokenizer, description, devices, **output)
        run.train_and_publish(corpus, dataset, weights)
    return 0


def resume(run: Path, models_dir: Path, progress_file: Path | None = None) -> int:
    """Resume a run after its last complete epoch and publish the best epoch. Returns the exit code."""
    folder = RunFolder(run)
    config, tokenizer, before = folder.load()
    devices = Devices.find(config.batch_size, config.units)
    require_writable(models_dir / config.name)
    with folder.locked() if devices.is_chief else contextlib.nullcontext():
        corpus = _read(config, config.corpus)
        if corpus.sha256() != before.corpus_sha256:
            raise CorpusError(
                f"corpus {corpus.name}: this is not the text that {run} started with: it has {corpus.num_characters:,} "
                f"characters, the original had {before.corpus_characters:,}"
            )
        head, tail = _split(corpus, config)
        if (tail.sha256() if tail else None) != before.held_out_sha256:
            what = f"corpus {corpus.name}: the validation split is not the one that"
            if config.validation_corpus is not None:
                what = f"validation corpus {config.validation_corpus}: this is not the text that"
            raise CorpusError(f"{what} {run} started with")
        dataset = _lay_out(config, head, tail, tokenizer, before.label_columns)
        if dataset.mixed and before.mixed and dataset.mixed.sha256() != before.mixed.corpus_sha256:
            raise CorpusError(f"mix {dataset.mixed.name}: this is not the text that {run} started with")
        # A run that was stopped before its first complete epoch starts over.
        weights = None if folder.progress().epochs else _first_weights(folder, config)
        resumed = TrainingRun(folder, models_dir, config, tokenizer, before, devices, progress_file)
        resumed.train_and_publish(corpus, dataset, weights)
    return 0


def publish_best(run: Path, models_dir: Path) -> int:
    """Publish the best epoch so far of a run. Returns the exit code."""
    folder = RunFolder(run)
    trained = TrainingRun(folder, models_dir, *folder.load())
    require_writable(models_dir / trained.config.name)
    progress = folder.progress()
    if not progress.epochs:
        raise RunError(f"{run}: no epoch is complete yet; resume with: {trained.command('resume')}")
    head, tail = _reread(trained.config, trained.corpus)
    text = tail if trained.corpus.held_out else head
    if text is None:
        validation = trained.config.validation_corpus
        name = f"corpus {trained.config.corpus}" if validation is None else f"validation corpus {validation}"
        echo(f"{name} is missing or has changed: samples have no prompt")
    if head is None:
        lost = "memorization is not measured, and there is no training filter"
        echo(f"corpus {trained.config.corpus} is missing or has changed: {lost}")
    with deferred_interrupts():
        trained.publish(progress, trained.sample_writer(text), head)
    return 0


def _reread(config: TrainConfig, before: CorpusDescription) -> tuple[Corpus | None, Corpus | None]:
    """Return the training and the validation split of a run; None if it cannot be read again or has changed."""
    corpus = _unchanged(config, config.corpus, before.corpus_sha256)
    head, tail = corpus.split(_held_out_share(config, corpus), config.seed) if corpus else (None, None)
    if config.validation_corpus is not None:
        tail = _unchanged(config, config.validation_corpus, before.held_out_sha256)
    return head, tail


def _unchanged(config: TrainConfig, source: str, sha256: str | None) -> Corpus | None:
    try:
        corpus = None if source == "-" else _read(config, source)
    except CorpusError:
        return None
    return corpus if corpus and corpus.sha256() == sha256 else None


def _split(corpus: Corpus, config: TrainConfig) -> tuple[Corpus, Corpus | None]:
    """Return the training and the validation split; raise CorpusError if the validation corpus cannot be read."""
    head, tail = corpus.split(_held_out_share(config, corpus), config.seed)
    if config.validation_corpus is not None:
        tail = _read(config, config.validation_corpus, "validation corpus")
    return head, tail


def _held_out_share(config: TrainConfig, corpus: Corpus) -> float:
    """Return the held-out share of the corpus: 0 with a separate validation text."""
    return config.validation_fraction(corpus.num_characters) if config.validation_corpus is None else 0.0


def _read(config: TrainConfig, source: str, role: str = "corpus") -> Corpus:
    return read_corpus(source, config.documents, role, config.label_column or ())


def _lay_out(
    config: TrainConfig, head: Corpus, tail: Corpus | None, tokenizer: Tokenizer, columns: tuple[LabelColumn, ...]
) -> Dataset:
    mixed = None if config.mix is None else _read(config, config.mix, "mix")
    dataset = Dataset.lay_out(head, tail, tokenizer, config, mixed, columns)
    require_memory(config, len(tokenizer.tokens), dataset.train.batch_tokens)
    return dataset


def _first_weights(folder: RunFolder, config: TrainConfig) -> Weights | None:
    weights = folder.initial_weights()
    if weights is None and (config.base is not None or config.embedding_init is not None):
        raise RunError(f"{folder.path}: its initial weights are missing; train again")
    return weights


def _describe_lineage(lineage: Lineage, dataset: Dataset) -> Iterator[str]:
    """Yield lines on the base that is fine-tuned, and on what its tokenizer does not cover."""
    base, added, tokenizer = lineage.ancestors[0], lineage.added_tokens, dataset.tokenizer
    yield f"fine-tunes {lineage.base}, {f'trained on {base.corpus}' if base.corpus else 'imported'}"
    if added:
        yield f"{len(added):,} new token(s), whose weights start from the mean: {' '.join(map(repr, added))}"
    unknown = int(np.count_nonzero(dataset.train.ids == tokenizer.special.unknown))
    if unknown and isinstance(tokenizer, WordTokenizer):
        share = unknown / len(dataset.train.ids)
        yield f"{share:.1%} of the words to train on are unknown to {lineage.base}, whose vocabulary stays as it is"
