"""The body that changes the labels and the traffic split of a model."""

import re
from typing import Annotated, Self

from pydantic import Field

from contract.models_config import LABEL_PATTERN, PREVIOUS
from service.api.body import Body, require
from service.limits import Limits

MAX_LABELS, MAX_SHARE = 16, 1e9
_VERSION = "[1-9][0-9]{0,18}"


class ModelChange(Body):
    """The body of `PATCH /v1/models/{name}`."""

    labels: dict[str, Annotated[int, Field(ge=1, lt=2**63)] | None] = Field(default_factory=dict)
    """version of each label that is to be moved, such as {"stable": 2}; null removes the label; other labels stay"""
    shares: dict[str, Annotated[float, Field(ge=0, le=MAX_SHARE)]] | None = None
    """traffic split of requests that name no version, by label or version, such as {"stable": 90, "canary": 10}; it
    replaces the one before, and {} ends it"""

    def resolve(self, limits: Limits) -> Self:  # noqa: ARG002 - only limits of its own
        """Check the fields; see `Body.resolve`."""
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
