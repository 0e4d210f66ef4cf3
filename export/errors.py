"""What can go wrong between a corpus and a published version.

ExportError
├── ConfigError       a setting is unknown, of the wrong type or out of its bounds
├── CorpusError       the text cannot be read, or there is too little of it
├── NotText           bytes are binary, damaged or in another encoding than UTF-8
├── UnsupportedModel  a Keras model has a layer or an option that the signatures do not cover
│   ├── NotFinite     a weight is NaN or infinite
│   └── UnknownCode   a Keras model holds code that is not Keras's own
├── CheckFailed       the exported graph does not compute what the Keras model computes
├── RunError          the folder of a training is damaged, in use or not a training's
├── TrainingFailed    the loss is not a number, or the model does not fit into memory
├── WorkerLost        of several processes that train together, one is gone
├── PublishError      a version cannot be written into the model repository, or its models.config cannot be read
└── RepositoryError   the model repository has no such version, or one that is damaged or cannot be removed
"""


class ExportError(Exception):
    """Ends the command with one line; the message says what was wrong with what."""


class ConfigError(ExportError):
    """A setting is unknown, of the wrong type or out of its bounds."""


class CorpusError(ExportError):
    """The text cannot be read, or there is too little of it."""


class NotText(ExportError):
    """Bytes are binary, damaged or in another encoding than UTF-8."""


class UnsupportedModel(ExportError):
    """A Keras model has a layer or an option that the signatures do not cover."""


class NotFinite(UnsupportedModel):
    """A weight is NaN or infinite."""


class UnknownCode(UnsupportedModel):
    """A Keras model holds code that is not Keras's own, which is not run."""


class CheckFailed(ExportError):
    """The exported graph does not compute what the Keras model computes; nothing is published."""


class RunError(ExportError):
    """The folder of a training is damaged, in use or not a training's."""


class TrainingFailed(ExportError):
    """The loss is not a number, or the model does not fit into memory."""


class WorkerLost(ExportError):
    """Of several processes that train together, one is gone."""


class PublishError(ExportError):
    """A version cannot be written into the model repository, or its models.config cannot be read."""


class RepositoryError(ExportError):
    """The model repository has no such version, or one that is damaged or cannot be removed."""
