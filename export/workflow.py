"""From corpus to published version: the order of the steps, and what is kept when they are interrupted."""

import signal
import sys
from pathlib import Path

import keras

from contract.card import TrainingReport
from contract.tokenizer import CharacterTokenizer, Tokenizer, WordTokenizer
from export.config import TrainConfig
from export.corpus import Corpus, read_corpus
from export.dataset import Streams, encode_corpus
from export.display import SampleWriter, TerminalDisplay, say
from export.model import build_model
from export.publishing import publish
from export.runs import Progress, RunFolder
from export.training import Trainer

# Rows of validation: enough for matmuls to be worth it, few enough to start from the zero state seldom.
VALIDATION_STREAMS = 8


def train(config: TrainConfig, models_dir: Path, runs_dir: Path) -> int:
    """Train from the beginning and publish the best epoch. Returns the exit code."""
    corpus = read_corpus(config.corpus, config.documents)
    head, _ = corpus.split(config.validation)
    tokenizer = train_tokenizer(config, head)
    # A command that cannot work must not cost the run that lies in its place.
    encode_corpus(head, tokenizer)
    folder = RunFolder(runs_dir / config.name)
    folder.create(config, tokenizer)
    return _train_and_publish(config, corpus, tokenizer, folder, models_dir)


def resume(run: Path, models_dir: Path) -> int:
    """Go on after the last whole epoch of a run and publish its best one. Returns the exit code."""
    folder = RunFolder(run)
    config, tokenizer = folder.load()
    return _train_and_publish(config, read_corpus(config.corpus, config.documents), tokenizer, folder, models_dir)


def publish_best(run: Path, models_dir: Path) -> int:
    """Publish the best epoch of a run as it stands. Returns the exit code."""
    folder = RunFolder(run)
    config, tokenizer = folder.load()
    if not folder.has_best:
        say(f"{run} has no whole epoch yet; go on with: python -m export resume {run}")
        return 1
    place = publish(folder.load_best(), tokenizer, config.name, models_dir)
    say(f"published {place}")
    return 0


def train_tokenizer(config: TrainConfig, corpus: Corpus) -> Tokenizer:
    """Build the vocabulary from the part of the text that training sees."""
    if config.unit == "character":
        return CharacterTokenizer.train("".join(corpus.documents), end_mark=corpus.ends)
    return WordTokenizer.train(corpus.documents, num_words=config.num_words, end_mark=corpus.ends)


def _train_and_publish(
    config: TrainConfig, corpus: Corpus, tokenizer: Tokenizer, folder: RunFolder, models_dir: Path
) -> int:
    # Set before the weights are drawn and in force in `resume` too: dropout and weights come from it.
    keras.utils.set_random_seed(config.seed)
    head, tail = corpus.split(config.validation)
    train_ids = encode_corpus(head, tokenizer)
    start = tokenizer.special.start
    streams = Streams.lay_out(train_ids, start, config.streams, config.window)
    validation = tail and Streams.lay_out(encode_corpus(tail, tokenizer), start, VALIDATION_STREAMS, config.window)
    model = build_model(config, len(tokenizer.tokens))
    _introduce(config, corpus, tokenizer, model, streams, validation)
    trainer = Trainer(config, model, streams, validation)
    writer = SampleWriter(tokenizer, "\n".join((tail or head).documents), config.seed)
    with TerminalDisplay(writer) as display:
        try:
            progress = trainer.run(folder, display)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            display.close()
            _say_how_to_go_on(folder)
            return 130
    report = _report(config, corpus, streams, validation, progress)
    place = publish(folder.load_best(), tokenizer, config.name, models_dir, report)
    say(f"published {place}, epoch {progress.best_epoch}, {_loss_name(validation)} {progress.best_loss:.3f}")
    return 0


def _introduce(
    config: TrainConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
    model: keras.Model,
    streams: Streams,
    validation: Streams | None,
) -> None:
    say(
        f"corpus {corpus.name}: {corpus.num_characters:,} characters, {len(corpus.documents)} document(s), "
        f"{streams.num_tokens:,} tokens to learn from, {validation.num_tokens if validation else 0:,} held out, "
        f"vocabulary {len(tokenizer.tokens):,}"
    )
    say(
        f"model {config.name}: {config.layers} × {config.cell}, {config.units} units, "
        f"{model.count_params():,} parameters, {streams.rows} streams × {config.window} steps"
    )
    if validation is None:
        print("warning: nothing is held out: the loss says how well the text is remembered, no more", file=sys.stderr)


def _say_how_to_go_on(folder: RunFolder) -> None:
    say("\nstopped.")
    if folder.has_best:
        say(f"the best epoch so far is kept; publish it with:  python -m export publish {folder.path}")
    say(f"go on after the last whole epoch with:  python -m export resume {folder.path}")


def _loss_name(validation: Streams | None) -> str:
    return "validation loss" if validation else "training loss"


def _report(
    config: TrainConfig, corpus: Corpus, streams: Streams, validation: Streams | None, progress: Progress
) -> TrainingReport:
    train_loss, validation_loss = progress.losses[progress.best_epoch - 1]
    return TrainingReport(
        corpus=corpus.name,
        corpus_sha256=corpus.sha256(),
        corpus_characters=corpus.num_characters,
        train_tokens=streams.num_tokens,
        validation_tokens=validation.num_tokens if validation else 0,
        epochs=progress.epochs,
        train_loss=train_loss,
        validation_loss=validation_loss,
        tokens_per_s=progress.tokens / max(progress.seconds, 1e-9),
        seconds=progress.seconds,
        seed=config.seed,
    )
