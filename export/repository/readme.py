"""The README of a version: example request, metrics, samples, and all facts of its card."""

import re
import textwrap
from collections.abc import Collection, Iterator, Sequence

from contract.card import GeneratorCard, TrainingReport
from contract.signatures import ASSETS
from export.corpora.memorization import SPAN_WORDS
from export.repository.card_facts import (
    Facts,
    architecture,
    epochs_text,
    metric_facts,
    model_facts,
    sample_text,
    setting_facts,
    training_facts,
)
from export.repository.history import Progress
from export.terminal import visible

_UNITS = {
    "character": "character by character",
    "word": "word by word, in lower case and without punctuation",
    "exact_word": "word by word, exactly as written",
    "subword": "subword by subword",
    "regex": "by matches of regular expressions, character by character between them",
}
_BACKTICKS = re.compile("`+")
# Width at which samples are wrapped, as those of word models have no line ends.
_WIDTH = 100
_FILES = {
    "generator.json": "the card: these facts as JSON",
    "tokenizer.json": "the tokenizer, in the format of Hugging Face's `tokenizers`",
    "model.keras": "the Keras model",
    "history.json": "loss, perplexity, accuracy and logit scale of each epoch, and the tokens and seconds so far",
    "history.png": "the plot above",
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
    parts = [f"# {code(card.name)}", _summary(card), "With a gateway on the default port:", _example_request(card)]
    if training is not None:
        parts += ["## Metrics", _facts_table(metric_facts(training)), *_what_was_measured(training)]
        if history.epochs:
            parts += [f"![Loss and perplexity of each epoch]({ASSETS}/history.png)"]
        parts += ["## Samples", *_samples(card, training)]
    parts += ["## Model", _facts_table(model_facts(card, num_tokens))]
    if training is not None:
        facts = training_facts(card, training, epochs_text(training, history))
        parts += ["## Training", _facts_table(facts), "### Settings", _facts_table(setting_facts(training))]
        if training.provenance is not None:
            works = training.provenance.works
            parts += ["### Texts", "\n".join(f"{count}. {code(work)}" for count, work in enumerate(works, 1))]
    parts += ["## Files", table(["file", "content"], [*_file_rows(files, num_tokens, num_vectors)])]
    return "\n\n".join(parts) + "\n"


def _facts_table(facts: Facts) -> str:
    return table(["", ""], [[label, code(text)] for label, text in facts])


def _summary(card: GeneratorCard) -> str:
    source = "imported" if card.training is None else f"trained on {code(card.training.corpus)}"
    if card.base is not None:
        source += f", starting from {code(card.base)}"
    does = "generates the text before a suffix" if card.direction == "backward" else "continues a text"
    return f"A model ({architecture(card)}), {source}, that {does} {_UNITS[card.unit]}."


def _example_request(card: GeneratorCard) -> str:
    data = card.example_request(max_tokens=200, temperature=0.8)
    return fenced(f"curl http://127.0.0.1:8000/v1/completions \\\n  -d {data}", "bash")


def _what_was_measured(training: TrainingReport) -> Iterator[str]:
    if training.validation_loss is None:
        yield "Nothing was held out: the training loss measures only how well the text was memorized."
    else:
        yield (
            f"The training loss is measured during the epoch, with dropout. Bits per character are averaged over the "
            f"{training.validation_characters:,} characters of the validation split that the vocabulary covers (not "
            f"over case and punctuation, if the model generates neither), so models with different token units can be "
            f"compared on the same split if their vocabularies cover the same share of it. Accuracy is the fraction of "
            f"the validation tokens to which the model gave the highest probability."
        )
    if training.copied_spans is not None:
        yield (
            f"N-gram overlap: of {training.written_spans:,} {SPAN_WORDS}-grams of words generated at temperature 1, "
            f"{training.copied_spans:.2%} occur in the training text. Near 0% the sentences are new; a high percentage "
            f"means that the model recites its training text. Phrases that the corpus repeats often count, too."
        )


def _samples(card: GeneratorCard, training: TrainingReport) -> Iterator[str]:
    source = "the training text, as nothing was held out"
    if training.validation_loss is not None:
        source = "the validation split"
    given = f"The prompt is in brackets: an excerpt of {source}" if training.samples[0].given else "Without a prompt"
    if training.samples[0].labels:
        given = "Without a prompt; the label is in brackets"
    yield f"{given}. Lines of more than {_WIDTH} characters are wrapped."
    for sample in training.samples:
        yield f"Temperature {sample.temperature:g}:"
        lines = printable(sample_text(sample, card.direction)).split("\n")
        yield fenced("\n".join(part for line in lines for part in textwrap.wrap(line, _WIDTH) or [""]))


def _file_rows(files: Collection[str], num_tokens: int, num_vectors: int) -> Iterator[list[str]]:
    yield [f"{code('saved_model.pb')}, {code('variables/')}", "the SavedModel that is served"]
    cut = f", of its first {num_vectors:,} tokens" if num_vectors < num_tokens else ""
    for name, meaning in _FILES.items():
        if name in files:
            yield [code(f"{ASSETS}/{name}"), meaning + cut * (name == "vectors.tsv")]


def code(text: str) -> str:
    """Format a text as a code span, valid in a table cell too."""
    shown = printable(text).replace("\n", " ")
    if not shown.strip():
        return ""
    ticks = "`" * (_longest(shown) + 1)
    # A code span that begins or ends with a backtick needs a space there; Markdown strips it.
    space = " " if shown[0] == "`" or shown[-1] == "`" else ""
    # Markdown splits table cells at bars before it parses code spans.
    return f"{ticks}{space}{shown}{space}{ticks}".replace("|", "\\|")


def fenced(text: str, language: str = "") -> str:
    """Format a text as a fenced code block."""
    fence = "`" * max(3, _longest(text) + 1)
    return f"{fence}{language}\n{printable(text)}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table; the cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def printable(text: str) -> str:
    """Replace unprintable characters, which an editor or a terminal would interpret, by dots."""
    return "\n".join(map(visible, text.expandtabs(4).split("\n")))


def _longest(text: str) -> int:
    return max(map(len, _BACKTICKS.findall(text)), default=0)
