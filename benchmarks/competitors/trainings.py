"""Our training and its baselines: `python -m benchmarks.competitors.trainings KIND …` measures one on request.

Every kind does the same work per update: embedding, one recurrent layer, output layer, cross-entropy, gradients,
clipping by global norm and AdamW, with the state carried from batch to batch.
"""

import argparse
from collections.abc import Callable

import numpy as np

from benchmarks.servers import repeat_for, serve_measurements

VOCABULARY, EMBEDDING, BATCH_SIZE, SEQUENCE_LENGTH = 100, 64, 64, 100


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, VOCABULARY, (2, SEQUENCE_LENGTH, BATCH_SIZE))
    return inputs, targets


def sostenuto(cell: str, units: int, precision: str) -> Callable[..., float]:
    """Train as `python -m export train` does, but without the weight average (EMA), which the baselines lack."""
    from contract.tokenizers import SpecialIds  # noqa: PLC0415 - only processes that measure TensorFlow may import it
    from export.config import load_config  # noqa: PLC0415
    from export.training.devices import Devices  # noqa: PLC0415
    from export.training.model import build_model  # noqa: PLC0415
    from export.training.optimization import Optimization  # noqa: PLC0415

    settings = {"cell": cell, "units": units, "embedding": EMBEDDING, "batch_size": BATCH_SIZE, "precision": precision}
    config = load_config(None, {"name": "bench", "corpus": "-", "dropout": 0, "ema": 0, **settings})
    devices = Devices.find(BATCH_SIZE, units)
    optimization = Optimization(config, build_model(config, VOCABULARY), devices, SpecialIds(0, 1, 2, None))
    inputs, targets = (ids.astype(np.int32) for ids in _batch())
    kept, states = np.ones((BATCH_SIZE, 1), np.float32), [optimization.zero_states(BATCH_SIZE)]

    def step() -> int:
        _, states[0] = optimization.update(inputs, targets, states[0], kept, 1e-3)
        return inputs.size

    return lambda seconds: repeat_for(seconds, step)


def torch_layer(cell: str, units: int, precision: str) -> Callable[..., float]:
    """Train with PyTorch's nn.RNN, nn.LSTM or nn.GRU and its fused AdamW; bfloat16 is its autocast."""
    import torch  # noqa: PLC0415

    from contract.machine import num_cores  # noqa: PLC0415

    torch.set_num_threads(num_cores())
    torch.manual_seed(0)
    kind = {"simple_rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    embedding, layer = torch.nn.Embedding(VOCABULARY, EMBEDDING), kind(EMBEDDING, units)
    output = torch.nn.Linear(units, VOCABULARY)
    model = torch.nn.ModuleList([embedding, layer, output])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)
    inputs, targets = (torch.tensor(ids) for ids in _batch())
    zeros = torch.zeros(1, BATCH_SIZE, units)
    states = [(zeros, zeros) if cell == "lstm" else zeros]

    def step() -> int:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            hidden, state = layer(embedding(inputs), states[0])
            logits = output(hidden).float()
        loss = torch.nn.functional.cross_entropy(logits.view(-1, VOCABULARY), targets.view(-1))
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]  # without PyTorch it is not an error
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        states[0] = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        loss.item()
        return int(targets.numel())

    return lambda seconds: repeat_for(seconds, step)


def keras_fit(cell: str, units: int, precision: str) -> Callable[..., float]:
    """Train with Keras's own layers and `train_on_batch`, as its tutorials do; the state is reset for each batch."""
    import keras  # noqa: PLC0415

    from export.graphs.network import CELLS  # noqa: PLC0415

    assert precision == "float32", "compared in float32 alone"
    layers = [
        keras.layers.Input([None], dtype="int32"),
        keras.layers.Embedding(VOCABULARY, EMBEDDING),
        CELLS[cell](units, return_sequences=True),
        keras.layers.Dense(VOCABULARY),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3, global_clipnorm=1.0), loss)
    inputs, targets = (ids.T.astype(np.int32) for ids in _batch())

    def step() -> int:
        model.train_on_batch(inputs, targets)
        return inputs.size

    return lambda seconds: repeat_for(seconds, step)


KINDS = {"sostenuto": sostenuto, "torch": torch_layer, "keras": keras_fit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    serve_measurements(KINDS[options.kind](options.cell, options.units, options.precision))


if __name__ == "__main__":
    main()
