"""Hidden states: their position in a state, interventions on them, and requests that return them."""

from collections import abc
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from contract import signatures
from contract.card import Activation
from service.api.requests import EmbeddingsRequest, InspectRequest, Intervention
from service.errors import InvalidRequest
from service.generation.logprobs import expected_next, logprobs_bytes, scores_bytes
from service.generation.running_request import RunningRequest
from service.models.registry import ServedModel
from service.scheduling.sequence import ChoiceIndex, Interventions, Result, Scores, Sequence

# Values of `include`, and the kinds of activations that each selects.
KINDS = {
    "hidden": (signatures.HIDDEN, signatures.TOP),
    "cell": (signatures.CELL,),
    "gates": (
        *(signatures.FORGET, signatures.INPUT, signatures.CANDIDATE, signatures.OUTPUT),
        *(signatures.UPDATE, signatures.RESET),
    ),
}
# Bytes of a number: of an embedding, float32 and JSON; of /v1/inspect, float32, as its JSON is streamed.
_VECTOR_BYTES, _VALUE_BYTES = 4 + 16, 4


def state_parts(model: ServedModel) -> list[tuple[Activation, slice]]:
    """Return the layers' hidden and cell states with their position in a state; none for a sliding-window model."""
    parts = [each for each in model.card.activations if each.kind in (signatures.HIDDEN, signatures.CELL)]
    ends = list(accumulate(each.units for each in parts))
    return [(each, slice(end - each.units, end)) for each, end in zip(parts, ends, strict=True)]


def resolve_interventions(requested: abc.Sequence[Intervention], model: ServedModel) -> Interventions:
    """Return the interventions on a model's state; raise InvalidRequest for units that it lacks."""
    parts, indexes = state_parts(model), list[int]()
    if not parts:
        raise InvalidRequest(
            f"interventions must be absent for model {model.ref.name!r}: a sliding-window model has no state",
            param="interventions",
        )
    for number, each in enumerate(requested):
        index = _unit_index(each, f"interventions[{number}]", parts)
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


def _unit_index(intervention: Intervention, field: str, parts: list[tuple[Activation, slice]]) -> int:
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


class EmbeddingProcessor:
    """Pools the top layer's hidden states over each text."""

    def __init__(self, body: EmbeddingsRequest, request: RunningRequest) -> None:
        self.request, self.body = request, body

    @property
    def num_bytes(self) -> int:
        """Upper estimate of the bytes that the vectors take as arrays and as JSON."""
        return len(self.request.prompts) * self.request.model.card.units * _VECTOR_BYTES

    def create(self, indexes: list[ChoiceIndex]) -> list[Sequence]:
        new_sequence, zeros = self.request.new_sequence, np.zeros(self.request.model.card.units, np.float32)
        return [new_sequence(index, prefill_signature=signatures.EMBED, hidden_sum=zeros) for index in indexes]

    def vectors(self) -> list[np.ndarray]:
        """Wait for every text; return its vector, float32 (U,): the mean of its hidden states, or the last of them."""
        request, mean = self.request, self.body.pooling == "mean"
        vectors: list[np.ndarray] = [np.zeros(0, np.float32)] * len(request.prompts)
        for result in request.results(self.create):
            if result.is_prefilled and result.hidden_sum is not None and result.hidden_last is not None:
                number = result.index[0]
                num_tokens = np.float32(len(request.prompts[number].input_ids))
                vectors[number] = result.hidden_sum / num_tokens if mean else result.hidden_last
                request.finish(result.index)
        return vectors


def requested_activations(body: InspectRequest, model: ServedModel) -> list[Activation]:
    """Return the activations that a body selects by kind and layer."""
    kinds = {kind for name in body.include for kind in KINDS[name]}
    layers = {each.layer for each in model.card.activations} if body.layers is None else set(body.layers)
    return [each for each in model.card.activations if each.kind in kinds and each.layer in layers]


def evenly_spaced(count: int, most: int | None) -> np.ndarray:
    """Return int64 (≤ most,): indexes below `count`, spread evenly from the first to the last; None: all of them."""
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def _requested_units(body: InspectRequest, count: int) -> np.ndarray:
    """Return int64 (≤ count,): the units of a layer of `count` that a body selects."""
    units = np.array(range(count) if body.units is None else body.units, np.int64)
    selected: np.ndarray = units[evenly_spaced(len(units), body.max_units)]
    return selected


class InspectionProcessor:
    """Collects hidden states, cell states, gates and predicted tokens at each token of one text."""

    def __init__(self, body: InspectRequest, request: RunningRequest) -> None:
        self.request, self.body, self._model = request, body, request.model
        self._activations = requested_activations(body, request.model)
        (prompt,) = request.prompts
        self._positions = evenly_spaced(prompt.num_tokens, body.max_positions if body.return_sequences else None)
        if not body.return_sequences:
            self._positions = self._positions[:1] if prompt.backward else self._positions[-1:]
        self._units = {each.layer: _requested_units(body, each.units) for each in self._activations}

    @property
    def num_values(self) -> int:
        return len(self._positions) * sum(len(self._units[each.layer]) for each in self._activations)

    @property
    def num_bytes(self) -> int:
        """Upper estimate of the bytes that the values and the log probabilities take."""
        num_tokens = self.request.prompts[0].num_tokens
        num_score_bytes = scores_bytes(num_tokens, self._model.card) + logprobs_bytes(num_tokens, self.body.logprobs)
        return self.num_values * _VALUE_BYTES + num_score_bytes

    def create(self, indexes: list[ChoiceIndex]) -> list[Sequence]:
        (prompt,), positions, activations, units = self.request.prompts, self._positions, self._activations, self._units
        num_tokens, num_read, put = prompt.num_tokens, len(prompt.input_ids), self.request.queue.put
        # The positions in the model's input.
        read_at = num_read - num_tokens + (num_tokens - 1 - positions if prompt.backward else positions)
        # Zeros take no memory until the first values are written.
        values = {each.output: np.zeros((len(read_at), len(units[each.layer])), np.float32) for each in activations}

        def deliver(result: Result) -> None:
            """Keep the requested values of a result, on the scheduler's thread, so that the others are not queued."""
            if result.activations is not None and result.scores is not None:
                end = num_read - result.num_remaining_prompt_tokens
                start = end - len(result.scores.logprobs)
                in_result = np.flatnonzero((read_at >= start) & (read_at < end))
                for each in activations:
                    rows = result.activations[each.output][read_at[in_result] - start]
                    values[each.output][in_result] = rows[:, units[each.layer]]
                result = replace(result, activations=None)
            put(result)

        self._values = values
        return [
            self.request.new_sequence(
                indexes[0],
                deliver=deliver,
                prefill_signature=signatures.INSPECT,
                returns_state=self.body.return_state,
                requested_activations=tuple((each.output, each.units) for each in activations),
            )
        ]

    def result(self) -> dict[str, Any]:
        """Wait for the whole result; raise as `RunningRequest.results`.

        Returns:
            The fields of an `InspectionObject` that do not depend on the request alone. The vectors and matrices of
            `layers` are float32 arrays, and nothing else refers to them.
        """
        (prompt,), state, scores = self.request.prompts, None, list[Scores]()
        for result in self.request.results(self.create):
            assert result.scores is not None, "inspect returns scores"
            scores.append(result.scores)
            state = result.state
            if result.is_prefilled:
                self.request.finish(result.index)
        text_scores, next_scores = _split_scores(scores)
        num_top = self.body.logprobs
        logprobs = prompt.logprobs([text_scores] if len(text_scores.logprobs) else [], num_top)
        label = prompt.tokenizer.detokenizer(prompt.text, backward=prompt.backward).label
        return {
            "expected": expected_next(next_scores, num_top, label),
            "token_ids": prompt.ids.tolist(),
            "tokens": logprobs.tokens,
            "token_logprobs": logprobs.token_logprobs,
            "top_logprobs": logprobs.top_logprobs,
            "text_offset": logprobs.text_offset,
            "positions": self._positions.tolist(),
            "layers": self._layers(
                [] if state is None else [(part, state[at]) for part, at in state_parts(self._model)]
            ),
        }

    def _layers(self, state: list[tuple[Activation, np.ndarray]]) -> list[dict[str, Any]]:
        """Return for each layer its units, each kind of values, and the state if requested."""
        layers: dict[int, dict[str, Any]] = {}
        for number in sorted({*self._units, *(each.layer for each, _ in state)}):
            units = self._units[number].tolist() if number in self._units else []
            layers[number] = {"layer": number, "units": units, "values": {}}
        # Only the response refers to the values, so that it can free them one by one.
        values = [(each, self._values.pop(each.output)) for each in self._activations]
        for name, arrays in (("values", values), ("state", state)):
            for each, array in arrays:
                layers[each.layer].setdefault(name, {})[each.kind] = array
        return list(layers.values())


def _split_scores(scores: list[Scores]) -> tuple[Scores, Scores]:
    """Split scores into those of the text's tokens after the first, and that of the token after the last."""
    joined = [
        np.concatenate([getattr(part, name) for part in scores]) for name in ("logprobs", "top_ids", "top_logprobs")
    ]
    return Scores(*(array[:-1] for array in joined)), Scores(*(array[-1:] for array in joined))
