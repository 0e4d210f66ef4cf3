"""Facts of a generator card in words, for `list`, `show`, `compare` and the README of a version."""

from collections.abc import Iterator
from typing import Any

from contract.card import GeneratorCard, NoTrainingFilter, Sample, TrainingReport
from export.repository.history import Progress, perplexity
from export.terminal import NOTHING, format_number, utc_time

# Label and text of each fact; the text may have any character of a file name, such as that of a corpus.
Facts = Iterator[tuple[str, str]]

_UNITS = {
    "character": "characters",
    "word": "words, lower case",
    "exact_word": "words",
    "subword": "subwords",
    "regex": "matches of regular expressions",
}
_NO_TRAINING_FILTER: dict[NoTrainingFilter | None, str] = {
    "disabled": "none: switched off",
    "too_many_documents": "none: too many documents",
    "no_corpus": "none: the corpus was unavailable",
    None: "none",
}


def model_facts(card: GeneratorCard, num_tokens: int) -> Facts:
    """Yield the facts of any model; `num_tokens` is the size of its vocabulary."""
    yield "created", f"{utc_time(card.created)} UTC, with TensorFlow {card.tensorflow}"
    yield "token unit", f"{_UNITS[card.unit]}, a vocabulary of {num_tokens:,}"
    yield "direction", "backward: generates right to left" if card.direction == "backward" else "forward"
    yield "layers", architecture(card) + (f", embedding {card.embedding}" if card.embedding else "")
    if card.context is None:
        yield "state", f"{card.state_size:,} floats per sequence, carried from token to token"
    else:
        yield "state", f"none: a sliding-window model of {card.context} tokens"
    if check := card.precision_check:
        text = "held-out" if check.text == "held_out" else "sampled"
        yield "bfloat16", f"{check.difference:+.4f} nats per token on {check.tokens:,} {text} tokens"
    yield "weights", f"SHA-256 {card.weights_sha256}"


def training_facts(card: GeneratorCard, report: TrainingReport, epochs: str) -> Facts:
    """Yield the text and the duration of the training; `epochs` describes the epochs."""
    yield from _lineage_facts(report)
    yield "corpus", f"{report.corpus}, {report.corpus_characters:,} characters"
    if (provenance := report.provenance) is not None:
        yield "texts", f"{provenance.title}: {len(provenance.works):,} works, {provenance.num_bytes:,} bytes"
        yield "their license", provenance.license
        yield "they come in", provenance.package
    for column in report.label_columns:
        yield f"label {column.name}", ", ".join(column.values)
    yield "corpus's SHA-256", report.corpus_sha256
    held_out = f"{report.validation_tokens:,} tokens in {report.held_out_characters:,} characters"
    sampled = f", documents sampled by seed {report.seed}" if report.held_out == "shuffled_documents" else ""
    yield "held out", held_out + sampled if report.held_out else "nothing"
    yield "parameters", f"{report.parameters:,}"
    yield "epochs", f"{epochs}, {report.train_tokens:,} tokens per epoch"
    yield "time", f"{report.seconds / 60:,.1f} minutes, {report.tokens_per_s:,.0f} tokens/s"
    yield "seed", str(report.seed)
    yield "training filter", describe_training_filter(card)


def _lineage_facts(report: TrainingReport) -> Facts:
    """Yield the bases of a fine-tuned model; nothing for other models."""
    if report.lineage is not None:
        bases = [
            f"{each.reference}, {'imported' if each.corpus is None else f'trained on {each.corpus}'}"
            for each in report.lineage.ancestors
        ]
        yield "fine-tuned from", "; before that, ".join(bases)
        yield "base's weights", f"SHA-256 {report.lineage.ancestors[0].weights_sha256}"
        yield "new tokens", " ".join(map(repr, report.lineage.added_tokens)) or "none"
    if report.mixed is not None:
        mixed = report.mixed
        yield "mixed in", f"{mixed.corpus}, {mixed.corpus_characters:,} characters, {mixed.tokens:,} tokens per epoch"


def metric_facts(report: TrainingReport) -> Facts:
    """Yield the metrics of the best epoch; a dash for one that was not measured."""
    loss = report.validation_loss
    yield "training loss", f"{report.train_loss:.3f} nats per token"
    yield "validation loss", NOTHING if loss is None else f"{loss:.3f} nats per token"
    if report.base_loss is not None:
        yield "loss of its base", f"{report.base_loss:.3f} nats per token"
    if report.ngram_loss is not None:
        yield f"loss of {report.ngram_order}-grams", f"{report.ngram_loss:.3f} nats per token"
    yield "bits/character", format_number(report.bits_per_character, ".3f")
    yield "perplexity", format_number(perplexity(loss), ",.2f")
    yield "accuracy", format_number(report.accuracy, ".1%")
    yield "n-gram overlap", format_number(report.copied_spans, ".2%")


def setting_facts(report: TrainingReport) -> Facts:
    for name, value in report.settings.items():
        yield name, setting_text(value)


def setting_text(value: Any) -> str:
    names = {None: "none", True: "yes", False: "no"}
    return names[value] if value is None or isinstance(value, bool) else str(value)


def epochs_text(report: TrainingReport, progress: Progress) -> str:
    """Describe the best epoch; without a history, only the number of epochs is known."""
    return f"{progress.best_epoch} is the best of {progress.epochs}" if progress.epochs else f"{report.epochs:g}"


def sample_text(sample: Sample, direction: str) -> str:
    """Return a sample in reading order, after its labels in brackets, and with its prompt or suffix in brackets."""
    given = f"[{sample.given}]" if sample.given else ""
    text = sample.text + given if direction == "backward" else given + sample.text
    return "".join(f"[{column}={label}]" for column, label in sample.labels.items()) + text


def architecture(card: GeneratorCard) -> str:
    """Describe the recurrent layers, such as `lstm 2 × 512`, and the context length of a sliding-window model."""
    settings = card.training.settings if card.training else {}
    cell = card.cell or ("mixed" if card.layers else "unknown")
    layers, units = card.layers or settings.get("layers"), settings.get("units", card.units)
    size = f" {layers} × {units}" if layers else ""
    direction = "bidirectional " if settings.get("bidirectional") else ""
    return f"{direction}{cell}{size}" + (f", window {card.context}" if card.context else "")


def describe_training_filter(card: GeneratorCard) -> str:
    """Describe the training filter, or why there is none."""
    described = card.training_filter
    if described is None:
        return _NO_TRAINING_FILTER[reported(card, "no_training_filter")]
    entries = f"{described.num_entries:,} {described.kind}"
    if described.kind == "spans":
        entries += f" of {described.span_tokens} tokens"
    if described.stride > 1:
        entries += f", one at every {described.stride} tokens"
    return f"{entries}, false-positive rate {described.false_positive_rate:.1e}"


def reported(card: GeneratorCard, name: str) -> Any:
    """Return a field of the training report; None for an imported model, which has no report."""
    return getattr(card.training, name) if card.training else None
