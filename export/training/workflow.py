"""The training workflow, from corpus to published version: the order of its steps, and how it is interrupted."""

import contextlib
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from contract.card import CorpusDescription, NoTrainingFilter
from contract.files import write_atomically
from contract.tokenizer import Tokenizer
from contract.training_filter import TrainingFilter
from export.config import MODELS, TrainConfig
from export.corpora.corpus import Corpus, read_corpus
from export.corpora.memorization import SPAN_WORDS
from export.corpora.training_filter import build_training_filter
from export.errors import CorpusError, ExportError, RunError, WorkerLost
from export.interrupts import deferred_interrupts
from export.repository.history import Progress
from export.repository.plots import history_png
from export.repository.publishing import publish, require_writable
from export.terminal import echo, file_size
from export.tokenizer_command import describe_dropped_words, train_tokenizer
from export.training.devices import Devices
from export.training.display import NoDisplay, TerminalDisplay
from export.training.events import EventDisplay
from export.training.model import build_model, count_parameters
from export.training.optimization import precision_of
from export.training.report import report
from export.training.runs import PICTURE, RunFolder
from export.training.samples import Check, SampleWriter
from export.training.trainer import Display, Trainer
from export.training.training_data import TrainingData, require_enough, reread_corpus

# Share of the loss of token frequencies alone, above which a model makes hardly any use of context.
UNIGRAM_SHARE = 0.98


@dataclass(frozen=True)
class _Job:
    """A training run with its directory, and the repository that it publishes to."""

    folder: RunFolder
    models_dir: Path
    config: TrainConfig
    tokenizer: Tokenizer
    corpus: CorpusDescription
    devices: Devices = field(default_factory=Devices)

    def train_and_publish(self, data: TrainingData) -> None:
        try:
            _describe(self.config, self.tokenizer, data, self.devices)
            writer = SampleWriter(self.tokenizer, data.prompt_source, self.config)
            with deferred_interrupts() as raise_if_interrupted:
                progress = self._train(data, writer, raise_if_interrupted)
                self.publish(progress, writer, data.head, raise_if_interrupted)
            self._warn_if_context_is_unused(progress, data)
        except (KeyboardInterrupt, ExportError, OSError) as error:
            self._suggest_commands(can_resume=isinstance(error, KeyboardInterrupt | OSError | WorkerLost))
            raise

    def _train(self, data: TrainingData, writer: SampleWriter, raise_if_interrupted: Check) -> Progress:
        with self.devices.strategy.scope():
            model = build_model(self.config, len(self.tokenizer.tokens))
        epochs_before = self.folder.progress().epochs
        if data.embedding is not None:
            model.get_layer("embedding").embeddings.assign(data.embedding)
        trainer = Trainer(self.config, model, data.dataset, raise_if_interrupted, self.devices)
        if not self.devices.is_chief:
            return trainer.run(self.folder, NoDisplay())
        with contextlib.ExitStack() as stack:
            display: Display = stack.enter_context(TerminalDisplay(writer))
            if self.config.tensorboard:
                events = EventDisplay(display, self.folder.events, self.config, self.folder.progress().last.tokens)
                display = stack.enter_context(events)
            progress = trainer.run(self.folder, display)
        if progress.epochs == epochs_before:
            echo(f"nothing is left to train: {progress.epochs} epochs are done")
        write_atomically(self.folder.path / PICTURE, history_png(progress, self.config.name))
        return progress

    def _warn_if_context_is_unused(self, progress: Progress, data: TrainingData) -> None:
        unigram, reached = data.dataset.unigram_loss(len(self.tokenizer.tokens)), progress.best.validation_loss
        if unigram is not None and reached is not None and reached > UNIGRAM_SHARE * unigram:
            print(
                f"warning: the model makes hardly any use of context: its validation loss is {reached:.3f}, and token "
                f"frequencies alone give {unigram:.3f}. It needs more updates: train longer, with a smaller "
                f"--batch-size or --sequence-length, or with a smaller vocabulary",
                file=sys.stderr,
            )

    def train_as_worker(self, data: TrainingData) -> None:
        """Train as a worker; the chief displays the progress and publishes."""
        echo(f"{self.devices.task} of {self.devices.describe()}: a worker; the chief shows the progress")
        writer = SampleWriter(self.tokenizer, data.prompt_source, self.config)
        with deferred_interrupts() as raise_if_interrupted:
            self._train(data, writer, raise_if_interrupted)

    def publish(
        self, progress: Progress, writer: SampleWriter, training_text: Corpus | None, raise_if_interrupted: Check
    ) -> None:
        """Publish the best epoch. Ctrl-C and SIGTERM have no effect during the last step, which writes the version.

        Without the training text, memorization is not measured, and the version has no training filter.
        """
        model, best = self.folder.load_best(progress), progress.best
        raise_if_interrupted()
        echo(f"generating samples with epoch {progress.best_epoch}, the best one")
        samples, memorization = writer.samples(model), None
        if training_text is not None:
            chunks = training_text.chunks("measuring memorization")
            memorization = writer.measure_memorization(model, chunks, raise_if_interrupted)
        if memorization and memorization.share is not None:
            spans = f"{memorization.num_copied:,} of {memorization.num_spans:,} generated {SPAN_WORDS}-grams of words"
            echo(f"memorization: {spans} occur in the training text ({memorization.share:.1%})")
        training_filter, without = self._training_filter(training_text, raise_if_interrupted)
        training = report(
            self.config, len(self.tokenizer.tokens), self.corpus, progress, samples, memorization, without
        )
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

    def _training_filter(
        self, training_text: Corpus | None, raise_if_interrupted: Check
    ) -> tuple[TrainingFilter | None, NoTrainingFilter | None]:
        """Return the filter of the training text, or why there is none."""
        if not self.config.training_filter:
            return None, "disabled"
        if training_text is None:
            return None, "no_corpus"
        built = build_training_filter(training_text, self.tokenizer, self.config.direction, raise_if_interrupted)
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
        """Return the command line that runs another command on this run."""
        words = ["sostenuto", name, str(self.folder.path)]
        return shlex.join(words if self.models_dir == MODELS else [*words, "--models-dir", str(self.models_dir)])


def train(config: TrainConfig, models_dir: Path, runs_dir: Path) -> int:
    """Train from the beginning and publish the best epoch. Returns the exit code."""
    require_writable(models_dir / config.name)
    devices = Devices.find(config.batch_size, config.units)
    corpus = read_corpus(config.corpus, config.documents)
    require_enough(config, corpus)
    tokenizer = train_tokenizer(config, corpus.split(config.validation, config.seed)[0])
    data = TrainingData.prepare(config, corpus, tokenizer).with_embedding(config)
    folder = RunFolder(runs_dir / config.name)
    with folder.locked() if devices.is_chief else contextlib.nullcontext():
        # Only after all checks: a command that fails must not replace the previous run.
        previous = folder.create(config, tokenizer, data.description) if devices.is_chief else None
        if previous:
            echo(f"the previous run in {folder.path} is now in {previous}")
        devices.wait()
        job = _Job(folder, models_dir, config, tokenizer, data.description, devices)
        job.train_and_publish(data) if devices.is_chief else job.train_as_worker(data)
    return 0


def resume(run: Path, models_dir: Path) -> int:
    """Resume a run after its last complete epoch and publish the best epoch. Returns the exit code."""
    folder = RunFolder(run)
    config, tokenizer, before = folder.load()
    job = _Job(folder, models_dir, config, tokenizer, before, Devices.find(config.batch_size, config.units))
    require_writable(models_dir / config.name)
    with folder.locked() if job.devices.is_chief else contextlib.nullcontext():
        corpus = read_corpus(config.corpus, config.documents)
        if corpus.sha256() != before.corpus_sha256:
            raise CorpusError(
                f"corpus {corpus.name}: this is not the text that {run} started with: it has {corpus.num_characters:,} "
                f"characters, the original had {before.corpus_characters:,}"
            )
        data = TrainingData.prepare(config, corpus, tokenizer)
        if data.description.held_out_sha256 != before.held_out_sha256:
            raise CorpusError(f"corpus {corpus.name}: the validation split is not the one that {run} started with")
        # A run that was stopped before its first complete epoch starts over.
        has_epochs = folder.progress().epochs > 0
        data = data if has_epochs else data.with_embedding(config)
        job.train_and_publish(data) if job.devices.is_chief else job.train_as_worker(data)
    return 0


def publish_best(run: Path, models_dir: Path) -> int:
    """Publish the best epoch so far of a run. Returns the exit code."""
    folder = RunFolder(run)
    job = _Job(folder, models_dir, *folder.load())
    require_writable(models_dir / job.config.name)
    progress = folder.progress()
    if not progress.epochs:
        raise RunError(f"{run}: no epoch is complete yet; resume with: {job.command('resume')}")
    corpus = reread_corpus(job.config, job.corpus.corpus_sha256)
    if corpus is None:
        changed = f"corpus {job.config.corpus} is missing or has changed"
        lost = "samples have no prompt, memorization is not measured, and there is no training filter"
        echo(f"{changed}: {lost}")
    head, tail = corpus.split(job.config.validation, job.config.seed) if corpus else (None, None)
    source = tail or head
    writer = SampleWriter(job.tokenizer, source.excerpts() if source else (), job.config)
    with deferred_interrupts() as raise_if_interrupted:
        job.publish(progress, writer, head, raise_if_interrupted)
    return 0


def _describe(config: TrainConfig, tokenizer: Tokenizer, data: TrainingData, devices: Devices) -> None:
    corpus, dataset, vocab_size = data.corpus, data.dataset, len(tokenizer.tokens)
    held_out = dataset.validation.num_tokens if dataset.validation else 0
    sampled = f", documents sampled by seed {config.seed}" if held_out and corpus.ends else ""
    unknown = f" ({dataset.share_unknown:.1%} of it unknown)" if dataset.share_unknown else ""
    echo(
        f"corpus {corpus.name}: {corpus.num_characters:,} characters in {corpus.num_documents:,} document(s), "
        f"vocabulary {vocab_size:,}"
    )
    for line in describe_dropped_words(config, data.head, tokenizer):
        echo(line)
    echo(f"{dataset.train.num_tokens:,} tokens to train on, {held_out:,} held out{unknown}{sampled}")
    ways = "bidirectional " if config.bidirectional else ""
    steps = f"sequences × {config.sequence_length} steps"
    length = f"windows of {config.window_length}" if config.bidirectional else steps
    echo(
        f"model {config.name}: {config.layers} × {ways}{config.cell}, {config.units} units, "
        f"{count_parameters(config, vocab_size):,} parameters, {dataset.train.batch_size} {length}"
    )
    echo(f"precision {precision_of(config, devices)}, on {devices.describe()}")
    if not held_out:
        print(
            "warning: nothing is held out: the training loss measures only how well the text is memorized",
            file=sys.stderr,
        )
