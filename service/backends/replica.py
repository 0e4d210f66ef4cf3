"""The last known state of one backend: its versions, its health and its calls in flight.

Knows state. Does not know when it changes; `service.backends.replicas` does, under its lock.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from service.backends.client import VersionStatus
from service.backends.determinism_probe import Probe
from service.backends.drift import ConfigDrift
from service.backends.ejection import NOT_PROBED, Ejection
from service.errors import GatewayError
from service.params import ModelVersion
from service.scheduling.call import Call
from service.scheduling.padding import Arrays

# Concurrent probe calls per server, over all models, which take turns: as many as most servers have cores.
MAX_PROBE_CALLS = 2


class Server(Protocol):
    """A client of one model server; see `service.backends.client.GrpcBackend`."""

    def call(self, call: Call, done: Callable[[Arrays | GatewayError], None]) -> None:
        """Send a call without waiting for it."""

    def versions(self, name: str) -> list[VersionStatus]:
        """Return the status of every version of a model that the server knows."""

    def predict(
        self,
        model: ModelVersion,
        signature: str,
        inputs: Arrays,
        shapes: Mapping[str, tuple[int, ...]],
        vocab_size: int,
    ) -> Arrays:
        """Make a call and wait for the outputs named in `shapes`."""

    def reset(self) -> None:
        """Abort the calls in flight."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(eq=False)
class Replica:
    """The last known state of one model server.

    Attributes:
        probes: The versions that it serves, and their probes; replaced as a whole, as are the next three.
        needs_reprobe: Those of them that get no calls until their probes have been repeated.
        reported: The versions that it serves or is loading, by its own status.
        probed_models: Names of the models whose versions have been checked and probed.
        in_flight: Its calls: monotonic seconds at which each was sent.
        ejection: Whether it is ejected, and why.
        probe_calls: Held by each call of a probe.
        drift: Its drift from the model repository.
        delisted: Names of models that it served and that are no longer listed.
    """

    address: str
    server: Server
    probes: Mapping[ModelVersion, Probe] = field(default_factory=dict)
    needs_reprobe: frozenset[ModelVersion] = frozenset()
    reported: frozenset[ModelVersion] = frozenset()
    probed_models: frozenset[str] = frozenset()
    in_flight: dict[Call, float] = field(default_factory=dict)
    ejection: Ejection = field(default_factory=Ejection)
    probe_calls: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_PROBE_CALLS))
    drift: ConfigDrift = field(default_factory=ConfigDrift)
    delisted: frozenset[str] = frozenset()

    @property
    def ejected_because(self) -> str | None:
        """Why it is ejected; None: it is in service."""
        return self.ejection.reason

    @property
    def is_available(self) -> bool:
        """Whether it is in service, or will be after its first probe."""
        return self.ejected_because is None or (self.ejected_because == NOT_PROBED and bool(self.reported))

    def takes(self, model: ModelVersion) -> bool:
        """Return whether it gets calls of a version."""
        return self.ejected_because is None and model in self.probes and model not in self.needs_reprobe

    def may_take(self, model: ModelVersion) -> bool:
        """Return whether it gets no calls of a version now but may get some later."""
        if model.name not in self.probed_models or model in self.reported.difference(self.probes):
            return True
        return model in self.probes and not self.takes(model)
