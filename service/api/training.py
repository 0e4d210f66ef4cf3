"""Work for trainers: the bodies that create a job and change a model, and OpenAI's objects of files and jobs."""

import re
from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import Discriminator, Field, Tag

# Before Python 3.12 pydantic supports only this TypedDict.
from typing_extensions import TypedDict

from contract.card import ID_PATTERN
from contract.models_config import LABEL_PATTERN, MAX_SHARE, PREVIOUS
from service.api.body import UNRESOLVED, Body, require
from service.api.requests import INTEGRAL
from service.settings import Settings

Auto = Literal["auto"]
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
MAX_LABELS = 16
_VERSION = "[1-9][0-9]{0,18}"
FileId = Annotated[str, Field(max_length=64, pattern="^[!-~]*$")]
_AUTO = Annotated[Auto, Tag("|auto")]
_KIND = Discriminator(lambda value: "|auto" if isinstance(value, str) else "|number")


class Hyperparameters(Body):
    """OpenAI's hyperparameters; the recipe or the base model decides those that are `auto`."""

    n_epochs: Annotated[_AUTO | Annotated[int, Field(ge=1, le=10_000), INTEGRAL, Tag("|number")], _KIND] = "auto"
    """number of epochs, instead of the recipe's time limit"""
    batch_size: Annotated[_AUTO | Annotated[int, Field(ge=1, le=4096), INTEGRAL, Tag("|number")], _KIND] = "auto"
    """sequences trained in parallel"""
    learning_rate_multiplier: Annotated[_AUTO | Annotated[float, Field(gt=0, le=100), Tag("|number")], _KIND] = "auto"
    """factor of the recipe's learning rate; without a recipe, of the default for fine-tuning"""


class Supervised(Body):
    """The method's parameters."""

    hyperparameters: Hyperparameters = Hyperparameters()
    """same as the top-level field of this name"""


class Method(Body):
    """How the model is trained."""

    type: Literal["supervised"] = "supervised"
    """the only method"""
    supervised: Supervised = Supervised()
    """its parameters"""


class FineTuningRequest(Body):
    """The body of `POST /v1/fine_tuning/jobs`."""

    model: str = Field(max_length=128)
    """a recipe, such as characters-3-minutes, for a new model; or a served model to fine-tune, NAME,
    NAME:VERSION or NAME@LABEL; the name of a recipe alone is the recipe"""
    training_file: FileId
    """id of the uploaded file"""
    validation_file: FileId | None = None
    """id of a file to validate with; by default a tenth of the training file is held out"""
    suffix: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    """name of the model; by default that of the training file"""
    seed: Annotated[int, Field(ge=0, lt=2**31), INTEGRAL] = 0
    """seed of the training"""
    hyperparameters: Hyperparameters = UNRESOLVED
    """deprecated by OpenAI in favor of `method`"""
    method: Method = Method()
    """supervised, with its hyperparameters"""
    metadata: dict[str, str] | None = None
    """up to 16 pairs, which the job returns"""
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None
    """none are supported"""
    settings: dict[str, Any] = Field(default_factory=dict)
    """settings of `sostenuto train`, by name with underscores: units, layers, max_minutes, …"""

    def resolve(self, settings: Settings) -> Self:  # noqa: ARG002 - only limits of its own
        if self.suffix is not None:
            is_name = re.fullmatch(ID_PATTERN, self.suffix) is not None
            require(is_name, "suffix", "be letters, digits, dots, dashes and underscores", self.suffix)
        pairs = self.metadata or {}
        require(len(pairs) <= MAX_METADATA, "metadata", f"have at most {MAX_METADATA} pairs", len(pairs))
        for key, value in pairs.items():
            rule = f"have keys of at most {MAX_METADATA_KEY} characters"
            require(len(key) <= MAX_METADATA_KEY, "metadata", rule, key)
            require("\0" not in key + value, "metadata", "not have the character NUL", key)
            rule = f"have values of at most {MAX_METADATA_VALUE} characters"
            require(len(value) <= MAX_METADATA_VALUE, "metadata", rule, value)
        if self.hyperparameters is UNRESOLVED:
            return self.model_copy(update={"hyperparameters": self.method.supervised.hyperparameters})
        return self


class ModelChange(Body):
    """The body of `PATCH /v1/models/{name}`."""

    labels: dict[str, Annotated[int, Field(ge=1, lt=2**63), INTEGRAL] | None] = Field(default_factory=dict)
    """version of each label that is to be moved, such as {"stable": 2}; null removes the label; other labels stay"""
    shares: dict[str, Annotated[float, Field(ge=0, le=MAX_SHARE)]] | None = None
    """traffic split of requests that name no version, by label or version, such as {"stable": 90, "canary": 10}; it
    replaces the one before, and {} ends it"""

    def resolve(self, settings: Settings) -> Self:  # noqa: ARG002 - only limits of its own
        require(bool(self.labels) or self.shares is not None, "labels", "move a label, unless there are shares")
        for name, values in (("labels", self.labels), ("shares", self.shares or {})):
            require(len(values) <= MAX_LABELS, name, f"have at most {MAX_LABELS} entries", len(values))
        for label in self.labels:
            is_label = re.fullmatch(LABEL_PATTERN, label) is not None and label != PREVIOUS
            rule = (
                f"have keys of 1 to 32 lower-case letters, digits, - and _, but not {PREVIOUS}, which is set by itself"
            )
            require(is_label, "labels", rule, label)
        for target in self.shares or ():
            is_target = re.fullmatch(f"{_VERSION}|{LABEL_PATTERN}", target) is not None
            require(is_target, "shares", "have labels or numbers of versions as keys", target)
        if self.shares:
            require(sum(self.shares.values()) > 0, "shares", "have a share above 0", self.shares)
        return self


class FileObject(TypedDict):
    """An uploaded file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["fine-tune"]
    status: Literal["processed"]
    status_details: None


class FileList(TypedDict):
    """A page of the files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedObject(TypedDict):
    """The record of a deletion."""

    id: str
    object: str
    deleted: Literal[True]


class JobError(TypedDict):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class HyperparametersObject(TypedDict):
    """Hyperparameters, as they were requested."""

    n_epochs: Auto | int
    batch_size: Auto | int
    learning_rate_multiplier: Auto | float


class SupervisedObject(TypedDict):
    """The method's parameters."""

    hyperparameters: HyperparametersObject


class MethodObject(TypedDict):
    """How the model is trained."""

    type: Literal["supervised"]
    supervised: SupervisedObject


class FineTuningJob(TypedDict):
    """A fine-tuning job; `fine_tuned_model` is null until it has succeeded.

    `version`, `settings` and `trained_s`, the seconds that it has trained, are extensions.
    """

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    error: JobError | None
    model: str
    fine_tuned_model: str | None
    version: int | None
    organization_id: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    seed: int
    trained_tokens: int | None
    trained_s: float
    hyperparameters: HyperparametersObject
    method: MethodObject
    settings: dict[str, Any]
    user_provided_suffix: str | None
    integrations: list[Any]
    metadata: dict[str, str] | None


class TrainingMinutesObject(TypedDict):
    """Minutes of training that count toward the tenant's quota.

    Attributes:
        limit: of 24 hours
        trained: by jobs that have ended in the last 24 hours
        reserved: for unfinished jobs: their `max_minutes`, or what they have trained, if that is more
    """

    limit: float
    trained: float
    reserved: float


class FineTuningJobList(TypedDict):
    """A page of the jobs; `training_minutes` is an extension."""

    object: Literal["list"]
    data: list[FineTuningJob]
    has_more: bool
    training_minutes: TrainingMinutesObject


class FineTuningEvent(TypedDict):
    """An event of a job. The data of type `metrics` have losses in nats per token, and samples after an epoch."""

    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: str
    data: NotRequired[dict[str, Any]]


class FineTuningEventList(TypedDict):
    """A page of the events."""

    object: Literal["list"]
    data: list[FineTuningEvent]
    has_more: bool


class CheckpointMetrics(TypedDict):
    """Metrics of a checkpoint; losses are in nats per token."""

    step: int
    train_loss: float
    valid_loss: float | None
    valid_mean_token_accuracy: float | None


class FineTuningCheckpoint(TypedDict):
    """The published checkpoint, from the best epoch; its step is the number of the epoch."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics


class FineTuningCheckpointList(TypedDict):
    """The checkpoints that completions accept as a model."""

    object: Literal["list"]
    data: list[FineTuningCheckpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool
