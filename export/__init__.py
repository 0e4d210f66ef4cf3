"""Exporter: trains Keras recurrent text generators and publishes them as SavedModels.

In a notebook, `export.publish(model, tokenizer, name)` does the same as the last step of `sostenuto train`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.repository.publishing import publish as publish

__all__ = ["publish"]


def __getattr__(name: str) -> Any:
    """Import TensorFlow lazily, so that `--help` is fast."""
    if name == "publish":
        from export.repository.publishing import publish  # noqa: PLC0415 - see above

        return publish
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
