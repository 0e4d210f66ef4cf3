"""Exceptions of the exporter."""


class ExportError(Exception):
    """Base class; the command prints the one-line message and exits with 1."""


class ConfigError(ExportError):
    """A setting is unknown, has the wrong type or is out of range."""


class CorpusError(ExportError):
    """The corpus cannot be read or is too small."""


class NotText(ExportError):
    """The input is binary, damaged or not UTF-8."""


class UnsupportedModel(ExportError):
    """The signatures do not support a layer or an option of the Keras model."""


class NotFinite(UnsupportedModel):
    """A weight is NaN or infinite."""


class UnknownCode(UnsupportedModel):
    """The Keras model contains code that is not Keras's own; it is not run."""


class CheckFailed(ExportError):
    """The exported graph does not compute what the Keras model computes; nothing is published."""


class RunError(ExportError):
    """The run directory is damaged, in use or not a run directory."""


class TrainingFailed(ExportError):
    """The loss is not a number, or the model does not fit into memory."""


class PublishError(ExportError):
    """A version cannot be written into the model repository, or its models.config cannot be read."""


class RepositoryError(ExportError):
    """The version is damaged or cannot be removed, or the routing of a model cannot be changed in this way."""


class NoSuchVersion(RepositoryError):
    """The model repository has no such model or version."""
