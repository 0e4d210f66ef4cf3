"""Which version of a model answers: NAME, NAME:VERSION or NAME@LABEL, and the shares of requests that name no version.

Pure, but for reading one file. Knows names, numbers and labels. Does not know what a version is.
"""

import hashlib
import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from contract.labels import LABEL_PATTERN, STABLE
from service.errors import ModelNotFound

# Shares of a model's requests, by versions and labels as the file has them.
Shares = Mapping[str, float]


class RoutingError(ValueError):
    """The file of shares cannot be used; one line that names the place."""


@dataclass(frozen=True)
class Reference:
    """What a request calls a model."""

    name: str
    version: int | None = None
    label: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Part a name from what follows `:` or `@`; what has neither is a name, whatever it is."""
        name, colon, version = text.partition(":")
        # More digits are no version to TensorFlow Serving.
        if colon and re.fullmatch("[0-9]{1,19}", version):
            return cls(name, version=int(version))
        name, at, label = text.partition("@")
        return cls(name, label=label) if at and re.fullmatch(LABEL_PATTERN, label) else cls(text)


@dataclass(frozen=True)
class Route:
    """The versions of one model that answer now, and who gets which.

    Attributes:
        versions: Ascending, at least one.
        labels: What each points at, served or not.
        stable: The version that answers where nothing else is said.
        shares: Of requests that name no version: what share goes to which version. Empty: all go to `stable`.
        is_guess: Whether another version than the one labelled stable has to stand in for it, and never was it.
    """

    name: str
    versions: tuple[int, ...]
    stable: int
    labels: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[int, float] = field(default_factory=dict)
    is_guess: bool = False

    @property
    def primary(self) -> int:
        """The version that most of the requests get which name none."""
        return max(self.shares, key=lambda version: (self.shares[version], version)) if self.shares else self.stable

    def awaited(self, reference: Reference) -> int | None:
        """Return the version that a request means, if it is not served; None if it is, or if there is no such label."""
        if reference.version is None and reference.label in (None, STABLE):
            return self.labels[STABLE] if self.is_guess else None
        version = reference.version if reference.label is None else self.labels.get(reference.label)
        return None if version in self.versions else version

    def choose(self, reference: Reference, seed: int | None) -> int:
        """Return the version that a request gets.

        Where shares are, a seed always gets the same version, and one that a share brings to a version stays with it
        when that share grows: so the same request has the same bytes while the shares are what they are.

        Args:
            reference: What the request calls the model.
            seed: Of its random numbers; None for a request that has none: it gets the version with the largest share.

        Raises:
            ModelNotFound: the version is not served, or there is no such label; the message lists those that are.
        """
        if reference.version is not None:
            return self._living(reference.version, f"version {reference.version}")
        if reference.label is not None:
            labels = {STABLE: self.stable, **self.labels}
            if reference.label not in labels:
                raise ModelNotFound(
                    f"model {self.name!r} has no label {reference.label!r}; labels are: {', '.join(sorted(labels))}",
                    param="model",
                )
            number = self.stable if reference.label == STABLE else labels[reference.label]
            return self._living(number, f"{reference.label}, version {number},")
        if not self.shares:
            return self.stable
        if seed is None:
            return self.primary
        digest = hashlib.blake2b(f"{self.name} {seed}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "little") / 2**64 * sum(self.shares.values())
        versions = sorted(self.shares)
        for version in versions[:-1]:
            place -= self.shares[version]
            if place < 0:
                return version
        return versions[-1]

    def _living(self, version: int, what: str) -> int:
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
    able: Collection[int] | None = None,
    *,
    was_guess: bool = False,
) -> tuple[Route, list[str]]:
    """Bring together what is served, what is labelled and what is wanted.

    Args:
        name: Of the model.
        versions: Those that answer now, at least one.
        labels: Of the model.
        shares: Of this model, from the file.
        stable_before: What answered until now: it goes on while the version that is to be stable is being loaded.
        able: Those of the versions whose servers take calls; None: all. The others are known from servers that may come
            back, and are chosen for nobody; if there are only such, what answered goes on.
        was_guess: Whether `stable_before` was a guess; see `Route.is_guess`.

    Returns:
        The route, and a line for each share that leads nowhere.
    """
    if able is None:
        able = versions
    elif not able:
        able = versions if stable_before is None or stable_before not in versions else [stable_before]
    stable = labels.get(STABLE, max(able))
    if stable not in able:
        stable = stable_before if stable_before is not None and stable_before in able else max(able)
    is_guess = stable != labels.get(STABLE, stable) and (stable_before is None or was_guess)
    resolved: dict[int, float] = {}
    problems = []
    for target, share in shares.items():
        version = int(target) if target.isdigit() else stable if target == STABLE else labels.get(target)
        if version is None:
            problems.append(f"{target} is no label of it")
        elif version not in able:
            problems.append(f"version {version} is not served")
        elif share > 0:
            resolved[version] = resolved.get(version, 0.0) + share
    return Route(name, tuple(sorted(versions)), stable, dict(labels), resolved, is_guess), problems


def read_shares(path: Path) -> dict[str, Shares]:
    """Read the file of shares: a table for each model, in it a number for each label or version.

    Returns:
        Shares by the model's name; none if there is no such file.

    Raises:
        RoutingError: it cannot be read, is empty, or holds something else.
    """
    try:
        text = path.read_text("utf-8")
        if not text.strip():
            # As it is while it is being written. A comment, or no file, ends all shares.
            raise RoutingError(f"{path}: is empty")
        document = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RoutingError(f"{path}: {error}") from error
    for name, table in document.items():
        if not isinstance(table, dict) or not table:
            raise RoutingError(f"{path}: {name} must be a table such as [{name}] with lines such as stable = 90")
        for target, share in table.items():
            if not target.isdigit() and not re.fullmatch(LABEL_PATTERN, target):
                raise RoutingError(f"{path}: {name}.{target} must be a label or the number of a version")
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < math.inf:
                raise RoutingError(f"{path}: {name}.{target} must be a number of at least 0, got {share!r}")
        if sum(table.values()) <= 0:
            raise RoutingError(f"{path}: {name} must have a share above 0")
    return document
