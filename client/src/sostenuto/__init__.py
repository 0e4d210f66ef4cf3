"""Python client of Sostenuto, a server for recurrent text generators. Start with `Client`.

Names are imported on first use, so that the command line handles Ctrl-C before it imports `requests`, which takes most
of its start-up time.
"""

from sostenuto._version import __version__

TYPE_CHECKING = False  # true for type checkers, as in `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from sostenuto._client import Client
    from sostenuto._conversation import Conversation, Turn
    from sostenuto._errors import *
    from sostenuto._inspection import *
    from sostenuto._job_events import JobEvent, JobEvents
    from sostenuto._loss_curve import LossCurve
    from sostenuto._reports import Report
    from sostenuto._results import *
    from sostenuto._retries import WaitForReady
    from sostenuto._stream import Stream
    from sostenuto._training import Job, UploadedFile

__all__ = [
    "APIError", "BackendUnavailable", "BadRequest", "BodyTimeout", "BodyTooLarge", "Choice", "Client", "ClientClosed",
    "Conflict", "ConnectionFailed", "Conversation", "CrossOrigin", "DeadlineExceeded", "EmbeddingMap", "Forbidden",
    "Generation", "GuessNumber", "HostNotAllowed", "InspectedLayer", "Inspection", "InternalError", "InvalidArgument",
    "Job", "JobCancelled", "JobEvent", "JobEvents", "JobFailed", "JobUnfinished", "LossCurve", "MemoryExhausted",
    "MethodNotAllowed", "MissingRole", "Model", "ModelLoading", "ModelNotFound", "ModelVersion", "Neighbor",
    "NextWord", "NotFound", "NotReady", "Overloaded", "QuotaReached", "RateLimited", "RawResponse", "Report",
    "ResumptionFailed", "Score", "ScoredToken", "ServerError", "ServiceUnavailable", "ShuttingDown", "SostenutoError",
    "StateRefused", "Status", "Stream", "StreamInterrupted", "TextDelta", "Timeout", "Tokens", "TooManyRequests",
    "TrainerUnavailable", "TrainingDisabled", "TrainingFilterUnusable", "Turn", "Unauthorized", "UnexpectedResponse",
    "UploadedFile", "Usage", "VersionGone", "VocabularyToken", "WaitForReady", "WrongScheme", "__version__",
]  # fmt: skip

if not TYPE_CHECKING:
    _MODULES = (
        *("_errors", "_results", "_inspection", "_retries", "_stream", "_conversation", "_job_events", "_loss_curve"),
        *("_training", "_reports", "_client"),
    )

    def __getattr__(name: str) -> object:
        """Import a public name."""
        from importlib import import_module  # noqa: PLC0415 - see the module

        for module in _MODULES if name in __all__ else ():
            found = import_module(f"{__name__}.{module}")
            if hasattr(found, name):
                globals()[name] = getattr(found, name)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
