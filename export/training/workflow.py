"""From corpus to published version: the order of the steps, and what is kept when they are interrupted."""

import contextlib
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from contract.files import write_atomically
from contract.tokenizer import Tokenizer
from export.config import MODELS, TrainConfig
from export.corpora.corpus import Corpus, read_corpus
from export.corpora.memorization import SPAN_WORDS
from export.errors import CorpusError, ExportError, RunError, WorkerLost
from export.interrupts import Interrupts
from export.layout import say
from export.repository.history import Progress
from export.repository.plots import history_png
from export.repository.publishing import publish, require_writable
from export.tokenizer_command import tell_cut, train_tokenizer
from export.training.devices import Devices
from export.training.display import NoDisplay, TerminalDisplay
from export.training.events import EventDisplay
from export.training.model import build_model, count_parameters
from export.training.optimization import precision_of
from export.training.report import report
from export.training.runs import PICTURE, CorpusFacts, RunFolder
from export.training.samples import SampleWriter
from export.training.trainer import Display, Trainer
from export.training.training_data import TrainingData, read_again, require_enough


@dataclass(frozen=True)
class _Job:
    """A training that has its folder, and where its version goes."""

    folder: RunFolder
    models_dir: Path
    config: TrainConfig
    tokenizer: Tokenizer
    facts: CorpusFacts
    devices: Devices = field(default_factory=Devices)

    def train_and_publish(self, material: TrainingData) -> None:
        try:
            _introduce(self.config, self.tokenizer, material, self.devices)
            writer = SampleWriter(self.tokenizer, material.samples_from, self.config)
            with Interrupts() as interrupts:
                progress = self._train(material, writer, interrupts)
                self.publish(progress, writer, material.head, interrupts)
        except (KeyboardInterrupt, ExportError, OSError) as error:
            self._say_how_to_go_on(can_resume=isinstance(error, KeyboardInterrupt | OSError | WorkerLost))
            raise

    def _train(self, material: TrainingData, writer: SampleWriter, interrupts: Interrupts) -> Progress:
        with self.devices.strategy.scope():
            model = build_model(self.config, len(self.tokenizer.tokens))
        epochs_before = self.folder.progress().epochs
        if material.embedding is not None:
            model.get_layer("embedding").embeddings.assign(material.embedding)
        trainer = Trainer(self.config, model, material.dataset, interrupts.raise_if_interrupted, self.devices)
        if not self.devices.is_chief:
            return trainer.run(self.folder, NoDisplay())
        with contextlib.ExitStack() as stack:
            display: Display = stack.enter_context(TerminalDisplay(writer))
            if self.config.tensorboard:
                events = EventDisplay(display, self.folder.events, self.config, self.folder.progress().last.tokens)
                display = stack.enter_context(events)
            progress = trainer.run(self.folder, display)
        if progress.epochs == epochs_before:
            say(f"nothing is left to train: {progress.epochs} epochs are done")
        write_atomically(self.folder.path / PICTURE, history_png(progress, self.config.name))
        return progress

    def assist(self, material: TrainingData) -> None:
        """Train along with the chief, which tells the progress and publishes."""
        say(f"{self.devices.task} of {self.devices.describe()}: trains along; the chief tells the progress")
        writer = SampleWriter(self.tokenizer, material.samples_from, self.config)
        with Interrupts() as interrupts:
            self._train(material, writer, interrupts)

    def publish(self, progress: Progress, writer: SampleWriter, learnt: Corpus | None, interrupts: Interrupts) -> None:
        """Publish the best epoch. Ctrl-C during the last step comes too late: then the version is there.

        Args:
            progress: At least one epoch.
            writer: Of its samples.
            learnt: What it was trained on; None where that is not at hand.
            interrupts: Ctrl-C before the last step.
        """
        model, best = self.folder.load_best(progress), progress.best
        interrupts.raise_if_interrupted()
        say(f"writing samples with epoch {progress.best_epoch}, the best one")
        samples = writer.samples(model)
        copies = (
            None
            if learnt is None
            else writer.copies(model, learnt.pieces("looking for copies"), interrupts.raise_if_interrupted)
        )
        if copies and copies.share is not None:
            found = f"{copies.num_copied:,} of {copies.num_spans:,} runs of {SPAN_WORDS} words"
            say(f"copies: {found} that it writes stand in the training text ({copies.share:.1%})")
        training = report(self.config, len(self.tokenizer.tokens), self.facts, progress, samples, copies)
        place = publish(
            model,
            self.tokenizer,
            self.config.name,
            self.models_dir,
            training,
            direction=self.config.direction,
            history=progress,
        )
        kind = "training" if best.validation_loss is None else "validation"
        say(f"published {place}: epoch {progress.best_epoch}, {kind} loss {best.loss:.3f}")

    def _say_how_to_go_on(self, *, can_resume: bool) -> None:
        progress = self.folder.progress()
        say(f"stopped after {progress.epochs} whole epoch(s)")
        if progress.epochs:
            say(f"publish the best, epoch {progress.best_epoch}, with:  {self.command('publish')}")
        if can_resume:
            say(f"go on with:  {self.command('resume')}")

    def command(self, name: str) -> str:
        """Return the command line that does something else with this training."""
        words = ["python", "-m", "export", name, str(self.folder.path)]
        return shlex.join(words if self.models_dir == MODELS else [*words, "--models-dir", str(self.models_dir)])


def train(config: TrainConfig, models_dir: Path, runs_dir: Path) -> int:
    """Train from the beginning and publish the best epoch. Returns the exit code."""
    require_writable(models_dir / config.name)
    devices = Devices.find(config.batch_size, config.units)
    corpus = read_corpus(config.corpus, config.documents)
    require_enough(config, corpus)
    tokenizer = train_tokenizer(config, corpus.split(config.validation, config.seed)[0])
    material = TrainingData.prepare(config, corpus, tokenizer).with_embedding(config)
    folder = RunFolder(runs_dir / config.name)
    if not devices.is_chief:
        devices.wait()
        _Job(folder, models_dir, config, tokenizer, material.facts, devices).assist(material)
        return 0
    with folder.alone():
        # A command that cannot work must not cost the run that lies in its place: only now.
        aside = folder.create(config, tokenizer, material.facts)
        if aside:
            say(f"the training that lay in {folder.path} is now in {aside}")
        devices.wait()
        _Job(folder, models_dir, config, tokenizer, material.facts, devices).train_and_publish(material)
    return 0


def resume(run: Path, models_dir: Path) -> int:
    """Go on after the last whole epoch of a run and publish its best one. Returns the exit code."""
    folder = RunFolder(run)
    config, tokenizer, facts = folder.load()
    job = _Job(folder, models_dir, config, tokenizer, facts, Devices.find(config.batch_size, config.units))
    require_writable(models_dir / job.config.name)
    with folder.alone() if job.devices.is_chief else contextlib.nullcontext():
        corpus = read_corpus(job.config.corpus, job.config.documents)
        if corpus.sha256() != job.facts.corpus_sha256:
            raise CorpusError(
                f"corpus {corpus.name}: this is not the text that {run} began with; it has {corpus.num_characters:,} "
                f"characters, and that one had {job.facts.corpus_characters:,}"
            )
        material = TrainingData.prepare(job.config, corpus, job.tokenizer, shuffled=job.facts.is_shuffled)
        if job.facts.held_out_sha256 not in (None, material.facts.held_out_sha256):
            raise CorpusError(f"corpus {corpus.name}: what is held out is not what {run} began with")
        # A run that was stopped before its first epoch was whole begins anew.
        begun = folder.progress().epochs > 0
        material = material if begun else material.with_embedding(job.config)
        job.train_and_publish(material) if job.devices.is_chief else job.assist(material)
    return 0


def publish_best(run: Path, models_dir: Path) -> int:
    """Publish the best epoch of a run as it stands. Returns the exit code."""
    folder = RunFolder(run)
    job = _Job(folder, models_dir, *folder.load())
    require_writable(models_dir / job.config.name)
    progress = folder.progress()
    if not progress.epochs:
        raise RunError(f"{run}: no epoch is whole yet; go on with: {job.command('resume')}")
    corpus = read_again(job.config, job.facts)
    if corpus is None:
        say(f"corpus {job.config.corpus} is gone or has changed: samples begin from nothing, and copies are not found")
    seed = job.config.seed if job.facts.is_shuffled else None
    head, tail = corpus.split(job.config.validation, seed) if corpus else (None, None)
    given = tail or head
    writer = SampleWriter(job.tokenizer, given.excerpts() if given else (), job.config)
    with Interrupts() as interrupts:
        job.publish(progress, writer, head, interrupts)
    return 0


def _introduce(config: TrainConfig, tokenizer: Tokenizer, material: TrainingData, devices: Devices) -> None:
    corpus, dataset, vocab_size = material.corpus, material.dataset, len(tokenizer.tokens)
    held_out = dataset.validation.num_tokens if dataset.validation else 0
    drawn = f", documents drawn by seed {config.seed}" if material.facts.is_shuffled else ""
    unknown = f" ({dataset.share_unknown:.1%} of it unknown)" if dataset.share_unknown else ""
    say(
        f"corpus {corpus.name}: {corpus.num_characters:,} characters in {corpus.num_documents:,} document(s), "
        f"vocabulary {vocab_size:,}"
    )
    for line in tell_cut(config, material.head, tokenizer):
        say(line)
    say(f"{dataset.train.num_tokens:,} tokens to learn from, {held_out:,} held out{unknown}{drawn}")
    ways = "bidirectional " if config.bidirectional else ""
    length = f"windows of {config.num_seen}" if config.bidirectional else f"sequences × {config.sequence_length} steps"
    say(
        f"model {config.name}: {config.layers} × {ways}{config.cell}, {config.units} units, "
        f"{count_parameters(config, vocab_size):,} parameters, {dataset.train.rows} {length}"
    )
    say(f"computed in {precision_of(config, devices)} on {devices.describe()}")
    if not held_out:
        print("warning: nothing is held out: the loss says how well the text is remembered, no more", file=sys.stderr)
