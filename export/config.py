"""Settings of a training run: one frozen pydantic model, filled from a TOML file and the command line."""

import math
import os
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from contract.card import ID_PATTERN, Cell, Direction, GeneratorCard, Unit
from contract.errors import TokenizerError
from contract.machine import has_amx, has_gpu, multiplies_bfloat16
from contract.tokenizers.byte_level import CONTINUATIONS
from contract.tokenizers.regexes import PRESETS, join_regexes
from contract.tokenizers.subwords import DEFAULT_VOCAB_SIZE
from export.corpora.documents import RECORDS, Documents
from export.corpora.packaged import NUM_CHARACTERS
from export.errors import ConfigError

# Default directories of published versions and of training runs.
MODELS, RUNS = Path("models"), Path("runs")
# Built-in files of settings, by name.
RECIPES = {path.stem: path for path in sorted(Path(__file__).with_name("recipes").glob("*.toml"))}
# The defaults without a given file, by the minutes of a run; the last one with a base model.
RECIPES_BY_MINUTES = ("characters-3-minutes", "characters", "characters-hour")
DEFAULT_RECIPE, FINE_TUNING_RECIPE = RECIPES_BY_MINUTES[0], "fine-tuning"
# What recipes are made for: a text of this length. Passes over it up to which dropout only slows the training, and in a
# recipe's minutes. The other recipes have one text, or a base model.
_RECIPE_CHARACTERS = 1_200_000
_RECIPE_PASSES = {
    "characters-3-minutes": (3.5, 7),
    "characters": (3.5, 19),
    "characters-hour": (3.5, 29),
    "words": (2, 13),
    "subwords": (2, 17),
}
# The default recipe's units for less than this share of its computation, and what they are a multiple of. With half of
# it, 512 units read tiny Shakespeare four times and ended with 1.397, 384 six times and with 1.404.
_FULL_UNITS_FROM, _UNITS_STEP = 0.5, 128
# Tokens/s of training 512 units, relative to 41,182 on a CPU with AMX: 21,839 with AVX512-BF16 alone, 10,900 with
# neither.
_SPEED_WITHOUT_AMX, _SPEED_WITHOUT_BFLOAT16 = 0.5, 0.25
# A shorter text has the default recipe, whatever the minutes: the others' larger models memorize it. In twenty minutes,
# 100,000 characters of tiny Shakespeare had 1.404 with `characters` after the 17th pass, and 1.465 after the last. The
# default recipe, with more dropout, ended with 1.359 after 60 passes and 1.354 after 120; beyond, nothing is learned.
_MIN_CHARACTERS_OF_LARGER_RECIPES, _MAX_PASSES = 250_000, 120
# A file's characters per byte are counted in its beginning, as those bytes that do not continue a character in UTF-8.
_SAMPLED_BYTES = 1 << 16
# The largest factor of the default recipe's dropout, for 33 passes and more; higher rates of others were not measured.
_MAX_DROPOUT_FACTOR = 3.25
_DROPOUT = ("dropout", "embedding_dropout", "recurrent_dropout")
# Passes up to which a recipe's learning rate is best; the default of the setting is, from 13 on.
_PASSES_AT_FULL_RATE = 7

Connections = Literal["none", "residual", "skip"]
Precision = Literal["auto", "float32", "bfloat16"]
Rate = Annotated[float, Field(ge=0, lt=1)]

DEFAULT_CONTEXT = 20
# Applies where neither epochs nor max_minutes is given. With max_minutes alone there is no epoch limit: ten epochs
# might end earlier.
DEFAULT_EPOCHS = 10
# Less than a page, which a model would only memorize. The shortest training text in this project's tests has 1,248
# characters.
MIN_CHARACTERS = 1000
# Default fraction that is held out, and the most characters of it: more would take longer to validate than a short run
# trains. A bidirectional model gets that number divided by its context length.
_VALIDATION, _MAX_HELD_OUT = 0.1, 500_000
# Each is a token before every document.
MAX_LABEL_COLUMNS = 8
# Settings that limit the vocabulary, and the units that they apply to.
_UNITS_OF_LIMIT = {"num_words": ("word", "exact_word", "regex"), "vocab_size": ("exact_word", "subword", "regex")}


# Settings that a fine-tuned model gets from its base.
ARCHITECTURE = (
    *("token_regex", "token_unit", "num_words", "vocab_size", "direction", "cell", "layers", "units", "embedding"),
    *("bidirectional", "context_length", "connections", "tie_embeddings"),
)


class Group(StrEnum):
    """Groups of settings, as the command-line help shows them, in its order."""

    CORPUS = "corpus and tokenizer"
    FINE_TUNING = "fine-tuning"
    MODEL = "model"
    REGULARIZATION = "regularization"
    OPTIMIZATION = "optimization"
    STOPPING = "stopping"
    OUTPUT = "output"


def _setting(
    group: Group, default: Any = ..., *, metavar: str | None = None, shown_default: str | None = None, **limits: Any
) -> Any:
    """Return a pydantic field with metadata for the help.

    These are its group, the metavar of its option if the type has none, and the meaning of a default of None.
    """
    extra = {"group": group, "metavar": metavar, "shown_default": shown_default}
    return Field(default, json_schema_extra=extra, **limits)


def _refusal(message: str) -> PydanticCustomError:
    """Return the error of a validator; pydantic would put words before the message of a ValueError."""
    return PydanticCustomError("refused", "{message}", {"message": message})


class TrainConfig(
    BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True, validate_by_name=True, validate_by_alias=True
):
    """Settings for training one generator. The docstring of a field is its command-line help."""

    name: str = _setting(
        Group.OUTPUT, metavar="NAME", shown_default="that of the file or directory", pattern=ID_PATTERN
    )
    """name of the model in the repository"""

    corpus: str = _setting(Group.CORPUS, metavar="PATH", min_length=1)
    """text file, directory of text files, - for standard input, or a corpus by its name: shakespeare,
    state-of-the-union or pydoc-topics"""
    # `from` is a keyword of Python.
    base: str | None = _setting(
        Group.FINE_TUNING, None, alias="from", metavar="NAME[:VERSION]", min_length=1, shown_default="from scratch"
    )
    """continue training a published model, its newest version by default: with its weights, tokenizer and architecture;
    new characters are added"""
    mix: str | None = _setting(Group.FINE_TUNING, None, metavar="PATH", min_length=1, shown_default="no other text")
    """text to mix into the training, so that the model forgets less of it, such as the corpus of the base; its
    validation split is excluded"""
    mix_share: float = _setting(Group.FINE_TUNING, 0.2, gt=0, lt=1)
    """share of the training tokens that are from --mix"""

    documents: Documents = _setting(Group.CORPUS, "none", shown_default="none; records for a .jsonl or .csv file")
    """how the corpus is split into documents, each of which ends with the EOS token; none: one running text without
    EOS; records: each record of JSON Lines or CSV, with a field text, or prompt and completion"""
    label_column: tuple[str, ...] | None = _setting(
        Group.CORPUS, None, metavar="COLUMN", shown_default="none", min_length=1, max_length=MAX_LABEL_COLUMNS
    )
    """column of the records that conditions the model: each label becomes a token before the text, numbers in bins; may
    be given several times; implies --documents records"""
    min_characters: int = _setting(Group.CORPUS, MIN_CHARACTERS, ge=0)
    """refuse a corpus of fewer characters; 0 accepts any"""
    validation: float | None = _setting(
        Group.CORPUS, None, shown_default=f"{_VALIDATION}, at most {_MAX_HELD_OUT:,} characters", ge=0, lt=1
    )
    """fraction of the corpus held out for validation: the end of a running text, or documents sampled by the seed"""
    validation_corpus: str | None = _setting(Group.CORPUS, None, metavar="PATH", min_length=1, shown_default="none")
    """text to validate with, instead of a fraction of the corpus"""
    token_unit: Unit = _setting(Group.CORPUS, "character")
    """what a token is: a character; a word by Keras's rules, in lower case and without punctuation; a word exactly as
    written; a subword by byte-pair encoding; or a match of --token-regex"""
    token_regex: tuple[str, ...] | None = _setting(
        Group.CORPUS, None, metavar="REGEX", shown_default="none", min_length=1
    )
    """regular expression of tokens, which makes the token unit regex; may be given several times: the first match
    wins, unmatched text becomes characters; or a set of them by its name: smiles, abc or fields"""
    # Ids 0 and 1 are special tokens, and a single word leaves nothing to sample from.
    num_words: int | None = _setting(Group.CORPUS, None, ge=4, shown_default="all")
    """keep only words with an id below this number, as Keras's Tokenizer(num_words) does; for word, exact_word and
    regex"""
    vocab_size: int | None = _setting(Group.CORPUS, None, ge=4, shown_default="2000 for subword, otherwise all")
    """maximum number of tokens; for exact_word, subword and regex"""

    direction: Direction = _setting(Group.MODEL, "forward")
    """backward: the model generates right to left, the text before a suffix"""
    cell: Cell = _setting(Group.MODEL, "lstm")
    """kind of recurrent layer"""
    layers: int = _setting(Group.MODEL, 1, ge=1, le=8)
    """number of stacked recurrent layers"""
    units: int = _setting(Group.MODEL, 256, ge=1, le=8192)
    """units of each recurrent layer, as in Keras"""
    embedding: int = _setting(Group.MODEL, 64, ge=1, le=8192)
    """width of the embedding"""
    bidirectional: bool = _setting(Group.MODEL, default=False)
    """bidirectional layers: a sliding-window model, which carries no state and recomputes its last --context-length
    tokens for each new one"""
    context_length: int | None = _setting(Group.MODEL, None, ge=1, le=4096, shown_default=str(DEFAULT_CONTEXT))
    """tokens that a bidirectional model sees"""
    connections: Connections = _setting(Group.MODEL, "none")
    """residual: each layer's input is added to its output; skip: the output layer sees every layer"""
    tie_embeddings: bool = _setting(Group.MODEL, default=False)
    """use the embedding's weights for the output layer, too"""
    embedding_init: str | None = _setting(Group.MODEL, None, metavar="FILE", min_length=1, shown_default="random")
    """initialize the embedding from a file of word2vec, GloVe or fastText vectors"""
    freeze_embedding: bool = _setting(Group.MODEL, default=False)
    """do not train the embedding; needs --embedding-init or --from"""

    dropout: Rate = _setting(Group.REGULARIZATION, 0.1)
    """dropout rate of each recurrent layer's outputs; one mask per sequence and update, as for --embedding-dropout and
    --recurrent-dropout"""
    embedding_dropout: Rate = _setting(Group.REGULARIZATION, 0.0)
    """dropout rate of the embedding's outputs"""
    recurrent_dropout: Rate = _setting(Group.REGULARIZATION, 0.0)
    """dropout rate of the recurrent state, as Keras's recurrent_dropout"""
    activation_regularization: float = _setting(Group.REGULARIZATION, 0.0, ge=0, allow_inf_nan=False)
    """factor of the mean square of the top layer's outputs, and of their changes from step to step, in the loss (AR and
    TAR)"""
    label_dropout: Rate = _setting(Group.REGULARIZATION, 0.1)
    """probability that all labels of a document are hidden in an epoch; of several, also that each one is; so the model
    generates with some or none"""
    weight_decay: float = _setting(Group.REGULARIZATION, 0.01, ge=0, allow_inf_nan=False)
    """AdamW's decay of kernels and embeddings"""

    batch_size: int = _setting(Group.OPTIMIZATION, 32, ge=1, le=4096)
    """sequences trained in parallel; windows for a bidirectional model"""
    sequence_length: int = _setting(Group.OPTIMIZATION, 100, ge=1, le=100_000)
    """steps of truncated backpropagation through time; the state is carried to the next update"""
    state_reset_probability: Rate = _setting(Group.OPTIMIZATION, 0.05)
    """probability that a sequence starts an update from the zero state, as a prompt does"""
    learning_rate: float = _setting(Group.OPTIMIZATION, 4e-3, gt=0, le=1)
    """maximum learning rate"""
    warmup: Rate = _setting(Group.OPTIMIZATION, 0.05)
    """fraction of the run in which the learning rate rises to its maximum; in the second half it decays linearly"""
    clip_norm: float = _setting(Group.OPTIMIZATION, 1.0, gt=0, allow_inf_nan=False)
    """maximum global norm of the gradients"""
    ema: Rate = _setting(Group.OPTIMIZATION, 0.998)
    """decay per update of the exponential moving average (EMA) of the weights, which is evaluated and published; lower
    in the first updates; 0 disables it"""
    precision: Precision = _setting(Group.OPTIMIZATION, "auto")
    """dtype of the operands of matrix multiplications; auto: bfloat16 on a CPU with instructions for it, otherwise
    float32"""
    seed: int = _setting(Group.OPTIMIZATION, 0, ge=0, lt=2**31)
    """seed of the initial weights, dropout, the order of the batches and the choice of validation documents"""

    epochs: int | None = _setting(
        Group.STOPPING, None, ge=1, shown_default=f"{DEFAULT_EPOCHS} without --max-minutes, otherwise no limit"
    )
    """maximum number of epochs; replaces the time limit of a recipe"""
    max_minutes: float | None = _setting(Group.STOPPING, None, gt=0, allow_inf_nan=False, shown_default="no limit")
    """time limit of the run, at which the learning rate schedule ends; with --epochs, the run ends at whichever limit
    comes first"""
    patience: int = _setting(Group.STOPPING, 0, ge=0)
    """early stopping after this many consecutive epochs without improvement; 0 disables it"""

    training_filter: bool = _setting(Group.OUTPUT, default=True)
    """publish a Bloom filter of the training split, which recognizes copies of it in generated text; anyone who has it
    can test whether a given text was trained on"""
    job: str | None = _setting(Group.OUTPUT, None, metavar="ID", pattern=ID_PATTERN, shown_default="none")
    """id of the job that this run belongs to, which the card of the published version names"""
    tensorboard: bool = _setting(Group.OUTPUT, default=False)
    """write losses and learning rate for TensorBoard to the run's directory"""

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("token_regex") is not None:
            values = {"token_unit": "regex", **values}
        if isinstance(values, dict) and values.get("label_column") is not None:
            values = {"documents": "records", **values}
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _require_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic takes true for 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise _refusal("must not be true or false")
        return value

    @field_validator("token_regex", "label_column", mode="before")
    @classmethod
    def _accept_one(cls, values: Any) -> Any:
        return (values,) if isinstance(values, str) else values

    @field_validator("label_column")
    @classmethod
    def _require_distinct(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and len(set(names)) < len(names):
            raise _refusal("must name each column once")
        if any("\0" in name for name in names or ()):
            raise _refusal("must not have the character NUL")
        return names

    @field_validator("token_regex")
    @classmethod
    def _require_usable_regexes(cls, regexes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            join_regexes(regexes or ())
        except TokenizerError as error:
            raise _refusal(str(error)) from error
        return regexes

    @field_validator("num_words", "vocab_size")
    @classmethod
    def _require_matching_unit(cls, limit: int | None, info: ValidationInfo) -> int | None:
        units, unit = _UNITS_OF_LIMIT[info.field_name or ""], info.data.get("token_unit")
        # A base determines the unit, which is compared with the given one later.
        is_known = unit is not None and info.data.get("base") is None
        if limit is not None and is_known and unit not in units:
            raise _refusal(
                f"applies only to token_unit = {', '.join(units[:-1])} or {units[-1]}, but token_unit is {unit}"
            )
        if limit is not None and info.field_name == "vocab_size" and info.data.get("num_words") is not None:
            raise _refusal("cannot be combined with num_words, which limits the same vocabulary")
        return limit

    @model_validator(mode="after")
    def _require_consistent_settings(self) -> "TrainConfig":
        if self.base is not None and self.embedding_init is not None:
            raise _refusal("embedding_init cannot be combined with from")
        inputs = [name for name in ("corpus", "mix", "validation_corpus") if getattr(self, name) == "-"]
        if len(inputs) > 1:
            raise _refusal(f"{inputs[0]} and {inputs[1]} are both -: standard input can be read only once")
        if self.label_column is not None and self.documents != "records":
            raise _refusal(f"label_column requires documents = records, got {self.documents}")
        if self.label_column is not None and self.bidirectional:
            raise _refusal("label_column cannot be combined with bidirectional: a label would leave the sliding window")
        if self.base is not None:
            # Its architecture comes from the base.
            return self
        if self.token_regex is not None and self.token_unit != "regex":
            raise _refusal(f"token_regex contradicts token_unit = {self.token_unit}")
        if self.token_regex is None and self.token_unit == "regex":
            raise _refusal(f"token_unit = regex requires token_regex, such as {', '.join(PRESETS)}")
        if self.bidirectional and self.connections != "none":
            raise _refusal("connections must be none with bidirectional")
        if self.connections != "none" and self.layers == 1:
            raise _refusal(f"connections = {self.connections} requires at least 2 layers")
        if self.freeze_embedding and self.embedding_init is None:
            raise _refusal("freeze_embedding requires embedding_init")
        if self.context_length is not None and not self.bidirectional:
            raise _refusal("context_length applies only to bidirectional models")
        return self

    @property
    def max_epochs(self) -> int | None:
        """Maximum number of epochs; None where only `max_minutes` ends the run."""
        return DEFAULT_EPOCHS if self.epochs is None and self.max_minutes is None else self.epochs

    def validation_fraction(self, num_characters: int) -> float:
        """Return the fraction of a corpus of this length that is held out, unless there is a validation corpus."""
        if self.validation is not None:
            return self.validation
        # A sliding-window model computes a whole window for each token.
        return min(_VALIDATION, _MAX_HELD_OUT / (self.window_length or 1) / num_characters)

    @property
    def window_length(self) -> int | None:
        """Context length of a sliding-window model, in tokens; None for a model that carries state."""
        return (self.context_length or DEFAULT_CONTEXT) if self.bidirectional else None


def training_speed() -> float:
    """Return how fast this machine trains, relative to what the recipes assume: 1 with AMX or a GPU."""
    if has_gpu() or has_amx():
        return 1.0
    return _SPEED_WITHOUT_AMX if multiplies_bfloat16() else _SPEED_WITHOUT_BFLOAT16


def recipe_for(minutes: float, corpus: str | None = None) -> str:
    """Return the name of the recipe for a run of this length: the shortest that is made for at least half of it.

    On a slow CPU the minutes count less, as the run reads less text: a recipe with more units than it can train would
    end with a higher loss. A short corpus, which a larger model would memorize, has the default recipe.
    """

    def lasts(recipe: str) -> float:
        # Rounded up, as the last validation takes the rest of a minute.
        return math.ceil(tomllib.loads(RECIPES[recipe].read_text())["max_minutes"])

    if corpus is not None and _num_characters(corpus) < _MIN_CHARACTERS_OF_LARGER_RECIPES:
        return DEFAULT_RECIPE
    minutes *= training_speed()
    return next((name for name in RECIPES_BY_MINUTES if minutes <= 2 * lasts(name)), RECIPES_BY_MINUTES[-1])


def recipe_path(text: str) -> Path:
    """Return the path of a file of settings, or of the recipe of this name."""
    path = Path(text)
    # A directory of texts may have the name of a recipe.
    return RECIPES.get(text, path) if path.is_dir() or not path.exists() else path


def load_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """Read a TOML file and override its values with those of the command line.

    The name is by default that of the corpus, without its directory and suffix.

    Raises:
        ConfigError: the file cannot be read, a field is missing, unknown or out of range, or two overrides exclude
            each other.
    """
    values = _read_toml(path)
    recipe = None if path is None else next((name for name, file in RECIPES.items() if file.samefile(path)), None)
    from_file = dict(values)
    corpus = overrides.get("corpus", values.get("corpus"))
    if isinstance(corpus, str) and corpus.lower().endswith(RECORDS) and "documents" not in values:
        overrides = {"documents": "records", **overrides}
    if overrides.get("token_regex") is not None:
        # Not the name in the file, such as a recipe's.
        values.pop("token_unit", None)
    if overrides.get("validation") is not None:
        # It replaces another text that the file names.
        values.pop("validation_corpus", None)
    if overrides.get("corpus") is not None and recipe is not None:
        # That of the recipe's own corpus.
        values.pop("name", None)
    has_documents = overrides.get("documents", "none") != "none" or overrides.get("label_column") is not None
    if has_documents and recipe is not None:
        # Recipes aim at the loss of one running text, but every document is generated from the zero state.
        values.pop("state_reset_probability", None)
    if recipe is not None and (overrides.get("cell") == "simple_rnn" or overrides.get("bidirectional")):
        # Recipes' rates are for LSTMs and GRUs that carry state: with 1e-2 a SimpleRNN ends 0.05 higher than with the
        # default of 4e-3. A bidirectional model has one target per window, and thus noisier gradients.
        values.pop("learning_rate", None)
    if recipe is not None and overrides.get("epochs") is not None:
        # The caller's length of the run, instead of the recipe's.
        values.pop("max_minutes", None)
    values |= overrides
    if {"validation", "validation_corpus"} <= overrides.keys() and values.get("mix") is None:
        raise ConfigError(
            "validation and validation_corpus exclude each other: a fraction of the corpus is held out, or another text"
        )
    if isinstance(corpus, str) and Path(corpus).stem not in {"", "-"}:
        values.setdefault("name", Path(corpus).stem)
    config = validated(values)
    if recipe in _RECIPE_PASSES:
        adapted = _adapted(config, recipe, from_file)
        config = config.model_copy(update={name: value for name, value in adapted.items() if name not in overrides})
    return config


def _read_toml(path: Path | None) -> dict[str, Any]:
    try:
        return {} if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _adapted(config: TrainConfig, recipe: str, from_file: dict[str, Any]) -> dict[str, float]:
    """Return a recipe's dropout rates, learning rate, units and epochs, adapted to run, text and CPU.

    With few passes, as a text is long, a run short or a CPU slow, nothing is memorized: tiny Shakespeare, read twice,
    ended with 1.474 nats per character without dropout, and with 1.521 at the recipe's rate of 0.2. With many, the best
    epoch is lower at a higher rate: 1.326 at 0.4, after twelve passes over 300,000 characters, and 1.332 at 0.2. So
    dropout grows with the logarithm of the passes, and that of words and subwords, of which a text has fewer than
    characters, starts earlier. At a high learning rate few passes learn more, and many memorize sooner: two over tiny
    Shakespeare ended with 1.435 at 0.01, and 1.470 at 0.004. With recurrent dropout the default recipe keeps its rate:
    30 passes over 100,000 characters ended with 1.379, and with 1.412 at 0.004 without.

    Fewer units train faster, and learn less from the same text. Below half of the default recipe's computation its
    units grow with the fourth root of it, so that weights and tokens grow alike (Hoffmann et al. 2022, arXiv
    2203.15556): with a quarter, tiny Shakespeare ended with 1.432 at 384 units, 1.439 at 256 and 1.445 at 512
    (`benchmarks/HISTORY.md`).
    """
    without, usual = _RECIPE_PASSES[recipe]
    passes: float = usual
    computation = 1.0
    if config.max_minutes is not None:
        computation = training_speed() * config.max_minutes / from_file["max_minutes"]
        # A sliding-window model computes its window in both directions for each token.
        cost = 2 * config.window_length if config.window_length else 1
        passes *= computation / cost * _RECIPE_CHARACTERS / _num_characters(config.corpus)
    if config.epochs is not None:
        passes = config.epochs if config.max_minutes is None else min(passes, config.epochs)
    factor = math.log(passes / without) / math.log(usual / without)
    factor = min(max(factor, 0.0), _MAX_DROPOUT_FACTOR if recipe == DEFAULT_RECIPE else 1.0)
    rates = {name: round(from_file.get(name, 0.0) * factor, 3) for name in _DROPOUT}
    if recipe != DEFAULT_RECIPE:
        lowest = TrainConfig.model_fields["learning_rate"].default
        share = min(1, _PASSES_AT_FULL_RATE / passes) ** 1.5
        rates["learning_rate"] = round(max(lowest, config.learning_rate * share), 4)
    elif config.epochs is None and passes > _MAX_PASSES:
        return {**rates, "epochs": _MAX_PASSES}
    elif computation < _FULL_UNITS_FROM and passes < usual and config.base is None:
        return {**rates, "units": max(1, round(config.units * computation**0.25 / _UNITS_STEP)) * _UNITS_STEP}
    return rates


def _num_characters(corpus: str) -> int:
    """Estimate the length of a corpus; the usual one if it is unknown or zero."""
    if corpus in NUM_CHARACTERS:
        return NUM_CHARACTERS[corpus]
    path = Path(corpus)
    files = path.rglob("*") if path.is_dir() else [path]
    shown = (file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts))
    # That of standard input is unknown.
    return sum(_estimated_characters(file) for file in shown if file.is_file()) or _RECIPE_CHARACTERS


def _estimated_characters(path: Path) -> int:
    try:
        with path.open("rb") as file:
            start, size = file.read(_SAMPLED_BYTES), os.fstat(file.fileno()).st_size
    except OSError:
        # The reader of the corpus reports it.
        return 0
    return size * len(start.translate(None, CONTINUATIONS)) // max(1, len(start))


def architecture_of(card: GeneratorCard) -> dict[str, Any]:
    """Return the settings of a model fine-tuned from the version of this card; see `ARCHITECTURE`."""
    if card.training is not None:
        defaults = {name: TrainConfig.model_fields[name].default for name in ARCHITECTURE}
        own = {name: card.training.settings.get(name, default) for name, default in defaults.items()}
        # JSON has no tuples.
        return {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
    known = ("cell", "layers", "units", "embedding", "direction")
    return {"token_unit": card.unit, **{name: getattr(card, name) for name in known}}


def require_architecture(config: TrainConfig, card: GeneratorCard, base: str) -> None:
    """Raise ConfigError if a setting that was given contradicts the architecture of the base, NAME:VERSION."""
    own = architecture_of(card)
    # What None stands for.
    defaults = {"context_length": DEFAULT_CONTEXT} if own.get("bidirectional") else {}
    defaults |= {"vocab_size": DEFAULT_VOCAB_SIZE} if own["token_unit"] == "subword" else {}
    for name in ARCHITECTURE:
        both = getattr(config, name), own.get(name, TrainConfig.model_fields[name].default)
        given, value = (defaults.get(name) if each is None else each for each in both)
        if name in config.model_fields_set and given != value:
            raise ConfigError(
                f"{name} = {_text(given)} contradicts {base}, which has {name} = {_text(value)}: a fine-tuned model "
                f"has the architecture and the tokens of its base; leave {name} out"
            )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    names = {None: "none", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else str(value)


def validated(values: dict[str, Any]) -> TrainConfig:
    """Return the settings with these values by name.

    Raises:
        ConfigError: a field is missing, unknown or out of range.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        if values.get("corpus") is None:
            # The corpus would give the name, too.
            problems = [problem for problem in problems if (problem["loc"], problem["type"]) != (("name",), "missing")]
        raise ConfigError("; ".join(map(_explain, problems))) from error


def _explain(problem: Any) -> str:
    if not problem["loc"]:
        return str(problem["msg"])
    field = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{field} is required ({'CORPUS' if field == 'corpus' else '--name'})"
    if problem["type"] == "extra_forbidden":
        names = (info.alias or name for name, info in TrainConfig.model_fields.items())
        return f"{field} is not a setting; settings are {', '.join(names)}"
    if problem["type"] == "string_pattern_mismatch":
        rule = "1 to 64 letters, digits, dots, dashes and underscores, the first one a letter or a digit"
        return f"{field}: must be {rule}, got {problem['input']!r}; choose another with --name"
    return f"{field}: {problem['msg']}, got {problem['input']!r}"
