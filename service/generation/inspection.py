"""A text that is read to be looked into: at each token what its layers held, what their gates did, what was expected.

Knows what a model's card says can be told, and what of it is wanted. Does not know how sequences are computed, or HTTP.
"""

from dataclasses import dataclass, replace

import numpy as np

from contract import signatures
from contract.card import Trace
from service.api.parameters import InspectRequest
from service.backends.registry import ServedModel
from service.generation.checkpoint import Checkpoint
from service.generation.job import Canceller, Listener
from service.generation.logprobs import Logprobs, expected_next
from service.generation.prompts import EncodedPrompt
from service.generation.reading import Reading
from service.scheduling.sequence import Event, Read, Scores

# What a request may want, and which traces that is.
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
    """What was found.

    Attributes:
        logprobs: Of the text's tokens, in order of reading.
        token_ids: Of the same.
        expected: The most probable tokens behind the last one that was read, and their log probabilities.
        positions: int64 (positions,): of which tokens `values` are.
        units: By layer, int64 (units,): which of its units.
        values: Of each trace that was wanted, float32 (positions, units).
        state: Of each layer's hidden and cell state, float32 (units,) after the last token; empty if not asked for.
    """

    logprobs: Logprobs
    token_ids: list[int]
    expected: dict[str, float]
    positions: np.ndarray
    units: dict[int, np.ndarray]
    values: list[tuple[Trace, np.ndarray]]
    state: list[tuple[Trace, np.ndarray]]


def wanted_traces(request: InspectRequest, model: ServedModel) -> list[Trace]:
    """Return what is to be told of a model, by kind and layer."""
    kinds = {kind for name in request.include for kind in KINDS[name]}
    layers = {trace.layer for trace in model.card.traces} if request.layers is None else set(request.layers)
    return [trace for trace in model.card.traces if trace.kind in kinds and trace.layer in layers]


def picked(count: int, most: int | None) -> np.ndarray:
    """Return int64 (≤ most,): of so many places those that are told, spread evenly from the first to the last."""
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def num_values(request: InspectRequest, traces: list[Trace], prompt: EncodedPrompt) -> int:
    """Return how many numbers would be told."""
    num_positions = (
        min(prompt.num_tokens, request.max_positions or prompt.num_tokens) if request.return_sequences else 1
    )
    return num_positions * sum(min(trace.units, request.max_units or trace.units) for trace in traces)


class Inspection(Reading):
    """One request to look into a text, in the making."""

    def __init__(
        self,
        request: InspectRequest,
        model: ServedModel,
        prompt: EncodedPrompt,
        runner: Canceller,
        listener: Listener,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Prepare.

        Args:
            request: What is wanted.
            model: What reads it.
            prompt: The text.
            runner: What the sequence is cancelled at.
            listener: Told how it goes.
            checkpoint: The text that is gone on with; None: none.
        """
        super().__init__(model, [prompt], runner, listener, request.timeout_s, checkpoint)
        self.request, self.traces = request, wanted_traces(request, model)
        self._positions = picked(prompt.num_tokens, request.max_positions)
        if not request.return_sequences:
            self._positions = self._positions[:1] if prompt.backward else self._positions[-1:]
        self._units = {trace.layer: picked(trace.units, request.max_units) for trace in self.traces}
        num_tokens, num_before = prompt.num_tokens, len(prompt.read_ids) - prompt.num_tokens
        # Where the positions stand in what the model reads.
        self._places = num_before + (num_tokens - 1 - self._positions if prompt.backward else self._positions)
        # Zeros take no memory until the first values are written.
        self._values = [
            np.zeros((len(self._positions), len(self._units[trace.layer])), np.float32) for trace in self.traces
        ]
        self._num_read = 0
        self.options |= {
            "returns_state": request.return_state,
            "tells": tuple((trace.output, trace.units) for trace in self.traces),
        }

    def prefill_signature(self, place: int) -> str:  # noqa: ARG002 - as for `Completion`
        """Return the signature by which the text is read."""
        return signatures.INSPECT

    def put(self, event: Event) -> None:
        """Keep the values that are wanted of an event, on the scheduler's thread; the rest does not wait in a queue."""
        if isinstance(event, Read) and event.told is not None and event.scores is not None:
            length = len(event.scores.logprobs)
            here = np.flatnonzero((self._places >= self._num_read) & (self._places < self._num_read + length))
            for trace, value in zip(self.traces, self._values, strict=True):
                told = event.told[trace.output][self._places[here] - self._num_read]
                value[here] = told[:, self._units[trace.layer]]
            self._num_read += length
            event = replace(event, told=None)
        super().put(event)

    def result(self) -> InspectionOutput:
        """Wait for all of it.

        Raises:
            GatewayError: see `Job.events`.
        """
        (prompt,), state, scores = self.prompts, None, list[Scores]()
        for event in self.events():
            assert isinstance(event, Read), "nothing is drawn"
            assert event.scores is not None, "inspect tells scores"
            scores.append(event.scores)
            state = event.state
            if event.last:
                self.finish(event.index)
        whole, last = _parted(scores)
        num_top = self.request.num_top
        return InspectionOutput(
            logprobs=prompt.logprobs([whole] if len(whole.logprobs) else [], num_top),
            token_ids=prompt.ids.tolist(),
            expected=expected_next(last, num_top, self.model.tokenizer.detokenizer(prompt.text)),
            positions=self._positions,
            units=self._units,
            values=self._take_values(),
            state=[] if state is None else self._by_layer(state),
        )

    def _take_values(self) -> list[tuple[Trace, np.ndarray]]:
        """Hand the values over, so that the caller can free them one by one."""
        values, self._values = self._values, []
        return list(zip(self.traces, values, strict=True))

    def _by_layer(self, state: np.ndarray) -> list[tuple[Trace, np.ndarray]]:
        """Part a state into the vectors of its layers; that of a window has none."""
        traces = [trace for trace in self.model.card.traces if trace.kind in (signatures.HIDDEN, signatures.CELL)]
        parts = np.split(state, np.cumsum([trace.units for trace in traces])[:-1]) if traces else []
        return list(zip(traces, parts, strict=True))


def _parted(scores: list[Scores]) -> tuple[Scores, Scores]:
    """Part scores into those of the text's tokens but the first, and what is expected behind the last."""
    joined = [
        np.concatenate([getattr(part, name) for part in scores]) for name in ("logprobs", "top_ids", "top_logprobs")
    ]
    return Scores(*(array[:-1] for array in joined)), Scores(*(array[-1:] for array in joined))
