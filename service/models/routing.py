"""Routing of requests to versions: NAME, NAME:VERSION or NAME@LABEL, and the traffic split for NAME."""

import hashlib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from contract.models_config import LABEL_PATTERN, PREVIOUS, STABLE, Shares
from service.errors import ModelNotFound


@dataclass(frozen=True)
class Reference:
    """A request's reference to a model: name, and version or label."""

    name: str
    version: int | None = None
    label: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Parse NAME, NAME:VERSION or NAME@LABEL; anything else is a name."""
        name, colon, version = text.partition(":")
        # TensorFlow Serving does not accept longer version numbers.
        if colon and re.fullmatch("[0-9]{1,19}", version):
            return cls(name, version=int(version))
        name, at, label = text.partition("@")
        return cls(name, label=label) if at and re.fullmatch(LABEL_PATTERN, label) else cls(text)


@dataclass(frozen=True)
class Route:
    """The served versions of one model, its labels and its traffic split."""

    name: str
    versions: tuple[int, ...]  # ascending, at least one
    stable: int  # for requests that name none, without a traffic split
    labels: Mapping[str, int] = field(default_factory=dict)  # the version of each, served or not
    shares: Mapping[int, float] = field(default_factory=dict)  # of requests that name no version
    is_guess: bool = False  # `stable` substitutes for the version labeled stable, and was never stable itself

    @property
    def primary(self) -> int:
        """The version that gets most of the requests that name none."""
        return max(self.shares, key=lambda version: (self.shares[version], version)) if self.shares else self.stable

    def unserved_version(self, reference: Reference) -> int | None:
        """Return the version that a reference names if it is not served; None if it is, or the label is unknown."""
        if reference.version is None and reference.label in (None, STABLE):
            return self.labels[STABLE] if self.is_guess else None
        version = reference.version if reference.label is None else self.labels.get(reference.label)
        return None if version in self.versions else version

    def choose(self, reference: Reference, seed: int | None) -> int:
        """Return the version for a request.

        With a traffic split, a seed always gets the same version: requests are reproducible while the split stays the
        same. When it changes, a seed moves only to a version whose share has grown relative to that of its current one
        (weighted rendezvous hashing). Without a seed, the version with the largest share is chosen.

        Raises:
            ModelNotFound: the version is not served, or the label is unknown; the message lists the alternatives.
        """
        if reference.version is not None:
            return self._require_served(reference.version, f"version {reference.version}")
        if reference.label is not None:
            labels = {STABLE: self.stable, **self.labels}
            if reference.label not in labels:
                raise ModelNotFound(
                    f"model {self.name!r} has no label {reference.label!r}; labels are: {', '.join(sorted(labels))}",
                    param="model",
                )
            number = self.stable if reference.label == STABLE else labels[reference.label]
            return self._require_served(number, f"{reference.label}, version {number},")
        if not self.shares:
            return self.stable
        if seed is None:
            return self.primary
        return min(self.shares, key=lambda version: (self._wait(version, seed), version))

    def _wait(self, version: int, seed: int) -> float:
        """Return an exponentially distributed number with the version's share as rate; the smallest one wins."""
        digest = hashlib.blake2b(f"{self.name} {seed} {version}".encode(), digest_size=8).digest()
        return -math.log((int.from_bytes(digest, "little") + 1) / 2**64) / self.shares[version]

    def _require_served(self, version: int, what: str) -> int:
        if version not in self.versions:
            raise ModelNotFound(
                f"{what} of model {self.name!r} is not served; versions are: {', '.join(map(str, self.versions))}",
                param="model",
            )
        return version


def make_route(
    name: str,
    versions: Collection[int],
    labels: Mapping[str, int],
    shares: Shares,
    stable_before: int | None,
    available: Collection[int],
    *,
    was_guess: bool = False,
) -> tuple[Route, list[str]]:
    """Make the route of a model from its served versions, labels and traffic split, and a message per ignored share.

    `stable_before` is the stable version until now, which is kept while the one labeled stable is being loaded; for
    `was_guess` see `Route.is_guess`. `available` are the versions whose backends take calls. The others belong to
    ejected backends, and get no requests; if there are no available ones, nothing changes, as requests wait.
    """
    routable = available or versions
    if not available:
        available = versions if stable_before is None or stable_before not in versions else [stable_before]
    stable = labels.get(STABLE, max(available))
    if stable not in available:
        substitutes = (stable_before, labels.get(PREVIOUS), max(available))
        stable = next(version for version in substitutes if version is not None and version in available)
    is_guess = stable != labels.get(STABLE, stable) and (stable_before is None or was_guess)
    resolved: dict[int, float] = {}
    problems = []
    for target, share in shares.items():
        version = int(target) if target.isdigit() else stable if target == STABLE else labels.get(target)
        if version is None:
            problems.append(f"it has no label {target}")
        elif version not in routable:
            problems.append(f"version {version} is not served")
        elif share > 0:
            resolved[version] = resolved.get(version, 0.0) + share
    return Route(name, tuple(sorted(versions)), stable, dict(labels), resolved, is_guess), problems
