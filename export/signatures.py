"""The functions of a published SavedModel: `serving_default`, `prefill`, `decode`, `score`.

Knows the shapes of the contract (`docs/architecture.md`) and the loop over time. The cells and the sampling come from
`export.cells` and `export.sampling`; writing files is `export.publishing`'s.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from contract import signatures
from contract.tokenizer import SpecialIds
from export.cells import Stack
from export.sampling import Controls, sample
from export.weights import StackWeights

# Steps in one turn of the graph's loop: 4 makes `decode` at 8 rows 10 to 15% faster than 1 (measured: `docs/log.md`).
UNROLL = 4
NUM_TOP = 5
NEVER = -1e9

Loop = list[Any]


def repeat(count: tf.Tensor, body: Callable[[tf.Tensor, Loop], Loop], variables: Loop) -> Loop:
    """Run `body(i, variables)` for i = 0 … count - 1, `UNROLL` steps to a turn of the loop and the rest singly."""

    def turn(steps: int) -> Callable[..., tuple[tf.Tensor, Loop]]:
        def run(i: tf.Tensor, variables: Loop) -> tuple[tf.Tensor, Loop]:
            for _ in range(steps):
                variables = body(i, variables)
                i += 1
            return i, variables

        return run

    start = tf.constant(0)
    i, variables = tf.while_loop(lambda i, _: i + UNROLL <= count, turn(UNROLL), (start, variables))
    return tf.while_loop(lambda i, _: i < count, turn(1), (i, variables))[1]


def _floats(*shape: int | None) -> tf.TensorSpec:
    return tf.TensorSpec(shape, tf.float32)


def _ints(*shape: int | None) -> tf.TensorSpec:
    return tf.TensorSpec(shape, tf.int32)


class Generator(tf.Module):
    """A stack of recurrent layers with its output layer, callable by any of the signatures."""

    def __init__(self, weights: StackWeights, special: SpecialIds, num_tokens: int) -> None:
        """Copy the weights into variables.

        Args:
            weights: As `read_weights` returns them.
            special: Which ids must not be drawn, and which one ends a text.
            num_tokens: Size of the tokenizer's vocabulary; rows of the output layer past it are never drawn.
        """
        super().__init__()
        self.stack = Stack(weights)
        self.vocab_size = weights.vocab_size
        self.output_kernel = tf.Variable(weights.output_kernel, trainable=False)
        self.output_bias = tf.Variable(weights.output_bias, trainable=False)
        mask = np.zeros(weights.vocab_size, np.float32)
        mask[[*special.never_drawn, *range(num_tokens, weights.vocab_size)]] = NEVER
        self.mask = tf.constant(mask)
        self.end_id = -1 if special.end is None else special.end

    def signatures(self) -> dict[str, Any]:
        """Return the concrete function of each signature, as `tf.saved_model.save` takes them."""
        size = self.stack.state_size
        row = {"temperature": _floats(None), "top_k": _ints(None), "top_p": _floats(None), "min_p": _floats(None)}
        specs: dict[str, tuple[Callable[..., Any], dict[str, tf.TensorSpec]]] = {
            signatures.SERVING_DEFAULT: (self.logits, {"token_ids": _ints(None, None)}),
            signatures.PREFILL: (
                self.prefill,
                {"token_ids": _ints(None, None), "lengths": _ints(None), "state": _floats(None, size)},
            ),
            signatures.DECODE: (
                self.decode,
                {
                    "token_id": _ints(None),
                    "state": _floats(None, size),
                    "uniforms": _floats(None, None),
                    "steps": _ints(None),
                    **row,
                },
            ),
            signatures.SCORE: (
                self.score,
                {"token_ids": _ints(None, None), "lengths": _ints(None), "state": _floats(None, size)},
            ),
        }
        return {
            name: tf.function(function).get_concrete_function(
                **{key: tf.TensorSpec(spec.shape, spec.dtype, name=key) for key, spec in inputs.items()}
            )
            for name, (function, inputs) in specs.items()
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
        outputs = tf.TensorArray(tf.float32, length, element_shape=[None, self.output_kernel.shape[0]])
        parts = self.stack.split(tf.zeros([batch, self.stack.state_size]))

        def body(t: tf.Tensor, variables: Loop) -> Loop:
            parts, outputs = variables
            output, parts = self.stack.step(by_time[t], parts)
            return [parts, outputs.write(t, output)]

        _, outputs = repeat(length, body, [parts, outputs])
        hidden = tf.transpose(outputs.stack(), [1, 0, 2])
        return {"logits": tf.tensordot(hidden, self.output_kernel, 1) + self.output_bias}

    def prefill(self, token_ids: tf.Tensor, lengths: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Read prompts without producing anything.

        Args:
            token_ids: int32 (batch, T), padded at the end.
            lengths: int32 (batch,): tokens of each row that count; 0 leaves its state as it is.
            state: float32 (batch, S).

        Returns:
            state float32 (batch, S) after the last token that counts.
        """
        by_time = tf.transpose(token_ids)
        length = tf.shape(token_ids)[1]

        def read(*, masked: bool) -> tf.Tensor:
            def body(t: tf.Tensor, parts: Loop) -> Loop:
                new_parts = self.stack.step(by_time[t], parts)[1]
                return _keep(t < lengths, new_parts, parts) if masked else new_parts

            return self.stack.join(repeat(length, body, self.stack.split(state)))

        # Where every row counts to its end, as in most slices of a long prompt, masks would only take time.
        whole = tf.reduce_all(lengths >= length)
        return {"state": tf.cond(whole, lambda: read(masked=False), lambda: read(masked=True))}

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
            temperature: float32 (batch,); see `export.sampling.Controls`, as for the next three.
            top_k: int32 (batch,).
            top_p: float32 (batch,).
            min_p: float32 (batch,).

        Returns:
            token_ids int32 (batch, K) and logprobs float32 (batch, K), the model's own before temperature and filters,
            both 0 after a row's end; state float32 (batch, S), in which the last token returned is not yet read. A row
            ends after `steps` tokens or after the end mark.
        """
        controls = Controls(temperature, top_k, top_p, min_p)
        num_steps = tf.shape(uniforms)[1]
        by_time = tf.transpose(uniforms)

        def draw(*, masked: bool) -> tuple[tf.Tensor, ...]:
            def body(t: tf.Tensor, variables: Loop) -> Loop:
                last, ends, parts, tokens, logprobs = variables
                hidden, new_parts = self.stack.step(last, parts)
                logits = tf.matmul(hidden, self.output_kernel) + self.output_bias
                drawn = sample(logits + self.mask, by_time[t], controls)
                logprob = tf.gather(tf.nn.log_softmax(logits), drawn, batch_dims=1)
                if masked:
                    active = t < ends
                    new_parts = _keep(active, new_parts, parts)
                    drawn, logprob = tf.where(active, drawn, 0), tf.where(active, logprob, 0.0)
                    ends = tf.where(drawn == self.end_id, t + 1, ends)
                return [drawn, ends, new_parts, tokens.write(t, drawn), logprobs.write(t, logprob)]

            arrays = [tf.TensorArray(kind, num_steps, element_shape=[None]) for kind in (tf.int32, tf.float32)]
            variables = [token_id, steps, self.stack.split(state), *arrays]
            _, _, parts, tokens, logprobs = repeat(num_steps, body, variables)
            return tf.transpose(tokens.stack()), tf.transpose(logprobs.stack()), self.stack.join(parts)

        # Where no row can end early, masks would only take time (measured: `docs/log.md`).
        whole = tf.reduce_all(steps >= num_steps) & (self.end_id < 0)
        outputs = tf.cond(whole, lambda: draw(masked=False), lambda: draw(masked=True))
        return dict(zip(("token_ids", "logprobs", "state"), outputs, strict=True))

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
        by_time = tf.transpose(token_ids)
        length = tf.shape(token_ids)[1] - 1
        arrays = [
            tf.TensorArray(tf.float32, length, element_shape=[None]),
            tf.TensorArray(tf.int32, length, element_shape=[None, NUM_TOP]),
            tf.TensorArray(tf.float32, length, element_shape=[None, NUM_TOP]),
        ]

        def body(t: tf.Tensor, variables: Loop) -> Loop:
            parts, (logprobs, top_ids, top_logprobs) = variables
            active = t < lengths
            hidden, new_parts = self.stack.step(by_time[t], parts)
            log_probabilities = tf.nn.log_softmax(tf.matmul(hidden, self.output_kernel) + self.output_bias)
            best, best_ids = tf.math.top_k(log_probabilities, k=NUM_TOP)
            logprob = tf.gather(log_probabilities, by_time[t + 1], batch_dims=1)
            written = [
                logprobs.write(t, tf.where(active, logprob, 0.0)),
                top_ids.write(t, tf.where(active[:, None], best_ids, 0)),
                top_logprobs.write(t, tf.where(active[:, None], best, 0.0)),
            ]
            return [_keep(active, new_parts, parts), written]

        parts, arrays = repeat(length, body, [self.stack.split(state), arrays])
        logprobs, top_ids, top_logprobs = (array.stack() for array in arrays)
        return {
            "logprobs": tf.transpose(logprobs),
            "top_token_ids": tf.transpose(top_ids, [1, 0, 2]),
            "top_logprobs": tf.transpose(top_logprobs, [1, 0, 2]),
            "state": self.stack.join(parts),
        }


def _keep(active: tf.Tensor, new_parts: list[tf.Tensor], old_parts: list[tf.Tensor]) -> list[tf.Tensor]:
    """Take the new state of the rows that are active and leave the others' untouched, to the bit."""
    chosen = active[:, None]
    return [tf.where(chosen, new, old) for new, old in zip(new_parts, old_parts, strict=True)]
