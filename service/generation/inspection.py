"""Inspection of a text: hidden states, cell states, gates and predicted tokens at each of its tokens."""

from dataclasses import dataclass, replace

import numpy as np

from contract import signatures
from contract.card import Activation
from service.api.requests import InspectRequest
from service.generation.logprobs import Logprobs, expected_next
from service.generation.prompts import EncodedPrompt
from service.generation.request import Request
from service.models.registry import ServedModel
from service.scheduling.sequence import Event, PrefillResult, Scores

# Values of `include`, and the kinds of activations that each selects.
KINDS = {
    "hidden": (signatures.HIDDEN, signatures.TOP),
    "cell": (signatures.CELL,),
    "gates": (
        signatures.FORGET,
        signatures.INPUT,
        signatures.CANDIDATE,
        signatures.OUTPUT,
        signatures.UPDATE,
        signatures.RESET,
    ),
}


@dataclass(frozen=True)
class InspectionOutput:
    """The result of an inspection.

    Attributes:
        logprobs: Log probabilities of the text's tokens, in reading order.
        token_ids: Ids of the same tokens.
        expected: The most probable tokens after the last one that the model read, and their log probabilities.
        positions: int64 (positions,): indexes of the tokens of `values`.
        units: By layer, int64 (units,): indexes of its units in `values`.
        values: Each requested activation, float32 (positions, units).
        state: Each layer's hidden and cell state after the last token, float32 (units,); empty if not requested.
    """

    logprobs: Logprobs
    token_ids: list[int]
    expected: dict[str, float]
    positions: np.ndarray
    units: dict[int, np.ndarray]
    values: list[tuple[Activation, np.ndarray]]
    state: list[tuple[Activation, np.ndarray]]


def requested_activations(body: InspectRequest, model: ServedModel) -> list[Activation]:
    """Return the activations of a model that a body selects by kind and layer."""
    kinds = {kind for name in body.include for kind in KINDS[name]}
    layers = {each.layer for each in model.card.traces} if body.layers is None else set(body.layers)
    return [each for each in model.card.traces if each.kind in kinds and each.layer in layers]


def evenly_spaced(count: int, most: int | None) -> np.ndarray:
    """Return int64 (≤ most,): indexes below `count`, spread evenly from the first to the last; None: all of them."""
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def num_values(body: InspectRequest, activations: list[Activation], prompt: EncodedPrompt) -> int:
    """Return how many numbers the response would hold."""
    num_positions = min(prompt.num_tokens, body.max_positions or prompt.num_tokens) if body.return_sequences else 1
    return num_positions * sum(min(each.units, body.max_units or each.units) for each in activations)


class InspectionBuilder:
    """The output builder of an inspection request, which has one prompt."""

    def __init__(self, body: InspectRequest, request: Request) -> None:
        self.request, self.body, self._model = request, body, request.model
        self.activations = requested_activations(body, request.model)
        (prompt,) = request.prompts
        self._positions = evenly_spaced(prompt.num_tokens, body.max_positions)
        if not body.return_sequences:
            self._positions = self._positions[:1] if prompt.backward else self._positions[-1:]
        self._units = {each.layer: evenly_spaced(each.units, body.max_units) for each in self.activations}
        num_tokens, num_before = prompt.num_tokens, len(prompt.input_ids) - prompt.num_tokens
        # Indexes of the positions in what the model reads.
        self._input_indexes = num_before + (num_tokens - 1 - self._positions if prompt.backward else self._positions)
        # Zeros take no memory until the first values are written.
        self._values = [
            np.zeros((len(self._positions), len(self._units[each.layer])), np.float32) for each in self.activations
        ]
        self._num_prefilled = 0

    def admit(self) -> None:
        """Admit the prompt; raise as `Feeder.admit_first`."""
        (prompt,), admission = self.request.prompts, self.request.admission
        admission.require_possible(len(prompt.input_ids))
        admission.admit([len(prompt.input_ids)])

    def submit(self) -> None:
        """Submit its only sequence."""
        sequence = self.request.new_sequence(
            0,
            self.request.prompts[0],
            signatures.INSPECT,
            returns_state=self.body.return_state,
            requested_activations=tuple((each.output, each.units) for each in self.activations),
            emit=self._take_event,
        )
        self.request.submit([[sequence]])

    def _take_event(self, event: Event) -> None:
        """Keep an event's requested values, on the scheduler's thread; the other values are dropped, not queued."""
        if isinstance(event, PrefillResult) and event.activations is not None and event.scores is not None:
            length = len(event.scores.logprobs)
            indexes, start = self._input_indexes, self._num_prefilled
            in_event = np.flatnonzero((indexes >= start) & (indexes < start + length))
            for each, value in zip(self.activations, self._values, strict=True):
                rows = event.activations[each.output][indexes[in_event] - start]
                value[in_event] = rows[:, self._units[each.layer]]
            self._num_prefilled += length
            event = replace(event, activations=None)
        self.request.put(event)

    def result(self) -> InspectionOutput:
        """Wait for the whole result; raise as `Request.events`."""
        (prompt,), state, scores = self.request.prompts, None, list[Scores]()
        for event in self.request.events():
            assert isinstance(event, PrefillResult), "nothing is sampled"
            assert event.scores is not None, "inspect returns scores"
            scores.append(event.scores)
            state = event.state
            if event.last:
                self.request.finish(event.index)
        text_scores, next_scores = _split_scores(scores)
        num_top = self.body.logprobs
        return InspectionOutput(
            logprobs=prompt.logprobs([text_scores] if len(text_scores.logprobs) else [], num_top),
            token_ids=prompt.ids.tolist(),
            expected=expected_next(next_scores, num_top, self._model.tokenizer.detokenizer(prompt.text)),
            positions=self._positions,
            units=self._units,
            values=self._take_values(),
            state=[] if state is None else self._split_state(state),
        )

    def _take_values(self) -> list[tuple[Activation, np.ndarray]]:
        """Return the values and drop them here, so that the caller can free them one by one."""
        values, self._values = self._values, []
        return list(zip(self.activations, values, strict=True))

    def _split_state(self, state: np.ndarray) -> list[tuple[Activation, np.ndarray]]:
        """Split a state into the vectors of its layers; a sliding-window model has none."""
        states = [each for each in self._model.card.traces if each.kind in (signatures.HIDDEN, signatures.CELL)]
        parts = np.split(state, np.cumsum([each.units for each in states])[:-1]) if states else []
        return list(zip(states, parts, strict=True))


def _split_scores(scores: list[Scores]) -> tuple[Scores, Scores]:
    """Split scores into those of the text's tokens after the first, and that of the token after the last."""
    joined = [
        np.concatenate([getattr(part, name) for part in scores]) for name in ("logprobs", "top_ids", "top_logprobs")
    ]
    return Scores(*(array[:-1] for array in joined)), Scores(*(array[-1:] for array in joined))
