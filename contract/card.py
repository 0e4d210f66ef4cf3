"""The generator card: the metadata of a published version, in `assets.extra/generator.json`."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract import signatures
from contract.errors import ContractError, first_problem
from contract.files import read_file
from contract.label_columns import LabelColumn
from contract.tokenizers import Tokenizer, load_tokenizer

Cell = Literal["simple_rnn", "lstm", "gru"]
Unit = Literal["character", "word", "exact_word", "subword", "regex"]
Direction = Literal["forward", "backward"]
# What a training filter recognizes; see `contract.training_filter`.
FilterKind = Literal["documents", "spans"]
HeldOut = Literal["tail", "shuffled_documents", "validation_corpus"]
# Why a version that was trained here has no training filter: by its settings, for its size, or the corpus was gone when
# it was published.
NoTrainingFilter = Literal["disabled", "too_many_documents", "no_corpus"]
Count = Annotated[int, Field(ge=1)]
FORMAT: Literal[4] = 4
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Activation(NamedTuple):
    """A state or gate of a layer that `inspect` returns at each token: float32 (batch, T, units).

    Attributes:
        kind: `contract.signatures.HIDDEN`, `CELL`, `FORGET` or another of these constants.
        layer: Number of the recurrent layer, from 1; 0 for the top of a sliding-window model.
    """

    kind: str
    layer: int
    units: int

    @property
    def output(self) -> str:
        """Name of the signature's output."""
        return f"{self.kind}_{self.layer}"


class Sample(_Frozen):
    """A sample completion of a model.

    Attributes:
        given: The prompt, for a backward model the suffix: an excerpt of the validation split, or of the training text
            if there was none; empty if neither was available, if documents are as short as an excerpt, and with labels.
        text: The completion, without `given`.
        labels: Labels that the text was given, by label column.
    """

    temperature: float
    given: str
    text: str
    labels: dict[str, str] = {}


class MixedText(_Frozen):
    """The text that was mixed into a training.

    Attributes:
        corpus: Its name on the command line.
        corpus_characters: Its length; a share of it, as of the corpus, was held out.
        tokens: Tokens of it per epoch, which are part of `train_tokens`.
    """

    corpus: str
    corpus_sha256: str
    corpus_characters: int
    tokens: int


class Provenance(_Frozen):
    """Where a corpus of the project comes from.

    Attributes:
        title: What it is.
        package: The package that has it, with its version.
        license: The terms of the text, not those of the package's code.
        num_bytes: Length of its files.
        works: The title of each work.
    """

    title: str
    package: str
    license: str
    num_bytes: int
    works: tuple[str, ...]


class Ancestor(_Frozen):
    """A version that another one was fine-tuned from.

    Attributes:
        weights_sha256: `weights_sha256` of its card.
        corpus: What it was trained on; None for an imported model.
    """

    name: str
    version: int
    weights_sha256: str
    corpus: str | None = None
    corpus_sha256: str | None = None

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.version}"


class Lineage(_Frozen):
    """What a fine-tuned version comes from.

    Attributes:
        ancestors: Its base, then the base of that one, and so on.
        added_tokens: Tokens that the base did not have.
    """

    ancestors: tuple[Ancestor, ...] = Field(min_length=1)
    added_tokens: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        return self.ancestors[0].reference


class CorpusDescription(_Frozen):
    """The corpus of a training run and its split.

    Attributes:
        corpus: Name of the corpus on the command line.
        corpus_characters: Length of its text, including a validation split of it.
        held_out_characters: Length of the validation split, which the tokenizer and the training never saw.
        held_out: How the split was made: the "tail" of a running text, or "shuffled_documents": the last documents
            after a shuffle by `seed`; or "validation_corpus": it is another text. None without a split, and so is
            `held_out_sha256`.
        train_tokens: Tokens per epoch.
        validation_tokens: Tokens of the validation split that are in the vocabulary; the losses are means over these.
        validation_characters: Characters of these tokens; see `export.corpora.bits_per_character`.
        ngram_order: Length of the n-grams of the best n-gram model of the training split; None without a validation
            split, and for versions older than this field.
        ngram_loss: Its loss on the validation split, in nats per token; see `export.corpora.ngrams`.
        mixed: Text that was mixed in; None without.
        provenance: Where a corpus of the project comes from; None for a text of the user's.
        label_columns: What the model is conditioned on, in the order of the tokens before a document.
    """

    corpus: str
    corpus_sha256: str
    corpus_characters: int
    held_out_characters: int
    held_out: HeldOut | None
    held_out_sha256: str | None
    train_tokens: int
    validation_tokens: int
    validation_characters: int
    ngram_order: int | None = None
    ngram_loss: float | None = None
    mixed: MixedText | None = None
    provenance: Provenance | None = None
    label_columns: tuple[LabelColumn, ...] = ()


class TrainingReport(CorpusDescription):
    """Settings and results of the training run. Losses are mean negative log likelihoods in nats per token.

    Attributes:
        validation_loss: None without a validation split, and so are accuracy and bits per character.
        accuracy: Top-1 accuracy on the validation tokens.
        bits_per_character: The validation loss in bits per character of its tokens.
        seconds: Wall time of the training, without the export.
        settings: Every training setting, by its name in `export.config.TrainConfig`.
        copied_spans: Memorization: share of the 8-grams of words in longer samples at temperature 1 that occur in the
            training text; None if there are too few, or the text was unavailable.
        written_spans: Number of such 8-grams; None if the text was unavailable.
        no_training_filter: Why the version has no training filter; None if it has one, or is older than they are.
        lineage: What a fine-tuned version comes from; None for one that was trained from scratch.
        base_loss: Validation loss of its base on the same split; None without either.
    """

    epochs: float
    train_loss: float
    validation_loss: float | None
    accuracy: float | None
    bits_per_character: float | None
    tokens_per_s: float
    seconds: float
    seed: int
    parameters: int
    settings: dict[str, Any]
    samples: tuple[Sample, ...]
    copied_spans: float | None
    written_spans: int | None
    no_training_filter: NoTrainingFilter | None = None
    lineage: Lineage | None = None
    base_loss: float | None = None


class PrecisionCheck(_Frozen):
    """The loss of a version on a text in each precision of its signatures: mean negative log likelihoods in nats.

    `tokens` is the length of the text: of the validation split, or sampled from the model itself.
    """

    text: Literal["held_out", "sampled"]
    tokens: Count
    float32: float
    bfloat16: float

    @property
    def difference(self) -> float:
        """The cost of bfloat16 in nats per token."""
        return self.bfloat16 - self.float32


class Discovery(_Frozen):
    """A unit that follows a feature of a text that the model was not trained on.

    Attributes:
        feature: "brackets", "quotes", "line", "word" or "upper"; see `export.graphs.unit_search`.
        layer: Number of the recurrent layer, from 1; 0 for the top of a sliding-window model.
        kind: `contract.signatures.HIDDEN` or `CELL`.
        unit: Its index in the layer.
        ranked: Pearson's correlation on the half of the text by which the units were ranked.
        validated: The same on the other half.
    """

    feature: str
    layer: int
    kind: str
    unit: int
    ranked: float
    validated: float

    @property
    def strength(self) -> float:
        """The weaker of the two correlations, without its sign; 0 if the signs differ."""
        return min(abs(self.ranked), abs(self.validated)) if self.ranked * self.validated > 0 else 0.0


class HeldOutScores(_Frozen):
    """Scores of texts that the model was not trained on, each by itself, as `/v1/score` computes them.

    Attributes:
        kind: "documents", or "lines" of a corpus that is one running text.
        num_texts: Number of texts.
        quantiles: Nats per character: the minimum, each percentile, and the maximum; 101 numbers.
    """

    kind: Literal["documents", "lines"]
    num_texts: Count
    quantiles: tuple[float, ...] = Field(min_length=101, max_length=101)


class TrainingFilterDescription(_Frozen):
    """The training filter of a version; see `contract.training_filter.TrainingFilter` for the attributes.

    `sha256` is the hash of the file.
    """

    kind: FilterKind
    num_entries: int
    span_tokens: int
    stride: Count
    false_positive_rate: float
    sha256: str


class GeneratorCard(_Frozen):
    """Metadata of a version: what the gateway needs to call it, and users to evaluate it.

    Attributes:
        cell: None if the recurrent layers are of several kinds or unknown.
        layers: Number of recurrent layers; 0 if unknown.
        units: U, width of the top layer's output.
        embedding: Width of the embedding; 0 if unknown.
        direction: "backward": the model generates right to left, the text before `suffix`.
        context: Window length in tokens of a sliding-window model; None for a model with carried state.
        state_size: S, floats of state per sequence.
        vocab_size: V, rows of the output layer.
        weights_sha256: Hash of the weights' names, shapes and bytes: versions with equal hashes are the same model.
        code_sha256: Hash of the code that built the graph of the signatures: the sampled tokens depend on it, too.
        activations: Outputs of `inspect`; `traces` in the file.
        max_decode_steps: Maximum K of a `decode` call.
        max_prefill_length: Maximum T of a `prefill` call.
        num_top: Number of most probable tokens that `decode_full` and `score` return at each position.
        revision: Of the signatures; 1 in a card that does not say it, and versions of another one are not served.
        training: None for an imported model.
        precision_check: The cost of bfloat16; None for a version without signatures in bfloat16.
        training_filter: None for a version without one, such as an imported model.
        held_out_scores: None for a version without enough held-out text.
        discoveries: Units that follow a feature of held-out text, one of each kind of feature; none without such text,
            and None for a version that was not searched.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    format: Literal[4] = FORMAT
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
    activations: tuple[Activation, ...] = Field(alias="traces", min_length=1)
    batch_sizes: tuple[Count, ...] = signatures.BATCH_SIZES
    max_decode_steps: Count = signatures.MAX_DECODE_STEPS
    max_prefill_length: Count = signatures.MAX_PREFILL_LENGTH
    num_top: Count = signatures.NUM_TOP
    revision: Literal[3] = Field(1, validate_default=True)
    training: TrainingReport | None = None
    precision_check: PrecisionCheck | None = None
    training_filter: TrainingFilterDescription | None = None
    held_out_scores: HeldOutScores | None = None
    discoveries: tuple[Discovery, ...] | None = None

    @property
    def base(self) -> str | None:
        """NAME:VERSION that it was fine-tuned from; None for a model that was trained from scratch or imported."""
        return self.training.lineage.base if self.training and self.training.lineage else None

    @property
    def label_columns(self) -> tuple[LabelColumn, ...]:
        """What it is conditioned on; none for an imported model."""
        return self.training.label_columns if self.training else ()

    @property
    def has_short_documents(self) -> bool:
        """Whether it was trained on short documents, such as the lines of a list.

        By the scores of held-out texts or, with fewer than they need, by the kind of the training filter.
        """
        known = self.held_out_scores or self.training_filter
        return known is not None and known.kind == "documents"

    def example_request(self, **fields: Any) -> str:
        """Return the JSON of a request with these fields and the prompt and labels of a sample, quoted for a shell."""
        samples = self.training.samples if self.training else ()
        sample = next((each for each in samples if each.given or each.labels), samples[0] if samples else None)
        prompt = {"suffix" if self.direction == "backward" else "prompt": sample.given if sample else "The "}
        labels = {"labels": sample.labels} if sample and sample.labels else {}
        body = {"model": self.name, **prompt, **labels, **fields}
        text = json.dumps(body, ensure_ascii=False)
        return shlex.quote(text if text.isprintable() else json.dumps(body))

    @property
    def precisions(self) -> tuple[signatures.PrecisionName, ...]:
        """The precisions that it has signatures for."""
        return (signatures.FLOAT32, signatures.BFLOAT16) if self.precision_check else (signatures.FLOAT32,)

    @model_validator(mode="after")
    def _validate_batch_sizes(self) -> "GeneratorCard":
        if not self.batch_sizes or list(self.batch_sizes) != sorted(set(self.batch_sizes)):
            raise ValueError(f"batch_sizes must ascend and not be empty, got {self.batch_sizes}")
        if self.batch_sizes[-1] > signatures.MAX_BATCH_SIZE:
            raise ValueError(f"batch_sizes must not exceed {signatures.MAX_BATCH_SIZE}, got {self.batch_sizes[-1]}")
        return self


def load_assets(version_dir: Path) -> tuple[GeneratorCard, Tokenizer]:
    """Load the card and the tokenizer of a published version, `models/<name>/<version>`.

    Raises:
        ContractError: a file is missing, damaged or of another format, or the two do not match.
    """
    path = version_dir / signatures.ASSETS / signatures.CARD_FILE
    try:
        card = GeneratorCard.model_validate_json(read_file(path))
    except OSError as error:
        raise ContractError(f"{path}: {error.strerror or error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        if problem["loc"] in (("format",), ("revision",)) and isinstance(problem["input"], int):
            raise _other_format(f"{problem['loc'][0]} {problem['input']}", version_dir) from error
        raise ContractError(f"{path}: not a generator card ({first_problem(error)})") from error
    tokenizer = load_tokenizer(path.with_name(signatures.TOKENIZER_FILE))
    if len(tokenizer.tokens) > card.vocab_size or tokenizer.unit != card.unit:
        raise ContractError(
            f"{path}: vocab_size {card.vocab_size} of unit {card.unit!r} does not fit a tokenizer of "
            f"{len(tokenizer.tokens)} tokens of unit {tokenizer.unit!r}"
        )
    return card, tokenizer


def _other_format(found: str, version_dir: Path) -> ContractError:
    name, models_dir = version_dir.parent.name, version_dir.parent.parent
    command = ["sostenuto", "publish", f"runs/{name}", "--models-dir", str(models_dir)]
    return ContractError(
        f"{version_dir}: exported in {found}, but this release reads format {FORMAT}, revision {signatures.REVISION}; "
        f"export it again with: {shlex.join(command)}"
    )
