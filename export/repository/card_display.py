"""`sostenuto show`: prints the card of a version.

Knows cards and `history.json`. Changes nothing.
"""

from collections.abc import Iterator
from pathlib import Path

from contract.card import GeneratorCard, TrainingReport
from contract.tokenizer import Tokenizer
from export.errors import RepositoryError
from export.repository.card_metrics import architecture, describe_training_filter, setting_text
from export.repository.history import perplexity, read_history
from export.repository.versions import Repository, Version
from export.terminal import NOTHING, file_size, format_number, utc_time, visible, wrap_sample

_LABEL_WIDTH = 17
_UNITS = {"character": "characters", "word": "words, lower case", "exact_word": "words", "subword": "subwords"}


def show(models_dir: Path, reference: str, *, as_json: bool) -> int:
    """Print the card of a version. Returns the exit code.

    Raises:
        RepositoryError: there is no such version, or one of its files is missing or damaged.
    """
    version = Repository(models_dir).find(reference)
    card, tokenizer = version.read()
    if as_json:
        print(card.model_dump_json(indent=1))
        return 0
    print(f"{version.label}  {visible(version.path)}, {file_size(version.num_bytes())}")
    for label, value in _facts(card, tokenizer):
        print(_line(label, value))
    if card.training is None:
        print("\nimported: its training is unknown")
        return 0
    print("\ntraining")
    for label, value in _training(card, card.training, version):
        print(_line(label, value))
    print("\nsettings")
    for name, setting in card.training.settings.items():
        print(_line(visible(name), setting_text(setting)))
    for sample in card.training.samples:
        print(f"\nsample at temperature {sample.temperature:g}")
        # The prompt, or suffix, is in brackets.
        given, text = f"[{sample.given}]", sample.text
        print(wrap_sample(text + given if card.direction == "backward" else given + text))
    return 0


def _line(label: str, value: str) -> str:
    return f"  {label:<{_LABEL_WIDTH}} {value}"


def _facts(card: GeneratorCard, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    yield "created", f"{utc_time(card.created)} UTC, with TensorFlow {visible(card.tensorflow)}"
    yield "token unit", f"{_UNITS[card.unit]}, a vocabulary of {len(tokenizer.tokens):,}"
    yield "direction", "backward: generates right to left" if card.direction == "backward" else "forward"
    embedding = f", embedding {card.embedding}" if card.embedding else ""
    yield "layers", visible(architecture(card)) + embedding
    if card.context is None:
        yield "state", f"{card.state_size:,} floats per sequence, carried from token to token"
    else:
        yield "state", f"none: a sliding-window model of {card.context} tokens"
    if check := card.precision_check:
        text = "held-out" if check.text == "held_out" else "sampled"
        yield "bfloat16", f"{check.difference:+.4f} nats per token on {check.tokens:,} {text} tokens"
    yield "weights", f"SHA-256 {visible(card.weights_sha256)}"


def _training(card: GeneratorCard, report: TrainingReport, version: Version) -> Iterator[tuple[str, str]]:
    yield "corpus", f"{visible(report.corpus)}, {report.corpus_characters:,} characters"
    yield "corpus's SHA-256", visible(report.corpus_sha256)
    held_out = f"{report.validation_tokens:,} tokens in {report.held_out_characters:,} characters"
    sampled = f", documents sampled by seed {report.seed}" if report.held_out == "shuffled_documents" else ""
    yield "held out", held_out + sampled if report.held_out else "nothing"
    yield "parameters", f"{report.parameters:,}"
    yield "epochs", _epochs(report, version)
    yield "time", f"{report.seconds / 60:,.1f} minutes, {report.tokens_per_s:,.0f} tokens/s"
    yield "seed", str(report.seed)
    yield "training loss", f"{report.train_loss:.3f} nats per token"
    loss = report.validation_loss
    yield "validation loss", NOTHING if loss is None else f"{loss:.3f} nats per token"
    yield "bits/character", format_number(report.bits_per_character, ".3f")
    yield "perplexity", format_number(perplexity(loss), ",.2f")
    yield "accuracy", format_number(report.accuracy, ".1%")
    yield "n-gram overlap", format_number(report.copied_spans, ".2%")
    yield "training filter", describe_training_filter(card)


def _epochs(report: TrainingReport, version: Version) -> str:
    tokens = f"{report.train_tokens:,} tokens per epoch"
    try:
        progress = read_history(version.path)
    except RepositoryError as error:
        return f"{report.epochs:g}, {tokens}; {visible(error)}"
    if not progress.epochs:
        return f"{report.epochs:g}, {tokens}"
    return f"{progress.best_epoch} is the best of {progress.epochs}, {tokens}"
