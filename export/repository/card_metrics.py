"""Metrics and architecture of a card, to identify and compare versions.

Knows cards. Does not know where they are stored or how metrics are shown.
"""

import math
from typing import Any

from contract.card import GeneratorCard
from contract.tokenizer import Tokenizer
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


def validation_loss(card: GeneratorCard) -> float | None:
    """Return the validation loss in nats per token; None if nothing was held out or the training is unknown."""
    return card.training.validation_loss if card.training else None


def bits_per_character(card: GeneratorCard, tokenizer: Tokenizer) -> float | None:
    """Return the validation loss in bits per character; None if it is unknown.

    An earlier release did not record it; if each token is a character, it follows from the loss.
    """
    if card.training is None or card.training.bits_per_character is not None:
        return card.training.bits_per_character if card.training else None
    loss = card.training.validation_loss
    if loss is None or card.unit != "character" or tokenizer.special.end is not None:
        return None
    return loss / math.log(2)
