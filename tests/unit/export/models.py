"""Small models with random weights large enough that every weight changes the output."""

import keras
import numpy as np

from export.graphs.network import CELLS

VOCABULARY = 23


def make_model(cell="lstm", layers=1, units=12, vocab_size=VOCABULARY, **options):
    """Build a model whose biases are not zero, as after training."""
    keras.utils.set_random_seed(layers)
    recurrent = [CELLS[cell](units + i, return_sequences=True, **options) for i in range(layers)]
    parts = [keras.layers.Input([None], dtype="int32"), keras.layers.Embedding(vocab_size, 7), *recurrent]
    model = keras.Sequential([*parts, keras.layers.Dense(vocab_size)])
    rng = np.random.default_rng(layers)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return model
