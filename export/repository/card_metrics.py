"""Metrics and architecture of a card, to identify and compare versions.

Knows cards. Does not know where they are stored or how metrics are shown.
"""

from typing import Any

from contract.card import GeneratorCard, NoTrainingFilter
from export.terminal import visible

_NO_TRAINING_FILTER: dict[NoTrainingFilter | None, str] = {
    "disabled": "none: switched off",
    "too_many_documents": "none: too many documents",
    "no_corpus": "none: the corpus was unavailable",
    None: "none",
}


def architecture(card: GeneratorCard) -> str:
    """Describe the recurrent layers, such as `lstm 2 × 512`, and the context length of a sliding-window model."""
    settings = card.training.settings if card.training else {}
    cell = card.cell or ("mixed" if card.layers else "unknown")
    layers, units = card.layers or settings.get("layers"), settings.get("units", card.units)
    size = f" {layers} × {units}" if layers else ""
    direction = "bidirectional " if settings.get("bidirectional") else ""
    return f"{direction}{cell}{size}" + (f", window {card.context}" if card.context else "")


def describe_training_filter(card: GeneratorCard) -> str:
    """Describe what the training filter recognizes, or why there is none."""
    described = card.training_filter
    if described is None:
        return _NO_TRAINING_FILTER[reported(card, "no_training_filter")]
    entries = f"{described.num_entries:,} {described.kind}"
    if described.kind == "spans":
        entries += f" of {described.span_tokens} tokens"
    if described.stride > 1:
        entries += f", one at every {described.stride} tokens"
    return f"{entries}, false-positive rate {described.false_positive_rate:.1e}"


def setting_text(value: Any) -> str:
    """Format the value of a setting."""
    names = {None: "none", True: "yes", False: "no"}
    return names[value] if value is None or isinstance(value, bool) else visible(value)


def reported(card: GeneratorCard, name: str) -> Any:
    """Return a field of the training report; None for an imported model, which has no report."""
    return getattr(card.training, name) if card.training else None
