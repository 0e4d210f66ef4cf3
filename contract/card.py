"""The generator card: what a published version says about itself, in `assets.extra/generator.json`.

Knows the fields and their bounds. Does not know how a model is trained or called.
"""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract import signatures
from contract.errors import CardError, ContractError
from contract.tokenizer import Tokenizer, load_tokenizer

Cell = Literal["simple_rnn", "lstm", "gru"]
Unit = Literal["character", "word", "exact_word", "subword"]
Direction = Literal["forward", "backward"]
HeldOut = Literal["tail", "shuffled_documents"]
Count = Annotated[int, Field(ge=1)]
# 2: with the signatures `decode_full` and `embed`.
FORMAT: Literal[2] = 2
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Format(_Frozen):
    format: int = FORMAT


class Trace(NamedTuple):
    """One thing that the signature `inspect` tells of each token, as an output of its own: float32 (batch, T, units).

    Attributes:
        kind: `contract.signatures.HIDDEN` and its like.
        layer: Number of the recurrent layer, from 1; 0 for the top of a model whose layers are not looked into.
        units: Width.
    """

    kind: str
    layer: int
    units: int

    @property
    def output(self) -> str:
        """Name of the signature's output."""
        return f"{self.kind}_{self.layer}"


class Sample(_Frozen):
    """What a model makes of the beginning of a text, or before its end if it reads backwards.

    Attributes:
        given: A piece of the held-out text, or of the training text where nothing was held out; empty where neither was
            at hand, and the model began from nothing.
        text: What the model wrote; it does not hold `given`.
    """

    temperature: float
    given: str
    text: str


class TrainingReport(_Frozen):
    """How the version came to be. Losses are mean negative log likelihoods in nats per token.

    What has a default is not known of versions that an earlier release trained.

    Attributes:
        corpus: What the corpus was called on the command line.
        corpus_sha256: Hash of its text.
        corpus_characters: Length of its text, the held-out part included.
        held_out_characters: Length of what was held out, which the tokenizer and the training never saw.
        held_out: How that was chosen: the "tail" of a running text, or "shuffled_documents": the last ones after a
            shuffle by `seed`. None where nothing was, and for an earlier release, which held out the tail of all.
        held_out_sha256: Hash of that text.
        train_tokens: Tokens of an epoch.
        validation_tokens: Tokens of the held-out part that the vocabulary holds; the losses are the mean over these.
        validation_loss: None where nothing was held out.
        accuracy: Share of those tokens that were the most probable one.
        bits_per_character: The validation loss over the characters that its tokens stand for, in bits; how they are
            counted is told in `export.corpora.bits_per_character`.
        seconds: Wall time of the training, without the export.
        settings: Every setting of the training, by its name in `export.config.TrainConfig`.
        samples: What the model writes, at several temperatures.
        copied_spans: Share of the runs of 8 words in longer samples at temperature 1 that stand in the training text;
            None if these are too few, or the text was not at hand.
        written_spans: How many such runs there were.
    """

    corpus: str
    corpus_sha256: str
    corpus_characters: int
    held_out_characters: int | None = None
    held_out: HeldOut | None = None
    held_out_sha256: str | None = None
    train_tokens: int
    validation_tokens: int
    epochs: float
    train_loss: float
    validation_loss: float | None
    accuracy: float | None = None
    bits_per_character: float | None = None
    tokens_per_s: float
    seconds: float
    seed: int
    parameters: int | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    copied_spans: float | None = None
    written_spans: int | None = None


class GeneratorCard(_Frozen):
    """What the gateway must know to call a version, and a person to judge it.

    Attributes:
        cell: None where the recurrent layers are of several kinds, or are not known.
        layers: Recurrent layers; 0 where they are not known.
        units: U, width of the top layer's output.
        embedding: Width of the embedding; 0 where it is not known.
        direction: "backward": the model reads texts from their end, and writes what leads up to them.
        context: Tokens that the model sees, for one whose state is the window of its last tokens; None for one that
            carries what it has read in its state.
        state_size: S, floats of state per sequence.
        vocab_size: V, rows of the output layer.
        weights_sha256: Hash of the weights' names, shapes and bytes: two versions with one hash are one model.
        code_sha256: Hash of the code that made the graph of its signatures: what is drawn depends on it too.
        traces: What `inspect` tells; empty for versions of earlier releases, which have no such signature.
        batch_sizes: Numbers of rows that the gateway may send.
        max_decode_steps: Largest K that it may send to `decode`.
        max_prefill_length: Largest T that it may send to `prefill`.
        training: None for a model that was trained elsewhere.
    """

    format: Literal[2] = FORMAT
    name: str = Field(pattern=ID_PATTERN)
    cell: Cell | None
    layers: Annotated[int, Field(ge=0)]
    units: Count
    embedding: Annotated[int, Field(ge=0)]
    state_size: Count
    vocab_size: Count
    unit: Unit
    direction: Direction = "forward"
    context: Count | None = None
    weights_sha256: str
    code_sha256: str
    tensorflow: str
    created: int
    traces: tuple[Trace, ...] = ()
    batch_sizes: tuple[Count, ...] = signatures.BATCH_SIZES
    max_decode_steps: Count = signatures.MAX_DECODE_STEPS
    max_prefill_length: Count = signatures.MAX_PREFILL_LENGTH
    training: TrainingReport | None = None

    @model_validator(mode="after")
    def _row_counts_ascend(self) -> "GeneratorCard":
        if not self.batch_sizes or list(self.batch_sizes) != sorted(set(self.batch_sizes)):
            raise ValueError(f"batch_sizes must ascend and not be empty, got {self.batch_sizes}")
        if self.batch_sizes[-1] > signatures.MAX_BATCH_SIZE:
            raise ValueError(f"batch_sizes must not exceed {signatures.MAX_BATCH_SIZE}, got {self.batch_sizes[-1]}")
        return self


def load_assets(version_dir: Path) -> tuple[GeneratorCard, Tokenizer]:
    """Read the card and the tokenizer of a published version.

    Args:
        version_dir: `models/<name>/<version>`.

    Raises:
        ContractError: a file is missing, damaged or of another format, or the two do not belong together.
    """
    path = version_dir / signatures.ASSETS / signatures.CARD_FILE
    try:
        content = path.read_bytes()
        _require_format(_Format.model_validate_json(content).format, version_dir)
        card = GeneratorCard.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise CardError(f"{path}: not a generator card ({error})") from error
    tokenizer = load_tokenizer(path.with_name(signatures.TOKENIZER_FILE))
    if len(tokenizer.tokens) > card.vocab_size or tokenizer.unit != card.unit:
        raise ContractError(
            f"{path}: vocab_size {card.vocab_size} of unit {card.unit!r} does not fit a tokenizer of "
            f"{len(tokenizer.tokens)} tokens of unit {tokenizer.unit!r}"
        )
    return card, tokenizer


def _require_format(found: int, version_dir: Path) -> None:
    if found != FORMAT:
        name, models_dir = version_dir.parent.name, version_dir.parent.parent
        command = ["python", "-m", "export", "publish", f"runs/{name}", "--models-dir", str(models_dir)]
        raise CardError(
            f"{version_dir}: exported in format {found}, and this release reads {FORMAT}; "
            f"export it again with: {shlex.join(command)}"
        )
