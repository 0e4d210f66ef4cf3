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
    try:
        config = model.get_config() if isinstance(model, keras.Model) else {}
    except NotImplementedError:
        config = {}
    described = f"model {getattr(model, 'name', '')!r} ({type(model).__name__})"
    if "output_layers" not in config:
        raise UnsupportedModel(f"{described} is neither Sequential nor functional: its layers cannot be followed")
    inputs, outputs = (list(_references(config[key])) for key in ("input_layers", "output_layers"))
    if len(inputs) != 1 or len(outputs) != 1:
        counts = f"{len(inputs)} inputs and {len(outputs)} outputs"
        raise UnsupportedModel(f"{described} must have one input and one output, got {counts}")
    return _follow(model, config["layers"], inputs[0], outputs[0])


def _follow(model: keras.Model, layers: list[Any], start: tuple[str, int], end: tuple[str, int]) -> tuple[Node, ...]:
    """Return the calls of a functional model from its input to its output, from the entries of its layers."""
    entries, indices, nodes = {entry["config"]["name"]: entry for entry in layers}, {start: INPUT}, list[Node]()

    def visit(name: str, call: int) -> int:
        """Append the inputs of a call and then the call, unless it is there already; return its index."""
        if (name, call) not in indices:
            arguments = entries[name]["inbound_nodes"][call]
            # `Embedding.skips_padding` represents the mask that Keras derives from an embedding's padding.
            unmasked = {name: value for name, value in arguments["kwargs"].items() if name != "mask"}
            inputs = tuple(visit(*source) for source in _tensors([arguments["args"], unmasked]))
            try:
                layer = model.get_layer(name)
            except ValueError:
                raise UnsupportedModel(f"{entries[name]['class_name']} {name!r} is no layer") from None
            nodes.append(Node(layer, inputs, bool(arguments["kwargs"].get("reverse"))))
            indices[name, call] = len(nodes) - 1
        return indices[name, call]

    visit(*end)
    return tuple(nodes)


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
            raise UnsupportedModel(
                f"output {tensor} of layer {name!r} is used: states that are passed explicitly are not supported"
            )
        yield name, call
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
