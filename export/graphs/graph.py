"""A Keras model as its layers in the order in which a token passes them, each with those that it takes its inputs from.

Knows Keras's two ways to put a model together, Sequential and functional. Does not know what a layer computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from export.errors import UnsupportedModel

# The place of the model's own input among the inputs of a node.
INPUT = -1


@dataclass(frozen=True)
class Node:
    """One call of a layer.

    Attributes:
        inputs: Places of the nodes that it takes, or `INPUT`.
        reverse: Whether an embedding is used the other way round, from vectors to logits.
    """

    layer: keras.layers.Layer
    inputs: tuple[int, ...]
    reverse: bool = False


def read_graph(model: keras.Model) -> tuple[Node, ...]:
    """Return the calls of a model's layers; the last one is its output, and each stands after its inputs.

    Raises:
        UnsupportedModel: it is neither Sequential nor functional, has several inputs or outputs, or holds what is no
            layer, such as an operation on a tensor.
    """
    if isinstance(model, keras.Sequential):
        layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
        return tuple(Node(layer, (i - 1,)) for i, layer in enumerate(layers))
    # `get_config` of a model written as a class is its own affair, and mostly empty.
    if not isinstance(model, keras.Model) or "output_layers" not in _config(model):
        raise UnsupportedModel(f"{_name(model)} is neither Sequential nor functional: its layers cannot be followed")
    return _Functional(model).nodes()


def _config(model: keras.Model) -> dict[str, Any]:
    try:
        return model.get_config()
    except NotImplementedError:
        return {}


def _name(model: Any) -> str:
    return f"model {getattr(model, 'name', '')!r} ({type(model).__name__})"


class _Functional:
    def __init__(self, model: keras.Model) -> None:
        self._model, config = model, model.get_config()
        self._entries = {entry["config"]["name"]: entry for entry in config["layers"]}
        self._inputs, self._outputs = (list(_references(config[key])) for key in ("input_layers", "output_layers"))
        self._places: dict[tuple[str, int], int] = {}
        self._nodes: list[Node] = []

    def nodes(self) -> tuple[Node, ...]:
        if len(self._inputs) != 1 or len(self._outputs) != 1:
            counts = f"{len(self._inputs)} inputs and {len(self._outputs)} outputs"
            raise UnsupportedModel(f"{_name(self._model)} must have one input and one output, got {counts}")
        self._visit(*self._outputs[0])
        return tuple(self._nodes)

    def _visit(self, name: str, call: int) -> int:
        """Append what a call needs and then itself, unless it stands there already; return its place."""
        if (name, 0) in self._inputs:
            return INPUT
        if (name, call) not in self._places:
            arguments = self._entries[name]["inbound_nodes"][call]
            # A mask that Keras made of an embedding's padding is the embedding's affair: see `Embedding.skips_padding`.
            unmasked = {name: value for name, value in arguments["kwargs"].items() if name != "mask"}
            inputs = tuple(self._visit(*source) for source in _tensors([arguments["args"], unmasked]))
            try:
                layer = self._model.get_layer(name)
            except ValueError:
                raise UnsupportedModel(f"{self._entries[name]['class_name']} {name!r} is no layer") from None
            self._nodes.append(Node(layer, inputs, bool(arguments["kwargs"].get("reverse"))))
            self._places[name, call] = len(self._nodes) - 1
        return self._places[name, call]


def _references(value: Any) -> Iterator[tuple[str, int]]:
    """Yield the calls that `input_layers` or `output_layers` name: one [name, call, tensor], or a list of them."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        yield value[0], value[1]
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def _tensors(value: Any) -> Iterator[tuple[str, int]]:
    """Yield the calls whose outputs stand among serialized arguments."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        name, call, tensor = value["config"]["keras_history"]
        if tensor:
            raise UnsupportedModel(f"output {tensor} of layer {name!r} is used: a state that is handed on by hand")
        yield name, call
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
