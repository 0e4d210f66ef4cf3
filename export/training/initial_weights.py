"""Initial weights of a training run: Keras's random ones, those of a vector file, or those of a base."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from contract.tokenizers import Tokenizer
from export.config import TrainConfig
from export.errors import UnsupportedModel
from export.graphs.network import read_graph, read_network
from export.imported.model import load_keras
from export.training.base_version import BaseVersion
from export.training.dataset import Dataset
from export.training.embeddings import read_embedding
from export.training.model import TIED_RANGE, build_model

# In the order of `model.get_weights()`.
Weights = list[np.ndarray]


def initial_weights(config: TrainConfig, dataset: Dataset, base: BaseVersion | None) -> Weights | None:
    """Return the initial weights of the model of `build_model`; None to keep its own.

    Raises:
        ConfigError: the file of vectors cannot be read.
        UnsupportedModel: the Keras model of the base cannot be read, or has another architecture.
    """
    if base is None and config.embedding_init is None:
        return None
    tokenizer = dataset.tokenizer
    model = build_model(config, len(tokenizer.tokens), dataset.target_counts)
    if base is not None:
        _assign(model, base, tokenizer, config)
    elif config.embedding_init is not None:
        path = Path(config.embedding_init)
        vectors = read_embedding(path, tokenizer, config.embedding, config.seed)
        model.get_layer("embedding").embeddings.assign(vectors)
    return model.get_weights()


def _assign(model: keras.Model, base: BaseVersion, tokenizer: Tokenizer, config: TrainConfig) -> None:
    """Assign the weights of the base, with rows for the added tokens."""
    trained = load_keras(base.keras_file)
    # Every sliding-window model that can be a base was trained here.
    describe = _layer_names if config.bidirectional else _structure
    expected, got = describe(model), describe(trained)
    if expected != got:
        raise _refusal(base, f"it computes {'; '.join(got)}; a model trained here, {'; '.join(expected)}")
    rng = np.random.default_rng([config.seed, 2])
    own_layers, layers = list(_layers_with_weights(model)), list(_layers_with_weights(trained))
    try:
        for i, (own, layer) in enumerate(zip(own_layers, layers, strict=True)):
            arrays = layer.get_weights()
            if i == 0:
                arrays = [_extended_embedding(arrays[0], base.tokenizer, tokenizer, rng, tied=config.tie_embeddings)]
            elif i == len(layers) - 1 and not config.tie_embeddings:
                arrays = [_extended_output(array, base.tokenizer, tokenizer) for array in arrays]
            own.set_weights(arrays)
    except ValueError as error:
        raise _refusal(base, str(error)) from error


def _layers_with_weights(model: keras.Model) -> Iterator[Any]:
    """Yield the layers that have weights, each once, in the order of their calls."""
    return iter({id(node.layer): node.layer for node in read_graph(model) if node.layer.weights}.values())


def _refusal(base: BaseVersion, reason: str) -> UnsupportedModel:
    return UnsupportedModel(f"from = {base.version.label}: this version cannot be trained further: {reason}")


def _layer_names(model: keras.Model) -> list[str]:
    return [type(layer).__name__ for layer in _layers_with_weights(model)]


def _structure(model: keras.Model) -> list[str]:
    """Describe every operation with its inputs, options and sizes, but without the size of the vocabulary."""
    network = read_network(model)
    lines = ["embedding"]
    for step in network.steps[1:]:
        values = vars(step.operation).values()
        described = [value.shape if isinstance(value, np.ndarray) else value for value in values]
        lines.append(f"{type(step.operation).__name__} {described} of {step.inputs}")
    return [*lines, f"output of {network.output_size}"]


def _extended_embedding(
    table: np.ndarray, old: Tokenizer, new: Tokenizer, rng: np.random.Generator, *, tied: bool
) -> np.ndarray:
    """Return an embedding float32 (ids, width) with rows for the added tokens.

    They are sampled around the mean of the others, with the others' deviation, or a small one if the embedding is also
    the output layer, whose first logits must not be large.
    """
    known = _rows_of_texts(table, old)
    deviation = TIED_RANGE if tied else known.std(axis=0)
    unlearnt = _never_sampled(old, new) if tied else range(len(old.tokens), len(new.tokens))
    values = known.mean(axis=0) + deviation * rng.standard_normal((len(unlearnt), table.shape[1]))
    return _with_rows(table[: len(old.tokens)], unlearnt, values)


def _extended_output(array: np.ndarray, old: Tokenizer, new: Tokenizer) -> np.ndarray:
    """Return a kernel float32 (width, ids), or a bias (ids,), with the mean of the others for each new output.

    So its logit is the mean of the others, and its probability is small.
    """
    # Outputs without a token, as imported models may have, are dropped.
    unlearnt, rows = _never_sampled(old, new), array.T[: len(old.tokens)]
    mean = _rows_of_texts(rows, old).mean(axis=0)
    return _with_rows(rows, unlearnt, np.stack([mean] * len(unlearnt)) if unlearnt else rows[:0]).T


def _never_sampled(old: Tokenizer, new: Tokenizer) -> list[int]:
    """Return the ids that the base could not sample: added ones, and an end token that was a start token."""
    end, added = new.special.end, range(len(old.tokens), len(new.tokens))
    return [*([end] if end is not None and end not in added and old.special.end is None else []), *added]


def _with_rows(rows: np.ndarray, ids: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Return rows (ids, …) with values at some ids, of which those at the end may be new."""
    size = max([*ids, len(rows) - 1]) + 1
    extended = np.zeros((size, *rows.shape[1:]), np.float32)
    extended[: len(rows)] = rows
    extended[list(ids)] = values
    return extended


def _rows_of_texts(rows: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    return rows[[i for i in range(len(tokenizer.tokens)) if i not in tokenizer.textless_ids]]
