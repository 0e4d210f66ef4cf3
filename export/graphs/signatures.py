"""The signatures of a published SavedModel; their inputs are described in `export.graphs.specs`."""

from typing import Any

import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import Activation
from contract.tokenizers import SpecialIds
from export.graphs.adjustments import NEVER, Adjustments, Constraints
from export.graphs.cells import StatefulNetwork
from export.graphs.loop import LoopBody, LoopVars, array, keep_ended, repeat, stack_batch_major, write
from export.graphs.precision import FLOAT32, Precision
from export.graphs.sampling import Controls, prepare, sample
from export.graphs.specs import input_specs
from export.graphs.window import Window

# Logarithms that TensorFlow computes at a time: its own functions are compiled for AVX.
_VECTOR_SIZE = 8

# A model that processes one token per step, with its weights.
StepModel = StatefulNetwork | Window


class _Steps:
    """The steps of a network in one precision, each traced once as a `tf.function` that all loops call.

    TensorFlow inlines the calls when it loads them: `decode` is bit-exact and as fast as without (measured:
    `benchmarks/HISTORY.md`). Vectors of sequences are in the layout of the precision, except where rows are named.
    """

    def __init__(self, network: StepModel, precision: Precision) -> None:
        self._network, self.precision = network, precision
        self.step, self.step_with_activations, self.project, self.score_tokens, self.sample = (
            tf.function(function, autograph=False)
            for function in (self._step, self._step_with_activations, self._project, _score_tokens, sample)
        )

    def split(self, state: tf.Tensor) -> LoopVars:
        """Split states, rows float32 (batch, S), into the vectors of each layer."""
        return self.precision.split(self.precision.from_rows(state), self._network.state_sizes)

    def join(self, parts: LoopVars) -> tf.Tensor:
        """Concatenate state vectors to rows (batch, S), the inverse of `split`."""
        return self.precision.to_rows(self.precision.concatenate(parts))

    def _step(self, token_ids: tf.Tensor, parts: LoopVars) -> tuple[tf.Tensor, LoopVars]:
        output, parts, _ = self._network.step(self.precision, token_ids, parts)
        return output, parts

    def _step_with_activations(self, token_ids: tf.Tensor, parts: LoopVars) -> tuple[tf.Tensor, LoopVars, LoopVars]:
        """Return rows (batch, units) of each activation, too."""
        output, parts, activations = self._network.step(self.precision, token_ids, parts)
        return output, parts, [self.precision.to_rows(each) for each in activations]

    def _project(self, hidden: tf.Tensor) -> tf.Tensor:
        """Project the network's output to logits, rows float32 (batch, V)."""
        return self._network.project(self.precision.to_rows(hidden))


class Generator(tf.Module):
    """A model with all signatures."""

    def __init__(
        self, network: StepModel, special: SpecialIds, num_tokens: int, precision: Precision = FLOAT32
    ) -> None:
        """Wrap a network.

        Args:
            network: The step model, with its weights in variables.
            special: The special ids: those that must not be sampled, and the end token.
            num_tokens: Size of the tokenizer's vocabulary; ids of the output layer beyond it are never sampled.
            precision: One of the network's, for the methods of this object; `signatures` has all of them.
        """
        super().__init__()
        self.network, self._precision = network, precision
        self._sampled = special, num_tokens
        # TensorFlow does not track this object, so functions that no signature calls are not saved.
        self._steps = _Steps(network, precision)
        mask = np.zeros(network.vocab_size, np.float32)
        mask[[*special.never_sampled, *range(num_tokens, network.vocab_size)]] = NEVER
        self.mask = tf.constant(mask)
        self.end_id = -1 if special.end is None else special.end

    def signatures(self) -> dict[str, Any]:
        """Return the concrete function of each signature in each precision, as `tf.saved_model.save` takes them."""
        functions = {signatures.SERVING_DEFAULT: self.logits}
        for precision in self.network.precisions:
            generator = self if precision is self._precision else Generator(self.network, *self._sampled, precision)
            variants = {
                signatures.PREFILL: generator.prefill,
                signatures.DECODE: generator.decode,
                signatures.DECODE_FULL: generator.decode_full,
                signatures.SCORE: generator.score,
                signatures.EMBED: generator.embed,
                signatures.INSPECT: generator.inspect,
                signatures.NEXT_LOGPROBS: generator.next_logprobs,
            }
            functions |= {signatures.in_precision(name, precision.name): run for name, run in variants.items()}
        specs = input_specs(
            self.network.state_size,
            self.network.output_size,
            self.network.vocab_size,
            [precision.name for precision in self.network.precisions],
        )
        return {
            name: tf.function(function, autograph=False).get_concrete_function(**specs[name])
            for name, function in functions.items()
        }

    def logits(self, token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute the logits of whole sequences from the zero state.

        Returns:
            logits float32 (batch, T, V): position t predicts the token after tokens 0 … t.
        """
        batch, length = tf.shape(token_ids)[0], tf.shape(token_ids)[1]
        by_time = tf.transpose(token_ids)

        def body(t: tf.Tensor, variables: LoopVars) -> LoopVars:
            parts, arrays = variables
            output, parts = self._steps.step(by_time[t], parts)
            return [parts, write(arrays, t, [self._precision.to_rows(output)])]

        parts = self._steps.split(tf.zeros([batch, self.network.state_size]))
        variables = [parts, [array(tf.float32, length, self.network.output_size)]]
        _, arrays = repeat(length, body, variables, self.network.unroll)
        (hidden,) = stack_batch_major(arrays)
        hidden = self._precision.from_rows(tf.reshape(hidden, [-1, self.network.output_size]))
        logits = self._steps.project(hidden)
        return {"logits": tf.reshape(logits, [batch, length, self.network.vocab_size])}

    def prefill(self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Prefill prompts without sampling; return their states, float32 (batch, S), after the last token."""
        state_parts = self._steps.split(state)
        parts = self._scan(token_ids, lengths, lambda ids, parts: self._steps.step(ids, parts)[1], state_parts)
        return {"state": self._steps.join(parts)}

    def embed(self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor, sum: tf.Tensor) -> dict[str, tf.Tensor]:
        """Prefill sequences and sum the top layer's outputs.

        Returns:
            state float32 (batch, S) after the last token; sum float32 (batch, U) including the outputs at these tokens,
            added in order, so it is bit-exact however the sequence is split into calls; last float32 (batch, U), the
            output at the last token, 0 if there is none.
        """

        def step(token_ids: tf.Tensor, variables: LoopVars) -> LoopVars:
            total, _, *parts = variables
            output, parts = self._steps.step(token_ids, parts)
            return [total + output, output, *parts]

        sum = self._precision.from_rows(sum)
        total, last, *parts = self._scan(token_ids, lengths, step, [sum, tf.zeros_like(sum), *self._steps.split(state)])
        total, last = self._precision.to_rows(total), self._precision.to_rows(last)
        return {"state": self._steps.join(parts), "sum": total, "last": last}

    def next_logprobs(
        self,
        token_ids: tf.Tensor,
        lengths: tf.Tensor,
        state: tf.Tensor,
        num_ahead: tf.Tensor,
        logprob: tf.Tensor,
        row: tf.Tensor,
        transitions: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Prefill sequences of at least one token, predict the token after each, and expand the most probable ones.

        Best-first: each of A steps, the largest `num_ahead`, appends a token to `batch` of the sequences so far, such
        that the results are the most probable ones not yet expanded. A call costs more than a step, and a search mostly
        needs these next. Padding slots, whose `logprob` is -inf, take part.

        Returns:
            state float32 (batch, S) after the last given token; logprobs float32 (batch, A + 1, V) of every token there
            and after each appended one; parents int32 (batch, A + 1): what it was appended to, as `step · batch +
            slot`, or -1, also for the given sequences; token_ids int32 (batch, A + 1), the appended ones.
        """
        batch, vocab_size = tf.shape(state)[0], self.network.vocab_size
        mask = self.mask if self.end_id < 0 else self.mask + NEVER * tf.one_hot(self.end_id, vocab_size)
        padding = _row_padding(batch)

        def step(token_ids: tf.Tensor, variables: LoopVars) -> LoopVars:
            output, parts = self._steps.step(token_ids, variables[1:])
            return [output, *parts]

        def expand(vectors: LoopVars, logprob: tf.Tensor, row: tf.Tensor) -> list[tf.Tensor]:
            """Return logprobs and states; and the log probabilities and rows of the sequences with one more token."""
            logprobs = _log_softmax(self._steps.project(vectors[0]), padding)[:batch]
            entries = tf.gather(transitions, row)
            rows = tf.bitwise.bitwise_and(entries, signatures.MAX_ROWS - 1)
            goes_on = (entries < signatures.FORBIDDEN) & (rows != signatures.FINAL_ROW)
            candidates = tf.where(goes_on, logprob[:, None] + logprobs + mask, NEVER)
            return [logprobs, self._steps.join(vectors[1:]), candidates, rows]

        def body(_: tf.Tensor, variables: LoopVars) -> LoopVars:
            logprobs, states, candidates, rows, *taken = variables
            best, index = tf.math.top_k(tf.reshape(candidates, [-1]), batch)
            parents, ids = index // vocab_size, index % vocab_size
            places = tf.stack([parents, ids], axis=1)
            vectors = step(ids, [hidden, *self._steps.split(tf.gather(states, parents))])
            here = [*expand(vectors, best, tf.gather_nd(rows, places)), tf.where(best > NEVER, parents, -1), ids]
            candidates = tf.tensor_scatter_nd_update(candidates, places, tf.fill([batch], NEVER))
            return [tf.concat(pair, 0) for pair in zip((logprobs, states, candidates, rows, *taken), here, strict=True)]

        hidden = self._precision.from_rows(tf.zeros([batch, self.network.output_size]))
        vectors = self._scan(token_ids, lengths, step, [hidden, *self._steps.split(state)])
        given = [*expand(vectors, logprob, row), tf.fill([batch], -1), tf.zeros([batch], tf.int32)]
        # Few steps: another copy of the loop takes longer to load than its iterations cost.
        logprobs, _, _, _, parents, ids = repeat(tf.reduce_max(num_ahead), body, given, unroll=1)
        outputs = {"logprobs": tf.reshape(logprobs, [-1, batch, vocab_size])}
        outputs |= {"parents": tf.reshape(parents, [-1, batch]), "token_ids": tf.reshape(ids, [-1, batch])}
        by_slot = {name: tf.transpose(rows, [1, 0, *range(2, rows.shape.rank)]) for name, rows in outputs.items()}
        return by_slot | {"state": given[1]}

    def _scan(self, token_ids: tf.Tensor, lengths: tf.Tensor, step: LoopBody, vectors: LoopVars) -> LoopVars:
        """Run `step(tokens, vectors)` over the tokens int32 (batch, T), one time step (batch,) after another.

        Return the vectors of each sequence after its length.
        """
        by_time, length = tf.transpose(token_ids), tf.shape(token_ids)[1]
        lengths = tf.minimum(lengths, length)

        def body(t: tf.Tensor, variables: LoopVars) -> LoopVars:
            vectors, kept = variables
            vectors = step(by_time[t], vectors)
            return [vectors, keep_ended(self._precision, t, lengths, vectors, kept)]

        return repeat(length, body, [vectors, vectors], self.network.unroll)[1]

    def decode(
        self, token_id: tf.Tensor, state: tf.Tensor, uniforms: tf.Tensor, steps: tf.Tensor, **controls: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Advance every sequence by up to K sampled tokens.

        Returns:
            token_ids int32 (batch, K) and logprobs float32 (batch, K), the model's own before temperature and filters,
            both 0 after the end of a sequence; state float32 (batch, S), before the last returned token. A sequence
            ends after `steps` tokens or after the end token.
        """
        outputs = self._sample_tokens(token_id, state, uniforms, steps, Controls(**controls), None, num_top=0)
        return dict(zip(("token_ids", "logprobs", "state"), outputs, strict=True))

    def decode_full(
        self,
        token_id: tf.Tensor,
        state: tf.Tensor,
        uniforms: tf.Tensor,
        steps: tf.Tensor,
        num_top: tf.Tensor,
        **options: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Advance every sequence as `decode` does, with logits processing and top log probabilities.

        N may be 0, and M is 1 for a call without constraints. The call counts the tokens that it samples and follows
        the transitions itself; the caller updates `counts`, `seen` and `row` before the next call.

        Returns:
            As `decode`, with top_token_ids int32 and top_logprobs float32 (batch, K, `num_top_of` V), the most probable
            tokens of each step in descending order, by the model's own log probabilities, as in logprobs; 0 after the
            end of a sequence, and beyond the largest `num_top`: to find 5 takes 4% of a step at batch size 64, 20 8%.
        """
        controls, constraints = (
            kind(*(options.pop(name) for name in kind._fields)) for kind in (Controls, Constraints)
        )
        adjustments = Adjustments(self.mask, self.end_id, constraints, **options)
        outputs = self._sample_tokens(
            token_id, state, uniforms, steps, controls, adjustments, num_top=tf.reduce_max(num_top)
        )
        names = ("token_ids", "logprobs", "top_token_ids", "top_logprobs", "state")
        return dict(zip(names, outputs, strict=True))

    def _sample_tokens(
        self,
        token_id: tf.Tensor,
        state: tf.Tensor,
        uniforms: tf.Tensor,
        steps: tf.Tensor,
        controls: Controls,
        adjustments: Adjustments | None,
        *,
        num_top: int | tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        """Return token_ids, the results of `_score_tokens` for them, and state."""
        num_steps, padding = tf.shape(uniforms)[1], _row_padding(tf.shape(uniforms)[0])
        sampling = prepare(controls, uniforms)

        def body(t: tf.Tensor, variables: LoopVars) -> LoopVars:
            last, ends, parts, kept, tables, arrays = variables
            hidden, parts = self._steps.step(last, parts)
            logits = self._steps.project(hidden)
            adjusted = adjustments.adjust(t, logits, tables) if adjustments else logits + self.mask
            sampled = self._steps.sample(t, adjusted, sampling)
            outputs = [sampled, *self._steps.score_tokens(logits, sampled, padding, num_top=num_top)]
            if self.end_id >= 0:
                ends = tf.where((sampled == self.end_id) & (t < ends), t + 1, ends)
            if adjustments:
                tables = adjustments.count(sampled, tables)
                ends = adjustments.end_complete(t, ends, tables)
            kept = keep_ended(self._precision, t, ends, parts, kept)
            return [sampled, ends, parts, kept, tables, write(arrays, t, outputs)]

        arrays = [array(tf.int32, num_steps), *self._score_arrays(num_steps, with_top=isinstance(num_top, tf.Tensor))]
        tables = adjustments.tables() if adjustments else []
        parts = self._steps.split(state)
        variables = [token_id, tf.minimum(steps, num_steps), parts, parts, tables, arrays]
        _, ends, _, kept, _, arrays = repeat(num_steps, body, variables, self.network.unroll)
        return *stack_batch_major(arrays, ends), self._steps.join(kept)

    def _score_arrays(self, num_steps: tf.Tensor, *, with_top: bool) -> list[tf.TensorArray]:
        """Create the arrays for the results of `_score_tokens`."""
        width = num_top_of(self.network.vocab_size)
        top = [array(kind, num_steps, width) for kind in (tf.int32, tf.float32)] if with_top else []
        return [array(tf.float32, num_steps), *top]

    def score(
        self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor, num_top: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Compute log probabilities of given tokens.

        Returns:
            logprobs float32 (batch, T) of each token given those before it, top_token_ids int32 and top_logprobs
            float32 (batch, T, `num_top_of` V) of the most probable tokens there, as many as the largest `num_top`; 0
            beyond, and all 0 past a sequence's length; state float32 (batch, S), before the last token. With a
            `num_top` of 0 a call takes 0.80 of the CPU time of one with 50 (LSTM of 512 units, 97 tokens).
        """
        return self._score_sequences(token_ids, lengths, state, [], num_top=tf.reduce_max(num_top))

    def inspect(self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute log probabilities as `score` does, and the activations at each token.

        Returns:
            As `score`, and each of the network's `activations`, by its output name, float32 (batch, T, units), 0 past a
            sequence's length.
        """
        num_top = num_top_of(self.network.vocab_size)
        return self._score_sequences(token_ids, lengths, state, self.network.activations, num_top=num_top)

    def _score_sequences(
        self,
        token_ids: tf.Tensor,
        lengths: tf.Tensor,
        state: tf.Tensor,
        activations: list[Activation],
        *,
        num_top: int | tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Process sequences and score the next token at each; return all `activations` of the network, or none."""
        by_time = tf.transpose(token_ids)
        length, padding = tf.shape(token_ids)[1] - 1, _row_padding(tf.shape(token_ids)[0])
        lengths = tf.minimum(lengths, length)

        def body(t: tf.Tensor, variables: LoopVars) -> LoopVars:
            parts, kept, arrays = variables
            hidden, parts, values = self._steps.step_with_activations(by_time[t], parts)
            logits = self._steps.project(hidden)
            scores = self._steps.score_tokens(logits, by_time[t + 1], padding, num_top=num_top)
            kept = keep_ended(self._precision, t, lengths, parts, kept)
            return [parts, kept, write(arrays, t, [*scores, *values] if activations else scores)]

        activation_arrays = [array(tf.float32, length, each.units) for each in activations]
        parts = self._steps.split(state)
        variables = [parts, parts, [*self._score_arrays(length, with_top=True), *activation_arrays]]
        _, kept, arrays = repeat(length, body, variables, self.network.unroll)
        names = ("logprobs", "top_token_ids", "top_logprobs", *(each.output for each in activations))
        return {**dict(zip(names, stack_batch_major(arrays, lengths), strict=True)), "state": self._steps.join(kept)}


def num_top_of(vocab_size: int) -> int:
    """Return the number of most probable tokens that the signatures return at each position."""
    return min(signatures.NUM_TOP, vocab_size)


def _row_padding(batch: tf.Tensor) -> tf.Tensor:
    """Return the padding of (batch, V) to a multiple of `_VECTOR_SIZE` sequences."""
    return tf.stack([[0, -batch % _VECTOR_SIZE], [0, 0]])


def _log_softmax(logits: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
    """Return log probabilities of logits, float32 (batch, V), and of the rows of its `_row_padding`.

    The logarithms of fewer than eight sums are rounded differently: without padding, four sequences would not be
    bit-exact with eight. `tf.pad` returns its input if there is nothing to pad.
    """
    return tf.nn.log_softmax(tf.pad(logits, padding))


def _score_tokens(
    logits: tf.Tensor, token_ids: tf.Tensor, padding: tf.Tensor, *, num_top: int | tf.Tensor
) -> list[tf.Tensor]:
    """Return log probabilities float32 (batch,) of tokens, and the `num_top` top ids and log probabilities of each.

    The latter are omitted if `num_top` is the int 0, and padded with zeros to `num_top_of` if it is a tensor.
    """
    log_probabilities = _log_softmax(logits, padding)
    batch = tf.shape(token_ids)[0]
    # Faster than `batch_dims=1`, which takes a dozen operations.
    index = tf.range(batch) * logits.shape[1] + token_ids
    logprobs = tf.gather(tf.reshape(log_probabilities, [-1]), index)

    def top(k: int | tf.Tensor) -> list[tf.Tensor]:
        top_logprobs, top_ids = tf.math.top_k(log_probabilities[:batch], k=k)
        return [top_ids, top_logprobs]

    if isinstance(num_top, int):
        return [logprobs, *top(num_top)] if num_top else [logprobs]
    width = num_top_of(logits.shape[1])

    def padded() -> list[tf.Tensor]:
        k = tf.minimum(num_top, width)
        return [tf.ensure_shape(tf.pad(value, [[0, 0], [0, width - k]]), [None, width]) for value in top(k)]

    def zeros() -> list[tf.Tensor]:
        return [tf.zeros([batch, width], dtype) for dtype in (tf.int32, tf.float32)]

    return [logprobs, *tf.cond(num_top > 0, padded, zeros)]
