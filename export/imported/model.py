"""Imported models: `.keras` files, Keras 2's `.h5` files and SavedModels."""

import contextlib
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from export.errors import UnknownCode, UnsupportedModel
from export.graphs.exportable import Exportable, fixed_length, prepare, prepare_function, require_context
from export.graphs.network import all_layers, read_network
from export.graphs.operations import require_harmless
from export.imported.archives import DAMAGED, read_config, read_metadata, write_config
from export.imported.keras_vocabularies import read_layers

_HDF5, _ZIP = b"\x89HDF", b"PK"
_SAVED_MODEL = "saved_model.pb"
# Options in Keras 2 files that Keras 3 rejects. These values are the defaults and have no effect.
_REMOVED_OPTIONS = {"time_major": False, "input_length": None}
_LOOKUPS = (keras.layers.TextVectorization, keras.layers.StringLookup)
# The slope of `hard_sigmoid` is 0.2 in Keras 2 and 1/6 in Keras 3: gate inputs are scaled by the ratio.
_HARD_SIGMOID = 0.2 * 6
# Which columns of LSTM's (i, f, c, o) and GRU's (z, r, h) weights are gates.
_GATES = {"LSTMCell": (True, True, False, True), "GRUCell": (True, True, False)}
# Exceptions of Keras and TensorFlow for an input that the model does not accept.
_REFUSALS = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, tf.errors.OpError)
_COLOUR_OR_NODE = re.compile(r"\x1b\[\d*m|\{\{[^}]*\}\} ?|\s*\[Op:\w+\] name:")
_RAISED = re.compile(r"(\w+\.)*\w*Error: ")
_FRAMES = ("Exception encountered", "Arguments received", "Graph execution error", "Detected at", "File ", "•")


def read_imported(path: Path, window: int | None) -> tuple[Exportable, list[str]]:
    """Load a model and prepare it with carried state if its layers allow it, else as a sliding-window model.

    If a window is given, even a model that could carry state gets it. The returned lines say how it will be served.

    Raises:
        UnsupportedModel: the model cannot be loaded, has a custom layer, has unsupported inputs or outputs, or needs a
            window of unknown length.
    """
    with _naming(path):
        try:
            return _from_saved_model(path, window) if path.is_dir() else _from_keras(path, window)
        except _REFUSALS as error:
            raise UnsupportedModel(f"it cannot be run: {_summary_line(error)}") from error


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before errors, unless it is there."""
    try:
        yield
    except UnsupportedModel as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise type(error)(f"{path}: {error}") from error


def _from_keras(path: Path, window: int | None) -> tuple[Exportable, list[str]]:
    model = _from_token_ids(_load(path))
    _require_one_input_and_output(model)
    try:
        prepared = prepare(model, window)
    except UnsupportedModel as error:
        option = " (--context-length)" if "context length" in str(error) else ""
        raise UnsupportedModel(f"{error}{option}") from error
    lines = [f"{path}: {', '.join(type(layer).__name__ for layer in model.layers)}"]
    if prepared.context is None:
        lines.append(f"it carries its state from token to token: {prepared.network.state_size:,} floats per sequence")
        length = fixed_length(model)
        if length is not None:
            lines.append(
                f"its input has a fixed length of {length} tokens: if shorter sequences were padded in training, "
                f"--context-length {length} serves it as it was trained"
            )
    else:
        lines.append(_window_line(prepared, "as --context-length requests" if window else _why_no_state(model)))
    return prepared, [*lines, _outputs_line(prepared)]


def _from_token_ids(model: keras.Model) -> keras.Model:
    """Return a model without the layer that maps text to token ids, which the gateway does."""
    lookups = [layer for layer in model.layers if isinstance(layer, _LOOKUPS) and not getattr(layer, "invert", False)]
    if not lookups:
        return model
    try:
        if isinstance(model, keras.Sequential):
            length, rest = lookups[0].output.shape[1:], model.layers[model.layers.index(lookups[0]) + 1 :]
            inner = keras.Sequential([keras.Input(length, dtype="int32"), *rest])
        else:
            inner = keras.Model(lookups[0].output, model.output)
    except (ValueError, AttributeError) as error:
        kind, name = type(lookups[0]).__name__, lookups[0].name
        raise UnsupportedModel(
            f"{kind} {name!r} must be the first layer of a model that was built: {_summary_line(error)}"
        ) from error
    layers = [layer for layer in inner.layers if not isinstance(layer, keras.layers.InputLayer)]
    # Usually, an end-to-end model is such a layer before the trained model.
    return layers[0] if len(layers) == 1 and isinstance(layers[0], keras.Model) else inner


def _why_no_state(model: keras.Model) -> str:
    try:
        read_network(model)
    except UnsupportedModel as error:
        return f"no state can be carried, as {error}"
    raise AssertionError("a model that can carry a state was given a window")


def _window_line(model: Exportable, why: str) -> str:
    return f"it is a sliding-window model of {model.context} tokens, padded on the left: {why}"


def _outputs_line(model: Exportable) -> str:
    kind = "probabilities" if model.gives_probabilities else "logits"
    return f"its outputs are {kind} of {model.network.vocab_size:,} tokens"


def _summary_line(error: Exception) -> str:
    """Return the informative line of an error; Keras and TensorFlow surround it with call frames and arguments."""
    lines = [line.strip() for line in _COLOUR_OR_NODE.sub("", str(error)).splitlines() if line.strip()]
    # A traceback in the message precedes the name of the last error.
    begin = max((i for i, line in enumerate(lines) if _RAISED.match(line)), default=0)
    lines[begin:] = [_RAISED.sub("", line) for line in lines[begin:]]
    informative = [line for line in lines[begin:] if not line.startswith(_FRAMES) and not line.endswith(":")]
    return (informative or lines or [type(error).__name__])[0][:300]


def _require_one_input_and_output(model: keras.Model) -> None:
    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnsupportedModel(f"one input and one output are needed, got {len(inputs)} and {len(outputs)}")
    input_shape, output_shape = tuple(inputs[0].shape), tuple(outputs[0].shape)
    if len(input_shape) != 2 or len(output_shape) not in (2, 3):
        raise UnsupportedModel(
            f"the input must be token ids (batch, tokens) and the output (batch, vocabulary) or "
            f"(batch, tokens, vocabulary), got {input_shape} and {output_shape}"
        )


def load_keras(path: Path) -> keras.Model:
    """Load a `.keras` or `.h5` file of Keras 2 or 3; the content determines the format.

    Raises:
        UnknownCode: the model has custom code.
        UnsupportedModel: the file cannot be loaded.
    """
    with _naming(path):
        return _load(path)


def _load(path: Path) -> keras.Model:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UnsupportedModel(str(error.strerror)) from error
    if not start.startswith((_ZIP, _HDF5)):
        raise UnsupportedModel("neither a .keras file, nor an .h5 file, nor a SavedModel directory")
    try:
        with warnings.catch_warnings():
            # Warnings about Keras 2 arguments that have no effect here.
            warnings.simplefilter("ignore")
            return _load_h5(path) if start.startswith(_HDF5) else _load_keras_3(path)
    except UnsupportedModel:
        raise
    except Exception as error:
        raise _explained(str(error)) from error


def _explained(message: str) -> UnsupportedModel:
    unknown = re.search(r"Could not locate class '([^']+)'|Unknown layer: '?([\w>]+)'?", message)
    if unknown:
        name = unknown[1] or unknown[2]
        return UnknownCode(
            f"layer class {name!r} is not one of Keras's; where the class is defined, save a functional model "
            f"of its layers, which carries its state, or write a SavedModel with model.export('directory'), and import "
            f"that directory"
        )
    if "lambda" in message.lower() and "unsafe" in message.lower():
        return UnknownCode(
            "a Lambda layer has Python code, which is not run; if you trust it, write a SavedModel with "
            "model.export('directory'), and import that directory"
        )
    return UnsupportedModel("Keras cannot read it: " + message.strip().partition("\n")[0][:200])


def _load_keras_3(path: Path) -> keras.Model:
    """Load a file, with vocabularies moved into the config: Keras misreads a vocabulary file with a newline as a term.

    `.keras` files of Keras 2 store weights differently.
    """
    try:
        version = str(read_metadata(path)["keras_version"])
    except DAMAGED as error:
        raise UnsupportedModel(f"not a .keras file, or a damaged one ({error})") from error
    if version.startswith("2."):
        raise UnsupportedModel(
            f"written by Keras {version}, whose .keras files Keras {keras.__version__} cannot read; there, save the "
            f"model as .h5"
        )
    config, layers = read_layers(path)
    if not layers:
        return keras.models.load_model(path, compile=False)
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "model.keras"
        write_config(path, config, copy)
        return keras.models.load_model(copy, compile=False)


def _load_h5(path: Path) -> keras.Model:
    """Load via a copy without the options that Keras 3 rejects: Keras's loader needs a file."""
    config, version = read_config(path)
    if config is None:
        raise UnsupportedModel("only weights, without the model; save both with model.save")
    cleaned = json.dumps(_with_input(json.loads(config, object_hook=_without_removed_options)))
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "model.h5"
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = cleaned
        model = keras.models.load_model(copy, compile=False)
    if version.startswith("2"):
        for layer in all_layers(model):
            _rescale_hard_sigmoid(layer)
    return model


def _rescale_hard_sigmoid(layer: Any) -> None:
    """Scale the weights before a Keras 2 cell's `hard_sigmoid`, so that the cell computes the same in Keras 3.

    Raises:
        UnsupportedModel: `hard_sigmoid` is also the activation of its state, which scaled weights cannot correct.
    """
    kind = type(layer).__name__
    if getattr(layer, "activation", None) is keras.activations.hard_sigmoid:
        raise UnsupportedModel(
            f"layer {layer.name!r}: activation hard_sigmoid is another function in Keras {keras.__version__}"
        )
    if getattr(layer, "recurrent_activation", None) is keras.activations.hard_sigmoid and kind in _GATES:
        scale = np.concatenate([np.full(layer.units, _HARD_SIGMOID if gate else 1.0) for gate in _GATES[kind]])
        layer.set_weights([weight * scale for weight in layer.get_weights()])


def _without_removed_options(config: dict[str, Any]) -> dict[str, Any]:
    for name, default in _REMOVED_OPTIONS.items():
        if default is None or config.get(name) == default:
            config.pop(name, None)
    return config


def _with_input(config: Any) -> Any:
    """Add an input layer to an old Sequential: Keras 3 would derive one with two batch dimensions from its shape."""
    layers = config["config"].get("layers") if isinstance(config.get("config"), dict) else config.get("config")
    if config.get("class_name") != "Sequential" or not layers or layers[0]["class_name"] == "InputLayer":
        return config
    shape = layers[0]["config"].pop("batch_input_shape", None)
    if shape is not None:
        name = layers[0]["config"]["name"] + "_input"
        options = {"batch_input_shape": shape, "dtype": "float32", "sparse": False, "ragged": False, "name": name}
        layers.insert(0, {"class_name": "InputLayer", "config": options})
    return config


def _from_saved_model(path: Path, window: int | None) -> tuple[Exportable, list[str]]:
    loaded, function = _load_serving_default(path)
    name, spec = _require_one(function.structured_input_signature[1], "input")
    output, _ = _require_one(function.structured_outputs, "output")
    context = _context_of(name, spec, window)

    def call(token_ids: tf.Tensor) -> tf.Tensor:
        return function(**{name: tf.cast(token_ids, spec.dtype)})[output]

    structure = (path / _SAVED_MODEL).read_bytes()
    prepared = prepare_function(call, context, list(function.variables), structure, keep=loaded)
    window_line = _window_line(prepared, "a SavedModel's layers are unknown")
    return prepared, [f"{path}: SavedModel, {name} → {output}", window_line, _outputs_line(prepared)]


def _load_serving_default(path: Path) -> tuple[Any, Any]:
    """Return the loaded SavedModel, and the function of it that TensorFlow Serving would call."""
    if not (path / _SAVED_MODEL).is_file():
        raise UnsupportedModel(f"not a SavedModel: {_SAVED_MODEL} is missing")
    try:
        require_harmless(path)
        loaded = tf.saved_model.load(str(path))
    except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
        raise UnsupportedModel(f"TensorFlow cannot read it: {str(error).partition(chr(10))[0]}") from error
    if "serving_default" not in loaded.signatures:
        raise UnsupportedModel("it has no signature serving_default; model.export('directory') writes one")
    return loaded, loaded.signatures["serving_default"]


def _context_of(name: str, spec: tf.TensorSpec, window: int | None) -> int:
    """Return the window length, requested or fixed by the input, after checking the input's dtype and shape."""
    if spec.shape.rank != 2 or not (spec.dtype.is_integer or spec.dtype.is_floating):
        raise UnsupportedModel(
            f"the input {name!r} must be token ids (batch, tokens), got {spec.dtype.name} of shape {spec.shape}"
        )
    if spec.shape[0] is not None:
        raise UnsupportedModel(f"its batch size is fixed at {spec.shape[0]}; it must accept any batch size")
    require_context(spec.shape[1], window)
    context = window or spec.shape[1]
    if context is None:
        raise UnsupportedModel(
            "a SavedModel is served as a sliding-window model, and its input has no fixed length: pass the length of "
            "its training sequences with --context-length"
        )
    return int(context)


def _require_one(tensors: dict[str, Any], kind: str) -> tuple[str, Any]:
    if len(tensors) != 1:
        raise UnsupportedModel(f"serving_default must have one {kind}, got {', '.join(tensors) or 'none'}")
    return next(iter(tensors.items()))
