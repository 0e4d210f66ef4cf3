"""Metrics and architecture of a card, to identify and compare versions.

Knows cards. Does not know where they are stored or how metrics are shown.
"""

from typing import Any

from contract.card import GeneratorCard
from export.terminal import visible


def architecture(card: GeneratorCard) -> str:
    """Describe the recurrent layers, such as `lstm 2 × 512`, and the context length of a sliding-window model."""
    settings = card.training.settings if card.training else {}
    cell = card.cell or ("mixed" if card.layers else "unknown")
    layers, units = card.layers or settings.get("layers"), settings.get("units", card.units)
    size = f" {layers} × {units}" if layers else ""
    ways = " both ways" if settings.get("bidirectional") else ""
    return f"{cell}{size}{ways}" + (f", window {card.context}" if card.context else "")


def setting_text(value: Any) -> str:
    """Format the value of a setting."""
    names = {None: "none", True: "yes", False: "no"}
    return names[value] if value is None or isinstance(value, bool) else visible(value)


def reported(card: GeneratorCard, name: str) -> Any:
    """Return a field of the training report; None for an imported model, which has no report."""
    return getattr(card.training, name) if card.training else None
