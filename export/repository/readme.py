"""README of a version: example request, metrics, samples, memorization, model, training settings and files.

Knows the card and the history. Omits facts that are unknown.
"""

import datetime
import json
import shlex
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

from contract.card import GeneratorCard, Sample, TrainingReport, Unit
from contract.signatures import ASSETS
from export.corpora.memorization import SPAN_WORDS
from export.markdown import code, fenced, printable, table
from export.repository.card_metrics import describe_training_filter
from export.repository.history import Progress, perplexity
from export.terminal import utc_time

_CELLS = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU", None: "recurrent model"}
_UNITS = {
    "character": "character by character",
    "word": "word by word, in lower case and without punctuation",
    "exact_word": "word by word, exactly as written",
    "subword": "subword by subword",
}
_FLOAT_BYTES = 4
# Width at which samples are wrapped: samples of word models have no line ends.
_WIDTH = 100
_FILES = {
    "generator.json": "this page as JSON",
    "tokenizer.json": "the tokenizer, in the format of Hugging Face's `tokenizers`",
    "model.keras": "the Keras model",
    "history.json": "loss, perplexity, accuracy, tokens and seconds of every epoch",
    "history.png": "the picture above",
    "vectors.tsv": "the embedding, for https://projector.tensorflow.org",
    "metadata.tsv": "the token of each of its vectors",
    "training.bloom": "the training filter, which recognizes copies of the training split",
}


def write_readme(
    card: GeneratorCard, num_tokens: int, history: Progress, files: Collection[str], num_vectors: int
) -> str:
    """Return the README in Markdown; the version number is not known yet.

    `files` are the names in `assets.extra`; `num_vectors` the lines of `vectors.tsv`, if that file exists.
    """
    training = card.training
    parts = [f"# {code(card.name)}", _summary(card), *_example_request(card)]
    if training is not None:
        parts += [*_metrics(training, card.unit, history), *_samples(card, training.samples), *_memorization(training)]
    parts += ["## Model", table(["", ""], [*_model_rows(card, num_tokens)])]
    if training is not None:
        parts += ["## Training", table(["", ""], [*_training_rows(card, training, history)])]
        parts += ["### Settings", table(["setting", "value"], [*_setting_rows(training.settings)])]
    parts += ["## Files", table(["file", "what it is"], [*_file_rows(files, num_tokens, num_vectors)])]
    return "\n\n".join(parts) + "\n"


def _summary(card: GeneratorCard) -> str:
    layers = f" of {card.layers} layers with {card.units} units" if card.layers > 1 else f" of {card.units} units"
    ways = "bidirectional " if card.training and card.training.settings.get("bidirectional") else ""
    # The layers of a sliding-window model are unknown; an imported model may have no recurrent layers.
    kind = ways + _CELLS[card.cell] + layers if card.cell or card.layers else "model"
    article = "An" if kind.startswith("LSTM") else "A"
    sees = f", with a sliding window of {card.context} tokens" if card.context else ""
    does = "generates the text before a suffix" if card.direction == "backward" else "continues a text"
    source = "imported" if card.training is None else f"trained on {code(card.training.corpus)}"
    return f"{article} {kind}, {source}, that {does} {_UNITS[card.unit]}{sees}."


def _example_request(card: GeneratorCard) -> Iterator[str]:
    """Yield an example request, with the prompt of a sample if there is one."""
    prompt = next((sample.given for sample in card.training.samples if sample.given), "") if card.training else ""
    field = "suffix" if card.direction == "backward" else "prompt"
    body = {"model": card.name, field: prompt or "The ", "max_tokens": 200, "temperature": 0.8}
    data = shlex.quote(json.dumps(body, ensure_ascii=not prompt.isprintable()))
    yield "With a gateway on the default port:"
    yield fenced(f"curl http://127.0.0.1:8000/v1/completions \\\n  -d {data}", "bash")


def _metrics(training: TrainingReport, unit: Unit, history: Progress) -> Iterator[str]:
    """Yield the metrics, and what they were measured on."""
    yield "## Metrics"
    held_out = training.validation_loss is not None
    losses = [training.train_loss] + [training.validation_loss] * held_out
    rows = [
        ["loss, nats per token", *(_number(loss, ".4f") for loss in losses)],
        ["perplexity", *(_number(perplexity(loss), ",.3f") for loss in losses)],
        ["bits per character", "", _number(training.bits_per_character, ".4f")],
        ["accuracy", "", _number(training.accuracy, ".2%")],
    ]
    width = 1 + len(losses)
    yield table(["", "training", "validation"][:width], [row[:width] for row in rows if any(row[1:width])])
    yield _what_was_held_out(training, unit)
    if history.epochs:
        yield f"![Loss and perplexity of each epoch]({ASSETS}/history.png)"


def _what_was_held_out(training: TrainingReport, unit: Unit) -> str:
    if training.validation_loss is None:
        return "Nothing was held out: the training loss measures only how well the text was memorized."
    size = f"{training.held_out_characters:,} characters"
    split = f"the last {size} of the corpus"
    if training.held_out == "shuffled_documents":
        split = f"documents sampled by seed {training.seed}, {size}"
    uncounted = "Case and punctuation, which this model does not generate, are not counted. " if unit == "word" else ""
    return (
        f"Validation is {split}, {training.validation_tokens:,} tokens in the vocabulary, which cover "
        f"{training.validation_characters:,} characters. The training loss is measured during the epoch, with dropout. "
        f"Bits per character are averaged over these characters, so models with different token units can be compared "
        f"on the same validation split if their vocabularies cover the same share of it. {uncounted}"
        f"Accuracy is the fraction of those tokens to which the model gave the highest probability."
    )


def _samples(card: GeneratorCard, samples: tuple[Sample, ...]) -> Iterator[str]:
    yield "## Samples"
    held_out = card.training is not None and card.training.validation_loss is not None
    source = (
        "an excerpt of the validation split" if held_out else "an excerpt of the training text, as nothing was held out"
    )
    given = f"The prompt is in brackets: {source}" if samples[0].given else "Without a prompt"
    yield f"{given}. Lines of more than {_WIDTH} characters are wrapped."
    for sample in samples:
        given = f"[{sample.given}]" if sample.given else ""
        text = sample.text + given if card.direction == "backward" else given + sample.text
        yield f"Temperature {sample.temperature:g}:"
        lines = printable(text).split("\n")
        yield fenced("\n".join(part for line in lines for part in textwrap.wrap(line, _WIDTH) or [""]))


def _memorization(training: TrainingReport) -> Iterator[str]:
    if training.copied_spans is None:
        return
    yield "## Memorization"
    yield (
        f"N-gram overlap: of {training.written_spans:,} {SPAN_WORDS}-grams of words generated at temperature 1, "
        f"{training.copied_spans:.2%} occur in the training text. Near 0% the sentences are new; a high percentage "
        f"means that the model recites its training text. Phrases that the corpus repeats often count, too."
    )


def _model_rows(card: GeneratorCard, num_tokens: int) -> Iterator[list[str]]:
    yield ["name", code(card.name)]
    yield ["version", "the name of this directory"]
    yield ["token unit", card.unit]
    yield ["vocabulary", f"{num_tokens:,} tokens"]
    if card.cell:
        yield ["cells", _CELLS[card.cell]]
    if card.layers:
        yield ["recurrent layers", str(card.layers)]
    yield ["units of the top layer", f"{card.units:,}"]
    if card.embedding:
        yield ["width of the embedding", f"{card.embedding:,}"]
    yield ["direction", card.direction]
    if card.context:
        yield ["context length", f"{card.context:,} tokens"]
    if card.training:
        yield ["parameters", f"{card.training.parameters:,}"]
    yield ["state per sequence", f"{card.state_size * _FLOAT_BYTES:,} bytes"]
    yield ["SHA-256 of the weights", code(card.weights_sha256)]
    yield ["published", f"{utc_time(card.created)} UTC"]
    yield ["TensorFlow", card.tensorflow]


def _training_rows(card: GeneratorCard, training: TrainingReport, history: Progress) -> Iterator[list[str]]:
    yield ["corpus", code(training.corpus)]
    yield ["SHA-256 of its text", code(training.corpus_sha256)]
    yield ["characters", f"{training.corpus_characters:,}"]
    is_shuffled = training.held_out == "shuffled_documents"
    where = f"in documents sampled by seed {training.seed}" if is_shuffled else "at the end"
    yield [f"of these held out, {where}", f"{training.held_out_characters:,}"]
    yield ["tokens per epoch", f"{training.train_tokens:,}"]
    epochs = f"{training.epochs:g}"
    yield ["epochs", f"{epochs}; the best was {history.best_epoch} of {history.epochs}" if history.epochs else epochs]
    yield ["time, h:mm:ss", str(datetime.timedelta(seconds=round(training.seconds)))]
    yield ["speed", f"{training.tokens_per_s:,.0f} tokens/s"]
    yield ["seed", str(training.seed)]
    yield ["training filter", describe_training_filter(card)]


def _setting_rows(settings: dict[str, Any]) -> Iterator[list[str]]:
    for name, value in settings.items():
        shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        yield [code(name), code(shown)]


def _file_rows(files: Collection[str], num_tokens: int, num_vectors: int) -> Iterator[list[str]]:
    yield [f"{code('saved_model.pb')}, {code('variables/')}", "the SavedModel that is served"]
    cut = f", of its first {num_vectors:,} tokens" if num_vectors < num_tokens else ""
    for name, meaning in _FILES.items():
        if name in files:
            yield [code(f"{ASSETS}/{name}"), meaning + cut * (name == "vectors.tsv")]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
