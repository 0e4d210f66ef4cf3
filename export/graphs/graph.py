"""The layer graph of a Keras model in topological order, each layer call with its inputs.

Knows Keras's Sequential and functional models. Does not know what a layer computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from export.errors import UnsupportedModel

# Index that stands for the model's own input among the inputs of a node.
INPUT = -1


@dataclass(frozen=True)
class Node:
    """One call of a layer.

    Attributes:
        inputs: Indices of its input nodes, or `INPUT`.
        reverse: Whether an embedding is used in reverse, from vectors to logits.
    """

    layer: keras.layers.Layer
    inputs: tuple[int, ...]
    reverse: bool = False


def read_graph(model: keras.Model) -> tuple[Node, ...]:
    """Return the layer calls of a model in topological order; the last one is its output.

    Raises:
        UnsupportedModel: the model is neither Sequential nor functional, has several inputs or outputs, or contains
            operations on tensors that are not layers.
    """
    if isinstance(model, keras.Sequential):
        layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
        return tuple(Node(layer, (i - 1,)) for i, layer in enumerate(layers))
    # A subclassed model defines its own `get_config`, mostly an empty one.
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
        self._indices: dict[tuple[str, int], int] = {}
        self._nodes: list[Node] = []

    def nodes(self) -> tuple[Node, ...]:
        if len(self._inputs) != 1 or len(self._outputs) != 1:
            counts = f"{len(self._inputs)} inputs and {len(self._outputs)} outputs"
            raise UnsupportedModel(f"{_name(self._model)} must have one input and one output, got {counts}")
        self._visit(*self._outputs[0])
        return tuple(self._nodes)

    def _visit(self, name: str, call: int) -> int:
        """Append the inputs of a call and then the call, unless it is there already; return its index."""
        if (name, 0) in self._inputs:
            return INPUT
        if (name, call) not in self._indices:
            arguments = self._entries[name]["inbound_nodes"][call]
            # `Embedding.skips_padding` represents the mask that Keras derives from an embedding's padding.
            unmasked = {name: value for name, value in arguments["kwargs"].items() if name != "mask"}
            inputs = tuple(self._visit(*source) for source in _tensors([arguments["args"], unmasked]))
            try:
                layer = self._model.get_layer(name)
            except ValueError:
                raise UnsupportedModel(f"{self._entries[name]['class_name']} {name!r} is no layer") from None
            self._nodes.append(Node(layer, inputs, bool(arguments["kwargs"].get("reverse"))))
            self._indices[name, call] = len(self._nodes) - 1
        return self._indices[name, call]


def _references(value: Any) -> Iterator[tuple[str, int]]:
    """Yield the calls in `input_layers` or `output_layers`: one [name, call, tensor], or a list of them."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], str):
        yield value[0], value[1]
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def _tensors(value: Any) -> Iterator[tuple[str, int]]:
    """Yield the calls whose outputs are in serialized arguments."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        name, call, tensor = value["config"]["keras_history"]
        if tensor:
            raise UnsupportedModel(f"output {tensor} of layer {name!r} is used: a state that is handed on by hand")
        yield name, call
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
