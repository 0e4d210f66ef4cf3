"""The functions of a published SavedModel: what each signature computes, and what it returns.

What one step computes is the network's affair (`cells`, `window`); the loop over time comes from `loop`, inputs from
`specs`; a token is chosen by `adjustments` and `sampling`. Writing files is `export.repository.publishing`'s.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import Trace
from contract.tokenizer import SpecialIds
from export.graphs.adjustments import NEVER, Adjustments, Masked
from export.graphs.loop import Loop, array, blank, by_row, keep, read, repeat, specialize, write
from export.graphs.sampling import Controls, sample
from export.graphs.specs import input_specs


class StepModel(Protocol):
    """A model that reads one token after another.

    Attributes:
        state_size: S, floats of state per sequence.
        output_size: U, width of its top.
        vocab_size: V.
        unroll: Steps in each iteration of a loop; 1 where a step is large, see `export.graphs.loop.specialize`.
        traces: What `step_with_traces` tells.
    """

    state_size: int
    output_size: int
    vocab_size: int
    unroll: int

    @property
    def traces(self) -> list[Trace]:
        """See above."""

    def split(self, state: tf.Tensor) -> list[tf.Tensor]:
        """Part state rows float32 (batch, S) into vectors, (batch, width) each."""

    def join(self, parts: list[tf.Tensor]) -> tf.Tensor:
        """Undo `split`."""

    def step(self, token_ids: tf.Tensor, parts: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Read one token per row, int32 (batch,): return the top float32 (batch, U) and the new parts."""

    def step_with_traces(
        self, token_ids: tf.Tensor, parts: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        """Do what `step` does, and return what went on, too: float32 (batch, units) for each of `traces`."""

    def project(self, hidden: tf.Tensor) -> tf.Tensor:
        """Return logits float32 (batch, V) of tops float32 (batch, U)."""


class _Shared:
    """The functions that every step of every signature calls, each traced once and called by name in the graph.

    Without this, 22 loops trace some 60 steps: 3.5 s and a graph of 1.3 MB for an LSTM, against 1.6 s and 0.7 MB.
    TensorFlow inlines the calls before it runs them: bits and speed of `decode` are the same (measured: `docs/log.md`).
    """

    def __init__(self, network: StepModel) -> None:
        self.step, self.step_with_traces, self.project, self.judge, self.sample = (
            tf.function(function, autograph=False)
            for function in (network.step, network.step_with_traces, network.project, _judge, sample)
        )


class Generator(tf.Module):
    """A model, callable by any of the signatures."""

    def __init__(self, network: StepModel, special: SpecialIds, num_tokens: int) -> None:
        """Take a model.

        Args:
            network: What computes a step, its weights in variables.
            special: Which ids must not be drawn, and which one ends a text.
            num_tokens: Size of the tokenizer's vocabulary; rows of the output layer past it are never drawn.
        """
        super().__init__()
        self.network = network
        # Not an object that TensorFlow tracks: what is not called by a signature is not saved.
        self._shared = _Shared(network)
        mask = np.zeros(network.vocab_size, np.float32)
        mask[[*special.never_drawn, *range(num_tokens, network.vocab_size)]] = NEVER
        self.mask = tf.constant(mask)
        self.end_id = -1 if special.end is None else special.end

    def signatures(self) -> dict[str, Any]:
        """Return the concrete function of each signature, as `tf.saved_model.save` takes them."""
        functions: dict[str, Callable[..., Any]] = {
            signatures.SERVING_DEFAULT: self.logits,
            signatures.PREFILL: self.prefill,
            signatures.DECODE: self.decode,
            signatures.DECODE_FULL: self.decode_full,
            signatures.SCORE: self.score,
            signatures.EMBED: self.embed,
            signatures.INSPECT: self.inspect,
        }
        specs = input_specs(self.network.state_size, self.network.output_size)
        return {
            name: tf.function(function, autograph=False).get_concrete_function(**specs[name])
            for name, function in functions.items()
        }

    def logits(self, token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Run whole texts from the zero state.

        Args:
            token_ids: int32 (batch, T).

        Returns:
            logits float32 (batch, T, V): row t is what follows tokens 0 … t.
        """
        batch, length = tf.shape(token_ids)[0], tf.shape(token_ids)[1]
        by_time = tf.transpose(token_ids)

        def body(t: tf.Tensor, variables: Loop) -> Loop:
            parts, written = variables
            output, parts = self._shared.step(by_time[t], parts)
            return [parts, write(written, t, [output])]

        parts = self.network.split(tf.zeros([batch, self.network.state_size]))
        variables = [parts, [array(tf.float32, length, self.network.output_size)]]
        _, written = repeat(length, body, variables, self.network.unroll)
        (hidden,) = by_row(written)
        logits = self._shared.project(tf.reshape(hidden, [-1, self.network.output_size]))
        return {"logits": tf.reshape(logits, [batch, length, self.network.vocab_size])}

    def prefill(self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Read prompts without producing anything.

        Args:
            token_ids: int32 (batch, T), padded at the end.
            lengths: int32 (batch,): tokens of each row that count; 0 leaves its state as it is.
            state: float32 (batch, S).

        Returns:
            state float32 (batch, S) after the last token that counts.
        """

        def step(token_ids: tf.Tensor, parts: Loop) -> Loop:
            return self._shared.step(token_ids, parts)[1]

        parts = read(token_ids, lengths, step, self.network.split(state), self.network.unroll)
        return {"state": self.network.join(parts)}

    def embed(self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor, sum: tf.Tensor) -> dict[str, tf.Tensor]:
        """Read texts and add up what the top layer makes of them.

        Args:
            token_ids: int32 (batch, T), padded at the end.
            lengths: int32 (batch,): tokens of each row that count; 0 leaves its state and sum as they are.
            state: float32 (batch, S).
            sum: float32 (batch, U): the top layer's outputs over the tokens read so far.

        Returns:
            state float32 (batch, S) after the last token that counts; sum float32 (batch, U) with the outputs at those
            tokens, added one after another, so that slices change no bit; last float32 (batch, U), the output at the
            last token that counts, 0 where none does.
        """

        def step(token_ids: tf.Tensor, variables: Loop) -> Loop:
            total, _, *parts = variables
            output, parts = self._shared.step(token_ids, parts)
            return [total + output, output, *parts]

        variables = [sum, tf.zeros_like(sum), *self.network.split(state)]
        total, last, *parts = read(token_ids, lengths, step, variables, self.network.unroll)
        return {"state": self.network.join(parts), "sum": total, "last": last}

    def decode(
        self,
        token_id: tf.Tensor,
        state: tf.Tensor,
        uniforms: tf.Tensor,
        steps: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        min_p: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Advance every row by up to K sampled tokens.

        Args:
            token_id: int32 (batch,): the last token of each row, not yet read.
            state: float32 (batch, S): before that token.
            uniforms: float32 (batch, K) in [0, 1).
            steps: int32 (batch,): tokens wanted of each row, 0 to K.
            temperature: float32 (batch,); see `export.graphs.sampling.Controls`, as for the next three.
            top_k: int32 (batch,).
            top_p: float32 (batch,).
            min_p: float32 (batch,).

        Returns:
            token_ids int32 (batch, K) and logprobs float32 (batch, K), the model's own before temperature and filters,
            both 0 after a row's end; state float32 (batch, S), in which the last token returned is not yet read. A row
            ends after `steps` tokens or after the end mark.
        """
        controls = Controls(temperature, top_k, top_p, min_p)
        outputs = self._draw(token_id, state, uniforms, steps, controls, Masked(self.mask), with_top=False)
        return dict(zip(("token_ids", "logprobs", "state"), outputs, strict=True))

    def decode_full(
        self,
        token_id: tf.Tensor,
        state: tf.Tensor,
        uniforms: tf.Tensor,
        steps: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        min_p: tf.Tensor,
        adjusted_ids: tf.Tensor,
        counts: tf.Tensor,
        seen: tf.Tensor,
        bias: tf.Tensor,
        presence_penalty: tf.Tensor,
        frequency_penalty: tf.Tensor,
        repetition_penalty: tf.Tensor,
        min_steps: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Advance every row as `decode` does, with adjusted logits, and say what else was probable.

        What this call draws, it counts itself; the caller counts it before the next call.

        Args:
            token_id: int32 (batch,); see `decode`, as for the next seven.
            state: float32 (batch, S).
            uniforms: float32 (batch, K).
            steps: int32 (batch,).
            temperature: float32 (batch,).
            top_k: int32 (batch,).
            top_p: float32 (batch,).
            min_p: float32 (batch,).
            adjusted_ids: int32 (batch, N); see `adjustments.Adjustments`, as for all that follow. N may be 0.
            counts: float32 (batch, N).
            seen: float32 (batch, N).
            bias: float32 (batch, N).
            presence_penalty: float32 (batch,).
            frequency_penalty: float32 (batch,).
            repetition_penalty: float32 (batch,).
            min_steps: int32 (batch,).

        Returns:
            As `decode`, with top_token_ids int32 and top_logprobs float32 (batch, K, 5), the most probable tokens of
            each step, falling, by the model's own log probabilities, as in logprobs; 0 after a row's end.
        """
        controls = Controls(temperature, top_k, top_p, min_p)
        penalties = presence_penalty, frequency_penalty, repetition_penalty
        adjustments = Adjustments(self.mask, self.end_id, adjusted_ids, counts, seen, bias, *penalties, min_steps)
        outputs = self._draw(token_id, state, uniforms, steps, controls, adjustments, with_top=True)
        names = ("token_ids", "logprobs", "top_token_ids", "top_logprobs", "state")
        return dict(zip(names, outputs, strict=True))

    def _draw(
        self,
        token_id: tf.Tensor,
        state: tf.Tensor,
        uniforms: tf.Tensor,
        steps: tf.Tensor,
        controls: Controls,
        adjustments: Masked,
        *,
        with_top: bool,
    ) -> tuple[tf.Tensor, ...]:
        """Return token_ids, what `_judge` says of them, and state."""
        num_steps = tf.shape(uniforms)[1]
        by_time = tf.transpose(uniforms)

        def draw(*, masked: bool) -> tuple[tf.Tensor, ...]:
            def body(t: tf.Tensor, variables: Loop) -> Loop:
                last, ends, parts, tables, written = variables
                hidden, new_parts = self._shared.step(last, parts)
                logits = self._shared.project(hidden)
                drawn = self._shared.sample(adjustments.adjust(t, logits, tables), by_time[t], controls)
                outputs = [drawn, *self._shared.judge(logits, drawn, with_top=with_top)]
                if masked:
                    active = t < ends
                    new_parts = keep(active, new_parts, parts)
                    outputs = [blank(active, value) for value in outputs]
                    drawn = outputs[0]
                    ends = tf.where(drawn == self.end_id, t + 1, ends)
                tables = adjustments.count(drawn, tables)
                return [drawn, ends, new_parts, tables, write(written, t, outputs)]

            written = [array(tf.int32, num_steps), *_judgements(num_steps, with_top=with_top)]
            variables = [token_id, steps, self.network.split(state), adjustments.tables(), written]
            _, _, parts, _, written = repeat(num_steps, body, variables, self.network.unroll)
            return *by_row(written), self.network.join(parts)

        whole = tf.reduce_all(steps >= num_steps) & (self.end_id < 0)
        outputs: tuple[tf.Tensor, ...] = specialize(whole, draw, self.network.unroll)
        return outputs

    def score(self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Say how probable given tokens are.

        Args:
            token_ids: int32 (batch, T + 1), padded at the end; the first is the unread last token so far.
            lengths: int32 (batch,): how many of the T tokens after it count.
            state: float32 (batch, S): before the first.

        Returns:
            logprobs float32 (batch, T) of each token given those before it, top_token_ids int32 and top_logprobs
            float32 (batch, T, 5) of the most probable ones there, all 0 past a row's length; state float32 (batch, S),
            in which the last token that counts is not yet read.
        """
        return self._follow(token_ids, lengths, state, [])

    def inspect(self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Read texts and tell what goes on at each token.

        Args:
            token_ids: int32 (batch, T + 1), padded at the end; the last that counts is not read, only judged.
            lengths: int32 (batch,): how many of the first T tokens count.
            state: float32 (batch, S): before the first.

        Returns:
            logprobs float32 (batch, T) of the token after each, top_token_ids int32 and top_logprobs float32
            (batch, T, 5) of the most probable ones there; for each of the network's `traces`, by its own name, float32
            (batch, T, units) at each token; all 0 past a row's length. state float32 (batch, S) after the last token
            that counts.
        """
        return self._follow(token_ids, lengths, state, self.network.traces)

    def _follow(
        self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor, traces: list[Trace]
    ) -> dict[str, tf.Tensor]:
        """Read texts token by token, and judge the next token at each; tell all `traces` of the network, or none."""
        by_time = tf.transpose(token_ids)
        length = tf.shape(token_ids)[1] - 1

        def body(t: tf.Tensor, variables: Loop) -> Loop:
            parts, written = variables
            active = t < lengths
            hidden, new_parts, told = self._shared.step_with_traces(by_time[t], parts)
            judged = self._shared.judge(self._shared.project(hidden), by_time[t + 1], with_top=True)
            outputs = [*judged, *told] if traces else judged
            written = write(written, t, [blank(active, value) for value in outputs])
            return [keep(active, new_parts, parts), written]

        told = [array(tf.float32, length, trace.units) for trace in traces]
        variables = [self.network.split(state), [*_judgements(length, with_top=True), *told]]
        parts, written = repeat(length, body, variables, self.network.unroll)
        names = ("logprobs", "top_token_ids", "top_logprobs", *(trace.output for trace in traces))
        return {**dict(zip(names, by_row(written), strict=True)), "state": self.network.join(parts)}


def _judge(logits: tf.Tensor, token_ids: tf.Tensor, *, with_top: bool) -> list[tf.Tensor]:
    """Return log probabilities float32 (batch,) of tokens; with the top, also its ids and its own, (batch, 5) each."""
    log_probabilities = tf.nn.log_softmax(logits)
    logprobs = tf.gather(log_probabilities, token_ids, batch_dims=1)
    if not with_top:
        return [logprobs]
    best, best_ids = tf.math.top_k(log_probabilities, k=signatures.NUM_TOP)
    return [logprobs, best_ids, best]


def _judgements(num_steps: tf.Tensor, *, with_top: bool) -> list[tf.TensorArray]:
    """Make the arrays that take what `_judge` returns."""
    top = [array(kind, num_steps, signatures.NUM_TOP) for kind in (tf.int32, tf.float32)] if with_top else []
    return [array(tf.float32, num_steps), *top]
