"""The state of a sequence by layers: its parts, and interventions on its units.

All other code takes the state for one opaque row of floats.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from contract import signatures
from contract.card import Activation
from service.api.requests import Intervention
from service.errors import InvalidRequest
from service.models.registry import ServedModel
from service.scheduling.sequence import Interventions


def state_parts(model: ServedModel) -> list[tuple[Activation, slice]]:
    """Return the hidden and cell states of the layers with their places in a state; none for a sliding-window model."""
    parts = [each for each in model.card.activations if each.kind in (signatures.HIDDEN, signatures.CELL)]
    ends = list(accumulate(each.units for each in parts))
    return [(each, slice(end - each.units, end)) for each, end in zip(parts, ends, strict=True)]


def resolve_interventions(requested: Sequence[Intervention], model: ServedModel) -> Interventions | None:
    """Return the interventions on a model's state, None for none; raise InvalidRequest for units that it lacks."""
    if not requested:
        return None
    parts, indexes = state_parts(model), list[int]()
    if not parts:
        raise InvalidRequest(
            f"interventions must be absent for model {model.ref.name!r}: a sliding-window model has no state",
            param="interventions",
        )
    for number, each in enumerate(requested):
        index = _index(each, f"interventions[{number}]", parts)
        if index in indexes:
            raise InvalidRequest(
                f"interventions[{number}] must be of another unit than interventions[{indexes.index(index)}]",
                param="interventions",
            )
        indexes.append(index)
    return Interventions(
        np.array(indexes),
        np.array([each.scale or 0 for each in requested], np.float32),
        np.array([each.set or 0 for each in requested], np.float32),
    )


def _index(intervention: Intervention, field: str, parts: list[tuple[Activation, slice]]) -> int:
    """Return the index of a unit in the state."""
    of_layer = {part.kind: place for part, place in parts if part.layer == intervention.layer}
    kind = intervention.kind or (signatures.CELL if signatures.CELL in of_layer else signatures.HIDDEN)
    given: int | str = intervention.layer
    if not of_layer:
        name, allowed = "layer", f"at most {max(part.layer for part, _ in parts)}"
    elif kind not in of_layer:
        name, allowed, given = "kind", f"{' or '.join(of_layer)} in layer {intervention.layer}", kind
    elif intervention.unit >= (num_units := of_layer[kind].stop - of_layer[kind].start):
        name, allowed, given = "unit", f"below {num_units} in layer {intervention.layer}", intervention.unit
    else:
        return int(of_layer[kind].start) + intervention.unit
    raise InvalidRequest(f"{field}.{name} must be {allowed}, got {given}", param="interventions")
