"""From corpus to published version: the order of the steps, and what is kept when they are interrupted."""

import shlex
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from contract.card import TrainingReport
from contract.tokenizer import Tokenizer
from export.config import MODELS, TrainConfig
from export.corpus import Corpus, read_corpus
from export.dataset import Dataset
from export.display import SampleWriter, TerminalDisplay, say
from export.embeddings import initial_embedding
from export.errors import CorpusError, ExportError, RunError
from export.interrupts import Interrupts
from export.memory import require_memory
from export.model import build_model, count_parameters
from export.publishing import publish, require_writable
from export.runs import CorpusFacts, Progress, RunFolder
from export.tokenizer_command import tell_cut, train_tokenizer
from export.training import Trainer


@dataclass(frozen=True)
class Material:
    """A corpus made ready: what is learnt from it, and what is said about it.

    Attributes:
        embedding: What the embedding starts from, float32 (vocab, embedding); None where it starts as Keras starts it,
            or has started.
    """

    corpus: Corpus
    dataset: Dataset
    samples_from: tuple[str, ...]
    embedding: np.ndarray | None = None

    @classmethod
    def prepare(cls, config: TrainConfig, corpus: Corpus, tokenizer: Tokenizer) -> "Material":
        """Part, encode and lay out a corpus.

        Raises:
            CorpusError: there is too little of it.
            TrainingFailed: the model and a window of it do not fit into memory.
        """
        head, tail = corpus.split(config.validation)
        dataset, vocab_size = Dataset.lay_out(head, tail, tokenizer, config), len(tokenizer.tokens)
        require_memory(config, count_parameters(config, vocab_size), vocab_size, dataset.train.batch_tokens)
        return cls(corpus, dataset, (tail or head).excerpts())

    def with_embedding(self, config: TrainConfig, tokenizer: Tokenizer) -> "Material":
        """Add what the embedding starts from, if the settings name anything.

        Raises:
            ConfigError: a file of vectors does not fit.
            CorpusError: there is no word to learn a vector of.
        """
        if config.embedding_init is None:
            return self
        ids = self.dataset.train.ids
        start = initial_embedding(config.embedding_init, tokenizer, ids, config.embedding, config.seed, say)
        return replace(self, embedding=start)

    @cached_property
    def facts(self) -> CorpusFacts:
        """What the card says of it."""
        return CorpusFacts(
            corpus=self.corpus.name,
            corpus_sha256=self.corpus.sha256(),
            corpus_characters=self.corpus.num_characters,
            train_tokens=self.dataset.train.num_tokens,
            validation_tokens=self.dataset.num_judged,
        )


@dataclass(frozen=True)
class _Job:
    """A training that has its folder, and where its version goes."""

    folder: RunFolder
    models_dir: Path
    config: TrainConfig
    tokenizer: Tokenizer
    facts: CorpusFacts

    def train_and_publish(self, material: Material) -> None:
        try:
            _introduce(self.config, self.tokenizer, material)
            with Interrupts() as interrupts:
                self.publish(self._train(material, interrupts), interrupts)
        except (KeyboardInterrupt, ExportError, OSError) as error:
            self._say_how_to_go_on(can_resume=isinstance(error, KeyboardInterrupt | OSError))
            raise

    def _train(self, material: Material, interrupts: Interrupts) -> Progress:
        model = build_model(self.config, len(self.tokenizer.tokens))
        epochs_before = self.folder.progress().epochs
        if material.embedding is not None:
            model.get_layer("embedding").embeddings.assign(material.embedding)
        trainer = Trainer(self.config, model, material.dataset, interrupts.obey)
        with TerminalDisplay(SampleWriter(self.tokenizer, material.samples_from, self.config)) as display:
            progress = trainer.run(self.folder, display)
        if progress.epochs == epochs_before:
            say(f"nothing is left to train: {progress.epochs} epochs are done")
        return progress

    def publish(self, progress: Progress, interrupts: Interrupts) -> None:
        """Publish the best epoch. Ctrl-C during the last step comes too late: then the version is there."""
        model, best = self.folder.load_best(progress), progress.best
        interrupts.obey()
        report = _report(self.config, self.facts, progress)
        place = publish(
            model, self.tokenizer, self.config.name, self.models_dir, report, direction=self.config.direction
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
    corpus = read_corpus(config.corpus, config.documents)
    tokenizer = train_tokenizer(config, corpus.split(config.validation)[0])
    material = Material.prepare(config, corpus, tokenizer).with_embedding(config, tokenizer)
    folder = RunFolder(runs_dir / config.name)
    with folder.alone():
        # A command that cannot work must not cost the run that lies in its place: only now.
        aside = folder.create(config, tokenizer, material.facts)
        if aside:
            say(f"the training that lay in {folder.path} is now in {aside}")
        _Job(folder, models_dir, config, tokenizer, material.facts).train_and_publish(material)
    return 0


def resume(run: Path, models_dir: Path) -> int:
    """Go on after the last whole epoch of a run and publish its best one. Returns the exit code."""
    folder = RunFolder(run)
    job = _Job(folder, models_dir, *folder.load())
    require_writable(models_dir / job.config.name)
    with folder.alone():
        corpus = read_corpus(job.config.corpus, job.config.documents)
        if corpus.sha256() != job.facts.corpus_sha256:
            raise CorpusError(
                f"corpus {corpus.name}: this is not the text that {run} began with; it has {corpus.num_characters:,} "
                f"characters, and that one had {job.facts.corpus_characters:,}"
            )
        material = Material.prepare(job.config, corpus, job.tokenizer)
        # A run that was stopped before its first epoch was whole begins anew.
        begun = folder.progress().epochs > 0
        job.train_and_publish(material if begun else material.with_embedding(job.config, job.tokenizer))
    return 0


def publish_best(run: Path, models_dir: Path) -> int:
    """Publish the best epoch of a run as it stands. Returns the exit code."""
    folder = RunFolder(run)
    job = _Job(folder, models_dir, *folder.load())
    require_writable(models_dir / job.config.name)
    progress = folder.progress()
    if not progress.epochs:
        raise RunError(f"{run}: no epoch is whole yet; go on with: {job.command('resume')}")
    with Interrupts() as interrupts:
        job.publish(progress, interrupts)
    return 0


def _introduce(config: TrainConfig, tokenizer: Tokenizer, material: Material) -> None:
    corpus, dataset, vocab_size = material.corpus, material.dataset, len(tokenizer.tokens)
    held_out = dataset.validation.num_tokens if dataset.validation else 0
    unknown = f" ({dataset.share_unknown:.1%} of it unknown)" if dataset.share_unknown else ""
    say(
        f"corpus {corpus.name}: {corpus.num_characters:,} characters in {corpus.num_documents:,} document(s), "
        f"vocabulary {vocab_size:,}"
    )
    for line in tell_cut(config, corpus.split(config.validation)[0], tokenizer):
        say(line)
    say(f"{dataset.train.num_tokens:,} tokens to learn from, {held_out:,} held out{unknown}")
    ways = "bidirectional " if config.bidirectional else ""
    length = f"windows of {config.num_seen}" if config.bidirectional else f"streams × {config.window} steps"
    say(
        f"model {config.name}: {config.layers} × {ways}{config.cell}, {config.units} units, "
        f"{count_parameters(config, vocab_size):,} parameters, {dataset.train.rows} {length}"
    )
    if not held_out:
        print("warning: nothing is held out: the loss says how well the text is remembered, no more", file=sys.stderr)


def _report(config: TrainConfig, facts: CorpusFacts, progress: Progress) -> TrainingReport:
    """Describe how the best epoch's weights came to be: what came after it has no part in them."""
    best = progress.best
    return TrainingReport(
        **facts.model_dump(),
        epochs=round(best.tokens / facts.train_tokens, 2),
        train_loss=best.train_loss,
        validation_loss=best.validation_loss,
        tokens_per_s=best.tokens / max(best.seconds, 1e-9),
        seconds=best.seconds,
        seed=config.seed,
    )
