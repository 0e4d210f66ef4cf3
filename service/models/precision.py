"""Serving precision: the precision in which a version is called.

All gateways must choose the same at every start, as reproducibility depends on it. So `auto` measures nothing, which
other load would falsify: it decides by the card and the CPU. Model servers do not report their CPU; it is assumed to be
of the gateway's type.
"""

import logging
from collections.abc import Mapping

from contract import signatures
from contract.card import GeneratorCard
from contract.machine import has_fast_bfloat16
from contract.signatures import PrecisionName
from service.scheduling.sequence import ModelVersion
from service.settings import Precision

log = logging.getLogger(__name__)

# By how many nats per token the loss may be higher for `auto` to choose bfloat16.
MAX_DIFFERENCE = 0.002
# Width of the top layer from which on bfloat16 is clearly faster; at 256 units a decode call gains 0 to 40%.
MIN_UNITS = 512


def choose_precision(ref: ModelVersion, card: GeneratorCard, wanted: Mapping[str, Precision]) -> PrecisionName:
    """Return the precision of a version's calls, and log the reason; `wanted` is by model, "" for all others."""
    what, setting = f"model {ref.name} version {ref.number}", wanted.get(ref.name, wanted[""])
    if card.precision_check is None:
        if setting == signatures.BFLOAT16:
            log.warning("%s: float32, as it was exported without signatures in bfloat16", what)
        return signatures.FLOAT32
    if setting != "auto":
        return setting
    difference = card.precision_check.difference
    if difference > MAX_DIFFERENCE:
        log.info("%s: float32, as bfloat16 costs %.4f nats per token", what, difference)
    elif card.units < MIN_UNITS:
        log.info("%s: float32, as it has %d units, fewer than %d", what, card.units, MIN_UNITS)
    elif not has_fast_bfloat16():
        log.info("%s: float32, as the CPU of this machine has no fast instructions for bfloat16", what)
    else:
        log.info("%s: bfloat16, as the CPU of this machine has fast instructions for it", what)
        return signatures.BFLOAT16
    return signatures.FLOAT32
