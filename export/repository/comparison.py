"""Comparison of versions: metrics that are comparable by corpus, validation split and token unit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from contract.card import GeneratorCard, TrainingReport
from contract.tokenizers import Tokenizer
from export.errors import RepositoryError
from export.repository.card_facts import reported
from export.repository.history import Progress, perplexity, read_history
from export.repository.versions import Version
from export.terminal import NOTHING

# Settings that other lines of the table already show.
_SHOWN = {"name", "cell", "layers", "units", "token_unit", "corpus", "direction", "bidirectional", "context_length"}


@dataclass(frozen=True)
class Candidate:
    """A version to compare."""

    label: str
    card: GeneratorCard
    tokenizer: Tokenizer
    progress: Progress  # its epochs; empty if they are unknown
    problem: str = ""  # why they are unknown

    @classmethod
    def of(cls, version: Version) -> "Candidate":
        """Read a version.

        Raises:
            RepositoryError: the card or the tokenizer is missing or damaged.
        """
        card, tokenizer = version.read()
        try:
            progress, problem = read_history(version.path), ""
        except RepositoryError as error:
            progress, problem = Progress(), str(error)
        return cls(version.label, card, tokenizer, progress, problem)

    @property
    def bits_per_nat(self) -> float | None:
        """Factor from its losses to bits per character; None if it is unknown."""
        bits, loss = self.reported("bits_per_character"), self.reported("validation_loss")
        return bits / loss if bits is not None and loss else None

    def reported(self, name: str) -> Any:
        """Return a field of the training report; None if there is no report."""
        return reported(self.card, name)


@dataclass(frozen=True)
class Metric:
    """A metric, one row of the comparison."""

    name: str
    title: str
    form: str
    needs: str  # what must be equal for comparable values: "nothing", "text", or "tokens", which implies "text"
    best: Callable[..., float] | None  # which value is best, `min` or `max`; None if there is no best
    value: Callable[[Candidate], float | None]


def _field(name: str) -> Callable[[Candidate], float | None]:
    return lambda candidate: candidate.reported(name)


def _minutes(candidate: Candidate) -> float | None:
    report = candidate.card.training
    return report.seconds / 60 if report else None


METRICS = (
    Metric("parameters", "parameters", ",d", "nothing", None, _field("parameters")),
    Metric("minutes", "minutes to the best", ",.1f", "text", min, _minutes),
    Metric("tokens_per_s", "tokens/s", ",.0f", "tokens", max, _field("tokens_per_s")),
    Metric("train_loss", "training loss", ".3f", "tokens", min, _field("train_loss")),
    Metric("validation_loss", "validation loss", ".3f", "tokens", min, _field("validation_loss")),
    Metric("bits_per_character", "bits per character", ".3f", "text", min, _field("bits_per_character")),
    Metric("perplexity", "perplexity", ",.2f", "tokens", min, lambda c: perplexity(c.reported("validation_loss"))),
    Metric("accuracy", "accuracy", ".1%", "tokens", max, _field("accuracy")),
    Metric("copied_spans", "n-gram overlap", ".2%", "text", min, _field("copied_spans")),
)


class Comparison:
    """At least two candidates, and the comparability of their metrics."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.same_tokens = len({(c.card.unit, c.tokenizer.tokens) for c in candidates}) == 1
        self._same_corpus = all(c.card.training for c in candidates) and self._agree("corpus_sha256")
        self.are_samples = self._same_corpus and self._are_samples()
        self.same_text = self.are_samples or (self._same_corpus and self._agree("held_out_sha256"))

    def _agree(self, name: str) -> bool:
        return len({c.reported(name) for c in self.candidates}) == 1

    def _are_samples(self) -> bool:
        """Return whether all hold out the same share of the corpus, but different documents, sampled by their seeds."""
        # The default share depends on the context length of a sliding-window model.
        reports = [(c.reported("settings")["validation"], c.card.context) for c in self.candidates]
        shares = {(share, context if share is None else None) for share, context in reports}
        is_shuffled = {c.reported("held_out") for c in self.candidates} == {"shuffled_documents"}
        return is_shuffled and len(shares) == 1 and not self._agree("held_out_sha256")

    def best(self, metric: Metric) -> set[int]:
        """Return which candidates have the best value of a metric; none if its values are not comparable."""
        values = {i: value for i, c in enumerate(self.candidates) if (value := metric.value(c)) is not None}
        comparable = {"nothing": True, "text": self.same_text, "tokens": self.same_text and self.same_tokens}
        if metric.best is None or not comparable[metric.needs] or len(values) < 2:
            return set()
        best = metric.best(values.values())
        # Values with the same display count as equal; if all are equal, none is the best.
        winners = {i for i, value in values.items() if format(value, metric.form) == format(best, metric.form)}
        return winners if len(winners) < len(values) else set()

    def notes(self) -> Iterator[str]:
        yield from self._notes_on_text()
        if not self.same_tokens:
            what = "units" if len({c.card.unit for c in self.candidates}) > 1 else "vocabularies"
            yield (
                f"the {what} differ: losses, perplexity, accuracy and tokens/s refer to different tokens; "
                f"only bits per character can be compared"
            )
        for c in self.candidates:
            if c.problem:
                yield f"{c.label}: its epochs are unknown: {c.problem}"

    def _notes_on_text(self) -> Iterator[str]:
        cannot = "no quality metrics can be compared"
        untrained = [c.label for c in self.candidates if c.card.training is None]
        if untrained:
            yield f"imported, so {cannot}: {', '.join(untrained)}"
        elif not self._same_corpus:
            yield f"the corpora differ: {cannot} ({self._each(_corpus)})"
        elif not self.same_text:
            yield f"the validation splits differ: {cannot} ({self._each(_held_out)})"
        elif self.are_samples:
            yield (
                f"each version holds out different documents of the same corpus, sampled by its seed, so small "
                f"differences may be due to chance; train with the same --seed to hold out the same documents "
                f"({self._each(_held_out)})"
            )

    def _each(self, describe: Callable[[TrainingReport], str]) -> str:
        return "; ".join(f"{c.label}: {describe(c.card.training)}" for c in self.candidates if c.card.training)

    def settings(self) -> dict[str, list[Any]]:
        """Return the settings in which the candidates differ, with a value per candidate; a dash if it is unknown."""
        all_settings = [c.card.training.settings if c.card.training else {} for c in self.candidates]
        names = dict.fromkeys(name for settings in all_settings for name in settings if name not in _SHOWN)
        values = {name: [settings.get(name, NOTHING) for settings in all_settings] for name in names}
        return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def _corpus(report: TrainingReport) -> str:
    return f"{report.corpus}, {report.corpus_characters:,} characters, SHA-256 {report.corpus_sha256[:8]}…"


def _held_out(report: TrainingReport) -> str:
    sampled = f" of documents sampled by seed {report.seed}" if report.held_out == "shuffled_documents" else ""
    return f"{report.held_out_characters:,} characters{sampled}"
