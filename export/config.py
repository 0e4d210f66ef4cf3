"""Settings of a training run: one frozen pydantic model, filled from a TOML file and the command line.

Knows names, limits, defaults and their reasons. Does not know what uses them.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from contract.card import ID_PATTERN, Cell, Direction, Unit
from export.corpora.corpus import Documents
from export.errors import ConfigError

# Default directories of published versions and of training runs.
MODELS, RUNS = Path("models"), Path("runs")

Connections = Literal["none", "residual", "skip"]
Precision = Literal["auto", "float32", "bfloat16"]
Rate = Annotated[float, Field(ge=0, lt=1)]

DEFAULT_CONTEXT = 20
# Applies where neither epochs nor max_minutes is given. With max_minutes alone there is no epoch limit: ten epochs
# might end earlier.
DEFAULT_EPOCHS = 10
# Less than a page. A model only memorizes so short a text. The shortest training text in this project's tests has 1,248
# characters.
MIN_CHARACTERS = 1000
# Settings that limit the vocabulary, and the units that they apply to.
_UNITS_OF_LIMIT = {"num_words": ("word", "exact_word"), "vocab_size": ("exact_word", "subword")}


class TrainConfig(BaseModel):
    """Settings for training one generator. A field's description is its command-line help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=ID_PATTERN, description="name of the model in the repository")
    corpus: str = Field(min_length=1, description="file, directory, - for standard input, shakespeare or pydoc-topics")
    min_characters: int = Field(MIN_CHARACTERS, ge=0, description="refuse a corpus of fewer; 0: none is too small")
    documents: Documents = Field("none", description="what ends with the end token: none, file, lines or blank-line")
    unit: Unit = Field("character", description="what a token is: character, word, exact_word or subword")
    # Ids 0 and 1 are special tokens, and a single word leaves nothing to sample from.
    num_words: int | None = Field(None, ge=4, description="keep word ids below this one; for word and exact_word")
    vocab_size: int | None = Field(
        None, ge=4, description="maximum number of tokens; for exact_word and subword (2000 by default)"
    )
    direction: Direction = Field(
        "forward", description="forward, or backward: the model generates the text before a given suffix"
    )
    cell: Cell = Field("lstm", description="kind of recurrent layer: simple_rnn, lstm or gru")
    layers: int = Field(1, ge=1, le=8, description="number of stacked recurrent layers")
    units: int = Field(256, ge=1, le=8192, description="width of each layer's state")
    embedding: int = Field(64, ge=1, le=8192, description="width of the embedding")
    bidirectional: bool = Field(
        False,
        description="bidirectional layers; the model carries no state but recomputes a sliding window for each token",
    )
    context: int | None = Field(
        None, ge=1, le=4096, description=f"window length of a bidirectional model ({DEFAULT_CONTEXT} by default)"
    )
    connections: Connections = Field(
        "none",
        description="none; residual: each layer's input is added to its output; skip: the last layer sees every layer",
    )
    tie_embeddings: bool = Field(False, description="tie the output layer's weights to the embedding")
    embedding_init: str | None = Field(
        None, min_length=1, description="initialize the embedding by skip-gram on the corpus, or from a file of vectors"
    )
    freeze_embedding: bool = Field(False, description="do not train the embedding; needs embedding-init")
    dropout: Rate = Field(0.1, description="share of each layer's outputs dropped, one mask per sequence and window")
    embedding_dropout: Rate = Field(
        0.0, description="share of the embedding's outputs dropped, one mask per sequence and window"
    )
    recurrent_dropout: Rate = Field(
        0.0, description="share of the state that the gates do not see, one mask per sequence and window"
    )
    batch_size: int = Field(32, ge=1, le=4096, description="sequences trained in parallel; if bidirectional, windows")
    sequence_length: int = Field(
        100, ge=1, le=100_000, description="steps of truncated backpropagation; the state is carried over"
    )
    state_reset_probability: Rate = Field(
        0.05, description="probability that a sequence starts an update from the zero state, as a prompt does"
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description=f"passes over the training text; {DEFAULT_EPOCHS} where max-minutes is not given either, and with "
        "both what comes first ends the training",
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="time limit of the training, whatever that is in epochs; the learning rate schedule ends there",
    )
    patience: int = Field(
        0, ge=0, description="stop after this many epochs in a row that were not the best; 0: train to the end"
    )
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the schedule")
    warmup: Rate = Field(0.05, description="share of the run in which the learning rate rises; then it falls by cosine")
    weight_decay: float = Field(
        0.01, ge=0, allow_inf_nan=False, description="AdamW's decay of the kernels and embeddings"
    )
    ema: Rate = Field(
        0.998,
        description="decay per update of the moving average of the weights, which is evaluated and published; "
        "lower at first; 0: the weights themselves",
    )
    clip_norm: float = Field(1.0, gt=0, allow_inf_nan=False, description="global norm that gradients are clipped to")
    validation: Rate = Field(
        0.1,
        description="share of the text that training never sees: its end, or documents sampled by the seed; 0: none",
    )
    precision: Precision = Field(
        "auto",
        description="of the factors in matrix products: float32; bfloat16; auto: bfloat16 where the CPU has it",
    )
    tensorboard: bool = Field(False, description="write losses and learning rate for TensorBoard to the run directory")
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="seed of the weights, of dropout, of the epochs' offsets and of which documents are held out",
    )

    @field_validator("num_words", "vocab_size")
    @classmethod
    def _require_matching_unit(cls, limit: int | None, info: ValidationInfo) -> int | None:
        units, unit = _UNITS_OF_LIMIT[info.field_name or ""], info.data.get("unit")
        if limit is not None and unit is not None and unit not in units:
            raise PydanticCustomError("other_unit", f"is for unit = {' or '.join(units)}, and unit is {unit}")
        if limit is not None and info.field_name == "vocab_size" and info.data.get("num_words") is not None:
            raise PydanticCustomError("two_bounds", "and num_words bound the same vocabulary: give one of them")
        return limit

    @model_validator(mode="after")
    def _require_consistent_settings(self) -> "TrainConfig":
        if self.bidirectional and self.connections != "none":
            raise PydanticCustomError("no_connections", "connections must be none with bidirectional")
        if self.connections != "none" and self.layers == 1:
            raise PydanticCustomError("one_layer", "connections = {value} needs 2 layers", {"value": self.connections})
        if self.freeze_embedding and self.embedding_init is None:
            raise PydanticCustomError("frozen_noise", "freeze_embedding needs embedding_init: it would keep noise")
        if self.context is not None and not self.bidirectional:
            raise PydanticCustomError("no_window", "context is for bidirectional models; others have no bound")
        return self

    @property
    def max_epochs(self) -> int | None:
        """Maximum number of epochs; None where only `max_minutes` ends the training."""
        return DEFAULT_EPOCHS if self.epochs is None and self.max_minutes is None else self.epochs

    @property
    def window_length(self) -> int | None:
        """Context length of a sliding-window model, in tokens; None for a model that carries state."""
        return (self.context or DEFAULT_CONTEXT) if self.bidirectional else None


def load_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """Read a TOML file and override its values with those of the command line.

    Raises:
        ConfigError: the file cannot be read, or a field is missing, unknown or out of range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
    try:
        return TrainConfig.model_validate({**values, **overrides})
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(problem) for problem in error.errors())) from error


def _explain(problem: Any) -> str:
    if not problem["loc"]:
        return str(problem["msg"])
    field = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{field} is required (--{field.replace('_', '-')})"
    if problem["type"] == "extra_forbidden":
        return f"{field} is not a setting; settings are {', '.join(TrainConfig.model_fields)}"
    if problem["type"] == "string_pattern_mismatch":
        rule = "1 to 64 letters, digits, dots, dashes and underscores, the first one a letter or a digit"
        return f"{field}: must be {rule}, got {problem['input']!r}"
    return f"{field}: {problem['msg']}, got {problem['input']!r}"
