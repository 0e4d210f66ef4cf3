"""The context of a request: its principal's limits and charges, its trace, and its lease of the memory budget.

Middleware creates it; routes, the engine and the completion processor charge it. The budget covers bodies, encoded
prompts and responses of all requests in flight.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from service.errors import InvalidRequest, MemoryExhausted

# Permissions of a key: generate and inspect text; read about models; upload files and train models; manage models.
Role = Literal["generate", "read", "train", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
# Uncounted bytes per request, so that small requests are admitted while the budget is full.
FREE_BYTES = 64 * 2**10
# Watches a key while the context manager is open: the callback is called, on another thread, if the key is revoked.
WatchKey = Callable[[Callable[[], object]], AbstractContextManager[object]]
# See `owned_name`.
_OWNED = re.compile("ft-([0-9a-f]{8})-")


def _nothing(*_: object, **__: object) -> None:
    """Charge or refund nothing."""


def owned_name(tenant: str, name: str) -> str:
    """Return the name of a model that belongs to a tenant: only its keys may use it, or learn that it exists.

    Without keys there are no tenants, and the name is unchanged. It does not contain the tenant's name.
    """
    return f"ft-{_tag(tenant)}-{name}" if tenant else name


def _tag(tenant: str) -> str:
    return hashlib.sha256(tenant.encode()).hexdigest()[:8]


class MemoryBudget:
    """Bytes that all requests in flight may hold together; thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self._num_bytes = max_bytes, 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def resize(self, held: int, new: int) -> None:
        """Replace `held` bytes by `new`; raise MemoryExhausted if that is more and others hold too much memory."""
        with self._lock:
            if new > held and self._num_bytes - held + new > self.max_bytes:
                raise MemoryExhausted(
                    f"the memory for requests is full: {self._num_bytes - held} of {self.max_bytes} bytes are in use "
                    f"and this request needs {new}; try again later",
                    retry_after_s=1,
                )
            self._num_bytes += new - held


class MemoryLease:
    """The part of a budget that one request holds until `close`; for one thread at a time."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._held = budget, 0

    def hold(self, num_bytes: int, field: str, *, param: str | None = None) -> None:
        """Replace the bytes held by `num_bytes`, an upper estimate.

        `field` names what needs them in the error message; `param` is the request's field, if it is one.

        Raises:
            InvalidRequest: it exceeds the whole budget.
            MemoryExhausted: other requests hold too much memory.
        """
        limit = self._budget.max_bytes
        if num_bytes > limit:
            message = f"{field} must need at most {limit} bytes of memory, got {num_bytes} (an estimate)"
            raise InvalidRequest(message, param=param)
        counted = num_bytes if num_bytes > FREE_BYTES else 0
        self._budget.resize(self._held, counted)
        self._held = counted

    def shrink(self, num_bytes: int) -> None:
        """Shrink the lease to `num_bytes`; do nothing if it holds no more."""
        if num_bytes < self._held:
            self.hold(num_bytes, "")

    def close(self) -> None:
        """Release everything; idempotent."""
        self.shrink(0)


@dataclass
class RequestContext:
    """The principal of a request, and the resources that the request holds."""

    key: str = ""  # name of its API key, or "" where there are no keys
    max_sequences: int | None = None  # limit of the key's admitted, unfinished sequences; None: only the server's
    max_queued_tokens: int | None = None  # limit of their tokens to be prefilled and generated; None: only the server's
    tenant: str = ""  # owner of the key, or ""
    roles: tuple[Role, ...] = ROLES  # of the key
    models: tuple[str, ...] = ("*",)  # patterns of the models that the key may use
    charge_request: Callable[[], object] = _nothing  # charges one request, before any work on it; raises `RateLimited`
    # Charges tokens that the request may prefill and generate; `total` is the known total if these are not all, and
    # `param` is the field that an error names. Raises `RateLimited` or `InvalidRequest`, or returns a function that
    # refunds them.
    charge: Callable[..., Callable[[], None]] = lambda *_, **__: _nothing
    watch_key: WatchKey = lambda _: nullcontext()
    trace: Any = None  # its tracing context, or None
    memory: MemoryLease = field(default_factory=lambda: MemoryLease(MemoryBudget(2**63)))
    sender: str = ""  # its API key, or its client's address where there are no keys
    _num_charged: int = 0  # by `charge_up_to`
    _refunds: ExitStack = field(default_factory=ExitStack)

    def charge_up_to(self, num_tokens: int, param: str) -> None:
        """Charge the tokens beyond those of earlier calls; raise as `charge`."""
        if num_tokens > self._num_charged:
            self._refunds.callback(self.charge(num_tokens - self._num_charged, num_tokens, param))
            self._num_charged = num_tokens

    @contextmanager
    def refunds_on_failure(self) -> Iterator[None]:
        """Refund what `charge_up_to` charged if the block ends with an error, such as a full queue.

        After that the same request may succeed. An invalid request stays charged: detecting it may have taken all of
        the work on its prompts.
        """
        try:
            yield
        except InvalidRequest:
            raise
        except BaseException:
            self._refunds.close()
            raise

    def may_use(self, name: str) -> bool:
        """Return whether its key may use a model; to other keys the model does not exist."""
        owner = _OWNED.match(name)
        is_own = owner is None or owner[1] == _tag(self.tenant) or "admin" in self.roles
        return is_own and any(fnmatchcase(name, pattern) for pattern in self.models)

    def may_manage(self, name: str) -> bool:
        """Return whether its key may change and remove a usable model: an admin's, or its trainer's."""
        owner = _OWNED.match(name)
        is_own = owner is not None and owner[1] == _tag(self.tenant)
        return "admin" in self.roles or (is_own and "train" in self.roles)
