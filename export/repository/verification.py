"""`sostenuto verify`: checks that versions are unchanged, in files, weights and computation."""

import re
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import GeneratorCard
from contract.errors import ContractError
from contract.tokenizers import Tokenizer
from contract.training_filter import load_training_filter
from export.errors import CheckFailed, ExportError, NotFinite, UnknownCode
from export.graphs.checks import check_saved_model
from export.graphs.exportable import Exportable, prepare
from export.graphs.specs import Specs, input_specs
from export.imported.model import load_keras
from export.repository.card_facts import describe_training_filter
from export.repository.history import HISTORY_FILE, read_history
from export.repository.versions import KERAS_FILE, SAVED_MODEL, Version

# Verdicts of a check.
OK, FAILED, NOT_CHECKED = "ok", "FAILED", "not checked"
_VARIABLES = "variables"
_MAX_MESSAGE = 200
_NODE = re.compile(r"\{\{[^}]*\}\} ?")


class _NotChecked(Exception):
    """An input of the check is missing, which is not a failure or was reported by an earlier check."""


class Verification:
    """The checks of one version, in order; later checks use what earlier ones have loaded."""

    def __init__(self, version: Version) -> None:
        self._version, self._path, self._assets = version, version.path, version.path / signatures.ASSETS
        self._contents: tuple[GeneratorCard, Tokenizer] | None = None
        self._functions: Mapping[str, Any] | None = None
        self._model: Exportable | None = None

    def outcomes(self) -> Iterator[tuple[str, str]]:
        """Run the checks one by one; yield the verdict of each, and one line of explanation."""
        # With many sliding-window models TensorFlow warns about repeated retracing, which is intended.
        tf.get_logger().setLevel("ERROR")
        for name, check in {
            "card": self._card,
            _VARIABLES: self._variables,
            SAVED_MODEL: self._load,
            "signatures": self._signatures,
            KERAS_FILE: self._keras,
            "computation": self._computation,
            HISTORY_FILE: self._history,
            signatures.TRAINING_FILTER_FILE: self._training_filter,
        }.items():
            try:
                yield OK, f"{name}: {check()}"
            except _NotChecked as reason:
                yield NOT_CHECKED, f"{name}: {reason}"
            except ExportError as error:
                yield FAILED, f"{name}: {self._short(str(error))}"
            # Damaged files make TensorFlow, Keras, protobuf and HDF5 raise various exceptions.
            except Exception as error:
                yield FAILED, f"{name}: {self._short(f'{type(error).__name__}: {error}')}"

    def _short(self, message: str) -> str:
        """Shorten an error message to one line, without the path of the version and without names of graph nodes."""
        message = _NODE.sub("", message.replace(f"{self._path}/", "").replace(f"{self._path}: ", ""))
        return " ".join(message.split())[:_MAX_MESSAGE]

    def _card(self) -> str:
        self._contents = card, tokenizer = self._version.read()
        return f"format {card.format}, {card.unit}, {len(tokenizer.tokens):,} tokens"

    def _variables(self) -> str:
        """Read every variable, which verifies its checksum, and check that it is finite."""
        if not (self._path / _VARIABLES).is_dir():
            raise CheckFailed("no such directory")
        reader = tf.train.load_checkpoint(str(self._path / _VARIABLES / _VARIABLES))
        names = sorted(name for name, kind in reader.get_variable_to_dtype_map().items() if kind.is_floating)
        broken = [name for name in names if not np.isfinite(reader.get_tensor(name)).all()]
        if broken:
            raise CheckFailed(f"{len(broken)} of {len(names)} contain NaN or infinity, such as {broken[0]}")
        return f"{len(names)}, checksums valid, all finite"

    def _load(self) -> str:
        if not (self._path / SAVED_MODEL).is_file():
            raise CheckFailed("no such file")
        self._functions = tf.saved_model.load(str(self._path)).signatures
        return "TensorFlow loads it"

    def _signatures(self) -> str:
        card, _, functions = self._readable()
        inputs = input_specs(card.state_size, card.units, card.vocab_size, card.precisions)
        outputs = _output_sizes(card)
        for name in outputs:
            if name not in functions:
                raise CheckFailed(f"{name} is missing")
            function = functions[name]
            _require(name, "inputs", _shapes(inputs[name]), _shapes(function.structured_input_signature[1]))
            sizes = {output: list(spec.shape)[-1] for output, spec in function.structured_outputs.items()}
            _require(name, "sizes of outputs", outputs[name], {key: sizes.get(key) for key in outputs[name]})
        return f"all {len(outputs)}, with the sizes of the card"

    def _readable(self) -> tuple[GeneratorCard, Tokenizer, Mapping[str, Any]]:
        if self._contents is None or self._functions is None:
            raise _NotChecked("the card or the SavedModel cannot be read")
        return *self._contents, self._functions

    def _keras(self) -> str:
        if self._contents is None:
            raise _NotChecked("the card, which has the hash of its weights, cannot be read")
        card, path = self._contents[0], self._assets / KERAS_FILE
        if not path.exists():
            # The layers of an imported SavedModel are unknown.
            if card.training or card.cell or card.layers or card.embedding:
                raise CheckFailed(f"no such file in {signatures.ASSETS}")
            raise _NotChecked("an imported SavedModel has none: its weights cannot be compared with the card's hash")
        try:
            self._model = prepare(load_keras(path), card.context)
        except UnknownCode as error:
            raise _NotChecked(self._short(str(error)).partition(";")[0]) from error
        except NotFinite as error:
            raise CheckFailed(str(error).partition(":")[0]) from error
        actual = self._model.weights_sha256
        if actual != card.weights_sha256:
            raise CheckFailed(
                f"its weights have the hash {actual[:12]}…, but the card says {card.weights_sha256[:12]}…"
            )
        return f"its weights have the card's hash, {actual[:12]}…"

    def _computation(self) -> str:
        card, tokenizer, functions = self._readable()
        check_saved_model(self._path, self._model or _serving_default_as_model(card, functions), len(tokenizer.tokens))
        if self._model is None:
            return f"the signatures agree with each other; without {KERAS_FILE} no more can be checked"
        return f"it computes the same as {KERAS_FILE}"

    def _history(self) -> str:
        if not (self._assets / HISTORY_FILE).exists():
            raise _NotChecked("there is none; no imported model has one")
        return f"{read_history(self._path).epochs} epochs"

    def _training_filter(self) -> str:
        if self._contents is None:
            raise _NotChecked("the card, which has its hash, cannot be read")
        card = self._contents[0]
        described = card.training_filter
        try:
            training_filter = load_training_filter(
                self._assets / signatures.TRAINING_FILTER_FILE, described.sha256 if described else None
            )
        except ContractError as error:
            raise CheckFailed(str(error)) from error
        if described is None and training_filter is None:
            raise _NotChecked(describe_training_filter(card))
        if described is None or training_filter is None:
            raise CheckFailed("no such file" if training_filter is None else "the card does not describe it")
        return describe_training_filter(card)


def _serving_default_as_model(card: GeneratorCard, functions: Mapping[str, Any]) -> Exportable:
    """Use `serving_default` as the model, so that the other signatures are checked against it."""

    def logits(token_ids: np.ndarray) -> np.ndarray:
        return functions[signatures.SERVING_DEFAULT](token_ids=tf.constant(token_ids))["logits"].numpy()

    # The network attributes that the check of the signatures uses.
    sizes: Any = SimpleNamespace(
        state_size=card.state_size, output_size=card.units, vocab_size=card.vocab_size, activations=card.activations
    )
    return Exportable(sizes, card.weights_sha256, logits, gives_probabilities=False)


def _shapes(specs: Specs) -> dict[str, tuple[str, list[int | None]]]:
    return {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in sorted(specs.items())}


def _require(name: str, what: str, expected: Any, actual: Any) -> None:
    wrong = [key for key in sorted({*expected, *actual}) if expected.get(key) != actual.get(key)]
    if wrong:
        key = wrong[0]
        raise CheckFailed(f"{what} of {name}: {key} must be {expected.get(key)}, got {actual.get(key)}")


def _output_sizes(card: GeneratorCard) -> dict[str, dict[str, int | None]]:
    """Return the width of every output; None if it is the number of tokens."""
    state, tokens = {"state": card.state_size}, {"token_ids": None, "logprobs": None}
    top = dict.fromkeys(("top_token_ids", "top_logprobs"), card.num_top)
    activations = {each.output: each.units for each in card.activations}
    variants = {
        signatures.PREFILL: state,
        signatures.DECODE: {**tokens, **state},
        signatures.DECODE_FULL: {**tokens, **top, **state},
        signatures.SCORE: {"logprobs": None, **top, **state},
        signatures.EMBED: {**state, "sum": card.units, "last": card.units},
        signatures.INSPECT: {"logprobs": None, **top, **state, **activations},
        signatures.NEXT_LOGPROBS: {**tokens, "parents": None, **state, "logprobs": card.vocab_size},
    }
    by_name = {
        signatures.in_precision(name, precision): sizes
        for precision in card.precisions
        for name, sizes in variants.items()
    }
    return {signatures.SERVING_DEFAULT: {"logits": card.vocab_size}, **by_name}
