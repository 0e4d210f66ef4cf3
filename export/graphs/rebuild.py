"""A Keras model built again from its own description, without what ties it to one batch, length or way of being called.

Knows the configurations that Keras writes. Does not know what is done with a model.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras

_RECURRENT = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)


def needs_rebuild(model: keras.Model) -> bool:
    """Say whether a model takes a fixed batch or length, keeps states between calls, or answers for one token alone."""
    recurrent = [layer for layer in model.layers if isinstance(layer, _RECURRENT)]
    fixed = any(size is not None for size in model.input_shape)
    return fixed or not is_plain(model) or any(layer.stateful or not layer.return_sequences for layer in recurrent)


def rebuild_unfixed(model: keras.Model) -> keras.Model:
    """Return a model of the same weights that takes any batch of any length and answers for every token."""
    return _rebuilt(
        model, {**_PLAIN, **dict.fromkeys(_SHAPES, lambda _: [None, None]), "return_sequences": _always(True)}
    )


def is_plain(model: keras.Model) -> bool:
    """Say whether a model computes in float32, takes any number of texts and keeps nothing between calls."""
    layers = list(all_layers(model))
    floats = all(layer.compute_dtype in ("float32", None) for layer in layers if layer.weights)
    fixed = isinstance(model.input_shape, tuple) and model.input_shape[0] is not None
    return floats and not fixed and not any(getattr(layer, "stateful", False) for layer in layers)


def made_plain(model: keras.Model) -> keras.Model:
    """Return a model of the same weights that is plain, of the same length."""
    return _rebuilt(model, _PLAIN)


_SHAPES = ("batch_shape", "build_input_shape")


def _always(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


def _in_float32(dtype: Any) -> Any:
    """Replace a policy of another precision; what an input is made of, such as int32, stays."""
    name = dtype["config"].get("name") if isinstance(dtype, dict) and "config" in dtype else dtype
    return "float32" if isinstance(name, str) and "float" in name else dtype


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "stateful": _always(False),
    "dtype": _in_float32,
    **dict.fromkeys(_SHAPES, lambda shape: [None, *shape[1:]]),
}


def _rebuilt(model: keras.Model, changes: dict[str, Callable[[Any], Any]]) -> keras.Model:
    rebuilt = type(model).from_config(_changed(model.get_config(), changes))
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _changed(config: Any, changes: dict[str, Callable[[Any], Any]]) -> Any:
    """Change the named entries, wherever they stand."""
    if isinstance(config, list | tuple):
        return type(config)(_changed(item, changes) for item in config)
    if not isinstance(config, dict):
        return config
    kept = {name: value for name, value in config.items() if name != "build_config"}
    return {
        name: changes[name](value) if name in changes and value is not None else _changed(value, changes)
        for name, value in kept.items()
    }


def all_layers(layer: Any) -> Iterator[Any]:
    """Yield a layer and all that it is made of."""
    yield layer
    names = ("forward_layer", "backward_layer", "layer")
    for inner in [*getattr(layer, "layers", ()), *(getattr(layer, name, None) for name in names)]:
        if isinstance(inner, keras.layers.Layer):
            yield from all_layers(inner)
