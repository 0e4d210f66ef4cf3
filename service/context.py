"""The context of a request: its principal's quota and charges, its trace, and its lease of the memory budget.

Middleware creates it; routes, the engine and output builders charge it. Does not know HTTP.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.memory_budget import MemoryBudget, MemoryLease


@dataclass(frozen=True)
class Quota:
    """Limits of the API key that a sequence is charged to.

    Attributes:
        name: Of the key, or "" where there are no keys.
        max_sequences: Limit of admitted, unfinished sequences; None: only the server's.
        max_queued_tokens: Limit of their tokens to be prefilled and generated; None: only the server's.
        tenant: Owner of the key, or "".
    """

    name: str = ""
    max_sequences: int | None = None
    max_queued_tokens: int | None = None
    tenant: str = ""


ANYBODY = Quota()


def refund_nothing() -> None:
    """Charge or refund nothing."""


def _charge_nothing(num_tokens: int, total: int | None = None) -> Callable[[], None]:  # noqa: ARG001 - see `RequestContext`
    """Charge nothing."""
    return refund_nothing


@dataclass(frozen=True)
class RequestContext:
    """The principal of a request, and what the request holds.

    Attributes:
        quota: Limits that its sequences count towards.
        charge_request: Charges one request, before any work on it; raises `RateLimited`.
        charge: Charges tokens that the request may prefill and generate; the second argument is the total known so far,
            if these are not all. Raises `RateLimited`, or returns a function that refunds them.
        trace: The request's tracing context, or None.
        memory: The request's lease of the memory budget.
    """

    quota: Quota = ANYBODY
    charge_request: Callable[[], object] = refund_nothing
    charge: Callable[..., Callable[[], None]] = _charge_nothing
    trace: Any = None
    memory: MemoryLease = field(default_factory=MemoryBudget(2**63).lease)
