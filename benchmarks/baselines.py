"""Baselines of the serving benchmark: `python -m benchmarks.baselines KIND …` measures one on request."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.competitors.libraries import Settings, torch_lstm
from benchmarks.fixture_model import EMBEDDING, NEW_TOKENS, PROMPT, TEMPERATURE
from benchmarks.servers import repeat_for, serve_measurements
from contract.card import load_assets

DECODE_STEPS = 32


def model_in_process(version: Path, threads: int) -> Callable[..., float]:
    """Measure the calls of a batch of requests in this process, prefill and decode: no RPC, no gateway."""
    import tensorflow as tf  # noqa: PLC0415 - one baseline each

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    functions = tf.saved_model.load(str(version)).signatures
    card, tokenizer = load_assets(version)
    prompt = tokenizer.encode(PROMPT)

    def measure(batch_size: int, seconds: float) -> float:
        sampling = {"temperature": TEMPERATURE, "top_p": 1.0, "min_p": 0.0}
        constant = {name: tf.fill([batch_size], value) for name, value in sampling.items()}
        constant |= {"top_k": tf.zeros([batch_size], tf.int32)}
        rng = np.random.default_rng(0)
        token_ids, lengths = tf.constant([prompt[:-1]] * batch_size), tf.fill([batch_size], len(prompt) - 1)

        def requests() -> int:
            state = tf.zeros([batch_size, card.state_size])
            state = functions["prefill"](token_ids=token_ids, lengths=lengths, state=state)["state"]
            token_id = tf.fill([batch_size], prompt[-1])
            for start in range(0, NEW_TOKENS, DECODE_STEPS):
                steps = min(DECODE_STEPS, NEW_TOKENS - start)
                uniforms = tf.constant(rng.random((batch_size, steps), dtype=np.float32))
                outputs = functions["decode"](
                    uniforms=uniforms, steps=tf.fill([batch_size], steps), token_id=token_id, state=state, **constant
                )
                token_id, state = tf.constant(outputs["token_ids"].numpy()[:, -1]), outputs["state"]
            return batch_size * NEW_TOKENS

        return repeat_for(seconds, requests)

    return measure


def torch_loop(threads: int) -> Callable[..., float]:
    """Measure requests, one after another, with PyTorch's nn.LSTM: a prefill call, then one decode step per token."""
    complete = torch_lstm(Settings(threads), EMBEDDING)
    return lambda seconds, **_: repeat_for(seconds, lambda: sum(1 for _ in complete(1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["model", "torch"])
    parser.add_argument("--version", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    is_model = options.kind == "model"
    serve_measurements(model_in_process(options.version, options.threads) if is_model else torch_loop(options.threads))


if __name__ == "__main__":
    main()
