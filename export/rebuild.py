"""A Keras model built again from its own description, without what ties it to one batch, length or way of being called.

Knows the configurations that Keras writes. Does not know what is done with a model.
"""

from typing import Any

import keras

_RECURRENT = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)


def needs_freeing(model: keras.Model) -> bool:
    """Say whether a model takes a fixed batch or length, keeps states between calls, or answers for one token alone."""
    recurrent = [layer for layer in model.layers if isinstance(layer, _RECURRENT)]
    fixed = any(size is not None for size in model.input_shape)
    return fixed or any(layer.stateful or not layer.return_sequences for layer in recurrent)


def set_free(model: keras.Model) -> keras.Model:
    """Return a model of the same weights that takes any batch of any length and answers for every token."""
    free = type(model).from_config(_free(model.get_config()))
    free.set_weights(model.get_weights())
    return free


def _free(config: Any) -> Any:
    if isinstance(config, list | tuple):
        return type(config)(map(_free, config))
    if not isinstance(config, dict):
        return config
    changed = {name: _free(value) for name, value in config.items() if name != "build_config"}
    for name in ("batch_shape", "build_input_shape"):
        if changed.get(name):
            changed[name] = [None, None]
    for name, value in (("stateful", False), ("return_sequences", True)):
        if name in changed:
            changed[name] = value
    return changed
