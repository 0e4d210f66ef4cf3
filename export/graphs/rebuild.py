"""Rebuilding of a Keras model from its config, without fixed batch sizes, fixed lengths or stateful layers.

Knows Keras configs. Does not know the use of the model.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras

_RECURRENT = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)


def needs_rebuild(model: keras.Model) -> bool:
    """Return whether a model has a fixed batch size or length, is stateful, or outputs only the last token."""
    recurrent = [layer for layer in model.layers if isinstance(layer, _RECURRENT)]
    fixed = any(size is not None for size in model.input_shape)
    return fixed or not is_plain(model) or any(layer.stateful or not layer.return_sequences for layer in recurrent)


def rebuild_unfixed(model: keras.Model) -> keras.Model:
    """Rebuild a model with the same weights that takes any batch size and length, and outputs every token."""
    return _rebuild(
        model, {**_PLAIN, **dict.fromkeys(_SHAPES, lambda _: [None, None]), "return_sequences": lambda _: True}
    )


def is_plain(model: keras.Model) -> bool:
    """Return whether a model computes in float32, takes any batch size and is stateless."""
    layers = list(all_layers(model))
    floats = all(layer.compute_dtype in ("float32", None) for layer in layers if layer.weights)
    fixed = isinstance(model.input_shape, tuple) and model.input_shape[0] is not None
    return floats and not fixed and not any(getattr(layer, "stateful", False) for layer in layers)


def rebuild_plain(model: keras.Model) -> keras.Model:
    """Rebuild a model with the same weights and length as a plain one; see `is_plain`."""
    return _rebuild(model, _PLAIN)


_SHAPES = ("batch_shape", "build_input_shape")


def _in_float32(dtype: Any) -> Any:
    """Replace a float dtype or dtype policy by float32; other dtypes, such as int32 inputs, are unchanged."""
    name = dtype["config"].get("name") if isinstance(dtype, dict) and "config" in dtype else dtype
    return "float32" if isinstance(name, str) and "float" in name else dtype


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "stateful": lambda _: False,
    "dtype": _in_float32,
    **dict.fromkeys(_SHAPES, lambda shape: [None, *shape[1:]]),
}


def _rebuild(model: keras.Model, changes: dict[str, Callable[[Any], Any]]) -> keras.Model:
    rebuilt = type(model).from_config(_apply_changes(model.get_config(), changes))
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _apply_changes(config: Any, changes: dict[str, Callable[[Any], Any]]) -> Any:
    """Apply the changes to all entries with these names, at any depth."""
    if isinstance(config, list | tuple):
        return type(config)(_apply_changes(item, changes) for item in config)
    if not isinstance(config, dict):
        return config
    kept = {name: value for name, value in config.items() if name != "build_config"}
    return {
        name: changes[name](value) if name in changes and value is not None else _apply_changes(value, changes)
        for name, value in kept.items()
    }


def all_layers(layer: Any) -> Iterator[Any]:
    """Yield a layer and all its nested layers."""
    yield layer
    names = ("forward_layer", "backward_layer", "layer")
    for inner in [*getattr(layer, "layers", ()), *(getattr(layer, name, None) for name in names)]:
        if isinstance(inner, keras.layers.Layer):
            yield from all_layers(inner)
