"""The executor of operations on the model repository, by the code of the exporter's commands."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract.audit import record_action
from contract.errors import ContractError
from contract.models_config import STABLE
from export.errors import NoSuchVersion, PublishError, RepositoryError
from export.repository.promotion import earlier_stable, move_labels
from export.repository.removal import DEFAULT_WAIT_S, Removal, delete_empty_directories, delete_renamed
from export.repository.versions import Repository
from jobs.database import Operation
from jobs.operations import OperationStore

log = logging.getLogger(__name__)

POLL_S = 0.25
# An operation takes milliseconds; beside it, the files of a version may be deleted.
LEASE_S = 10.0
_PAUSE_S = 5.0
_FORGET_S = 86_400.0


class Executor(threading.Thread):
    """Executes one operation after another, on a thread beside the trainer's jobs, until it is stopped."""

    def __init__(self, operations: OperationStore, models_dir: Path, *, wait_s: float = DEFAULT_WAIT_S) -> None:
        """Prepare; `wait_s` is the time that model servers have to unload a model before its files are deleted."""
        super().__init__(name="executor", daemon=True)
        self._operations, self._models_dir, self._wait_s = operations, models_dir, wait_s
        self._actions: dict[str, Callable[[Operation], Any]] = {
            "route": self._route,
            "rollback": self._roll_back,
            "remove": self._remove,
            "erase": self._erase,
        }
        self._stopping = threading.Event()
        self._forget_at = 0.0

    def stop(self) -> None:
        """End the thread after its current operation."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                pause_s = 0.0 if self.execute_next() else POLL_S
                if time.monotonic() >= self._forget_at:
                    self._forget_at = time.monotonic() + _FORGET_S / 24
                    self._operations.forget(time.time() - _FORGET_S)
                    if self._models_dir.exists():
                        self._delete_files()  # of an executor that was killed
            except Exception:
                log.exception("operations cannot be executed; retrying in %g s", _PAUSE_S)
                pause_s = _PAUSE_S
            self._stopping.wait(pause_s)

    def execute_next(self) -> bool:
        """Execute the next operation; return whether there was one."""
        operation = self._operations.claim(LEASE_S)
        if operation is None:
            return False
        log.info("%s: %s %s, attempt %d", operation.id, operation.action, operation.model, operation.attempt)
        try:
            self._actions[operation.action](operation)
        except NoSuchVersion:
            # Its own message names the models of all tenants.
            self._fail(operation, 404, f"there is no model {operation.model}, or it has no such version")
        except (PublishError, ContractError, OSError) as error:
            log.error("%s: %s", operation.id, error)
            self._fail(operation, 500, "the model repository cannot be changed; see the trainer's log")
        except RepositoryError as error:
            self._fail(operation, 409, str(error))
        except Exception:
            log.exception("%s failed", operation.id)
            self._fail(operation, 500, "internal error; see the trainer's log")
        return True

    def _fail(self, operation: Operation, status: int, message: str) -> None:
        log.info("%s: failed: %s", operation.id, message)
        self._operations.finish(operation, {"status": status, "message": message})

    def _route(self, operation: Operation) -> None:
        labels, shares = operation.arguments["labels"], operation.arguments.get("shares")
        move_labels(self._models_dir, operation.model, labels, shares)
        # Empty shares end the traffic split.
        details = {"labels": labels or None, "shares": shares}
        self._record(operation, **{name: value for name, value in details.items() if value is not None})
        self._operations.finish(operation)

    def _roll_back(self, operation: Operation) -> None:
        """Roll back to a version that is stored first: to choose it again would undo the rollback."""
        if not operation.arguments:
            arguments = {"labels": {STABLE: earlier_stable(self._models_dir, operation.model)}}
            if not self._operations.plan(operation, arguments):
                return
            operation.arguments = arguments
        self._route(operation)

    def _remove(self, operation: Operation) -> None:
        """Remove versions; of a model's last ones, the files are deleted once model servers have unloaded them."""
        repository = Repository(self._models_dir)
        try:
            removal = Removal(repository, repository.named(operation.model))
        except NoSuchVersion:
            if operation.attempt == 1:
                raise
            self._operations.finish(operation)  # an executor that was killed has removed it
            return
        removal.check()
        numbers = [version.number for version in removal.versions]
        follow_up = None
        if removal.unlist():
            follow_up = Operation(
                tenant=operation.tenant,
                actor=operation.actor,
                action="erase",
                model=operation.model.partition(":")[0],
                arguments={"numbers": numbers},
                due_at=time.time() + self._wait_s,
            )
        else:
            removal.rename()
        self._record(operation, versions=numbers)
        self._operations.finish(operation, follow_up=follow_up)
        self._delete_files()

    def _erase(self, operation: Operation) -> None:
        """Delete the versions that were removed; one that was published in the meantime stays."""
        home = self._models_dir / operation.model
        numbers = [number for number in operation.arguments["numbers"] if (home / str(number)).is_dir()]
        if numbers:
            repository = Repository(self._models_dir)
            versions = [repository.named(f"{operation.model}:{number}")[0] for number in numbers]
            Removal(repository, versions).rename()
        self._operations.finish(operation)
        self._delete_files()

    def _delete_files(self) -> None:
        for path in delete_renamed(self._models_dir):
            log.error("%s: removed from the repository, but its files cannot be deleted", path)
        delete_empty_directories(self._models_dir)

    def _record(self, operation: Operation, **details: object) -> None:
        tenant = {"tenant": operation.tenant} if operation.tenant else {}
        of_operation = {"model": operation.model, **tenant, "operation": operation.id}
        try:
            record_action(operation.action, operation.actor, **of_operation, **details)
        except OSError as error:
            # Its client would repeat what has been done.
            log.error("%s: done, but the audit log cannot be written: %s", operation.id, error.strerror)
