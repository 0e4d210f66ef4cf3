"""LSTMs of the fixture model's size in a process: `python -m benchmarks.competitors.libraries KIND …` measures one.

Each completes a batch of requests: prefill of the prompt, then one step per token with sampling. There is no HTTP, and
all sequences of a batch start and end together.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.fixture_model import CHARACTERS, NEW_TOKENS, PROMPT_LENGTH, TEMPERATURE, UNITS
from benchmarks.servers import resident_mb, serve_measurements

# That of the recipe `characters-3-minutes`.
EMBEDDING = 128
VOCABULARY = len(CHARACTERS) + 3

# Yields once per generated token of every sequence of a batch.
Completer = Callable[[int], Iterator[None]]


@dataclass(frozen=True)
class Settings:
    """What a process completes: the tokens of each sequence."""

    threads: int = 1  # of an operation
    prompt_length: int = PROMPT_LENGTH
    new_tokens: int = NEW_TOKENS


def measure_completions(complete: Completer, streams: int, seconds: float) -> dict[str, Any]:
    """Complete batches for a time; return tokens, seconds, CPU seconds, times to first token and resident memory."""
    tokens, firsts = 0, []
    started, cpu_before_s = time.perf_counter(), time.process_time()
    while not tokens or time.perf_counter() - started < seconds:
        sent = time.perf_counter()
        for number, _ in enumerate(complete(streams)):
            if number == 0:
                firsts.append(time.perf_counter() - sent)
            tokens += streams
    elapsed = time.perf_counter() - started
    cpu_s = time.process_time() - cpu_before_s
    return {
        "tokens": tokens, "seconds": elapsed, "cpu_s": cpu_s, "first_s": firsts, "resident_mb": resident_mb(os.getpid())
    }  # fmt: skip


def torch_lstm(settings: Settings, width: int = EMBEDDING) -> Completer:
    """PyTorch's nn.LSTM, after an embedding of a width."""
    import torch  # noqa: PLC0415 - each process imports one library

    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(VOCABULARY, width)
    lstm = torch.nn.LSTM(width, UNITS, batch_first=True)
    output = torch.nn.Linear(UNITS, VOCABULARY)

    def complete(streams: int) -> Iterator[None]:
        with torch.inference_mode():
            token_ids, state = (torch.arange(settings.prompt_length) % VOCABULARY).repeat(streams, 1), None
            for _ in range(settings.new_tokens):
                hidden, state = lstm(embedding(token_ids), state)
                probabilities = torch.softmax(output(hidden[:, -1]) / TEMPERATURE, dim=-1)
                token_ids = torch.multinomial(probabilities, 1)
                token_ids.tolist()
                yield

    return complete


def onnx_lstm(settings: Settings) -> Completer:
    """ONNX Runtime's LSTM operator; NumPy samples."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    session = onnxruntime.InferenceSession(onnx_model(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)

    def complete(streams: int) -> Iterator[None]:
        token_ids = np.tile(np.arange(settings.prompt_length, dtype=np.int64)[:, None] % VOCABULARY, streams)
        hidden = cell = np.zeros((1, streams, UNITS), np.float32)
        for _ in range(settings.new_tokens):
            feeds = {"token_ids": token_ids, "hidden": hidden, "cell": cell}
            logits, hidden, cell = session.run(["logits", "next_hidden", "next_cell"], feeds)
            # The largest of logits with Gumbel noise is a sample of their softmax.
            noise = rng.gumbel(size=logits[0].shape)
            token_ids = np.argmax(logits[0] / TEMPERATURE + noise, axis=-1)[None]
            token_ids.tolist()
            yield

    return complete


def onnx_model() -> bytes:
    """Return a model of an embedding, an LSTM and an output layer with random weights.

    Inputs are token_ids int64 (steps, batch), hidden and cell float32 (1, batch, units); outputs are the last step's
    logits float32 (1, batch, vocabulary) and the next state.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    rng = np.random.default_rng(0)
    shapes = {
        "embedding": (VOCABULARY, EMBEDDING),
        "w": (1, 4 * UNITS, EMBEDDING),
        "r": (1, 4 * UNITS, UNITS),
        "b": (1, 8 * UNITS),
        "output": (UNITS, VOCABULARY),
    }
    weights = [
        numpy_helper.from_array(rng.normal(scale=0.05, size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gather", ["embedding", "token_ids"], ["embedded"]),
        helper.make_node(
            "LSTM", ["embedded", "w", "r", "b", "", "hidden", "cell"], ["", "next_hidden", "next_cell"],
            hidden_size=UNITS,
        ),
        helper.make_node("MatMul", ["next_hidden", "output"], ["logits"]),
    ]  # fmt: skip
    state = [1, "batch", UNITS]
    inputs = [
        helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["steps", "batch"]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, state) for name in ("hidden", "cell")),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "batch", VOCABULARY]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, state) for name in ("next_hidden", "next_cell")),
    ]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, weights)
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString())


KINDS: dict[str, Callable[[Settings], Completer]] = {
    "torch": torch_lstm,
    "onnx": onnx_lstm,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=PROMPT_LENGTH)
    parser.add_argument("--tokens", type=int, default=NEW_TOKENS)
    options = parser.parse_args()
    complete = KINDS[options.kind](Settings(options.threads, options.prompt, options.tokens))
    serve_measurements(lambda **arguments: measure_completions(complete, **arguments))


if __name__ == "__main__":
    main()
