"""The context of a request: its principal's limits and charges, its trace, and its lease of the memory budget.

Middleware creates it; endpoints, the engine and the completion processor charge it.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from service.errors import InvalidRequest
from service.memory import MemoryBudget, MemoryLease

# Permissions of a key: generate and inspect text; read about models; upload files and train models; manage models.
Role = Literal["generate", "read", "train", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
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
