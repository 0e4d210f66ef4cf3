"""Corpus in, served model out: trains Keras recurrent text generators and publishes them as SavedModels.

From a notebook, `export.publish(model, tokenizer, name)` does what the last step of `python -m export train` does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.repository.publishing import publish as publish

__all__ = ["publish"]


def __getattr__(name: str) -> Any:
    """Import TensorFlow only when something that needs it is used: `--help` then answers at once."""
    if name == "publish":
        from export.repository.publishing import publish  # noqa: PLC0415 - see above

        return publish
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
