"""requirements.txt and requirements/gateway.txt, the locks of pyproject.toml's dependencies."""

import importlib.metadata
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

LOCKS = {name: (ROOT / name).read_text() for name in ("requirements.txt", "requirements/gateway.txt")}
LOCKED = {
    name: {pin.name: pin for pin in map(Requirement, re.findall(r"^([a-z0-9].*?) \\$", text, re.MULTILINE))}
    for name, text in LOCKS.items()
}
EXCLUDED = set(re.findall(r"^[a-z-]+", (ROOT / "requirements/not-in-gateway.txt").read_text(), re.MULTILINE))


def declared():
    """Return the dependencies of both distributions, but for the SDK, which comes from the checkout."""
    files = [ROOT / "pyproject.toml", ROOT / "client/pyproject.toml"]
    texts = [text for file in files for text in tomllib.loads(file.read_text())["project"]["dependencies"]]
    return [requirement for text in texts if (requirement := Requirement(text)).name != "sostenuto"]


def version(pin):
    (specifier,) = pin.specifier
    return specifier.version


def missing(lock, requirements):
    """Return the requirements that a lock does not satisfy."""
    pins = LOCKED[lock]
    return [
        str(one)
        for one in requirements
        if (name := canonicalize_name(one.name)) not in pins or not one.specifier.contains(version(pins[name]))
    ]


def test_the_lock_satisfies_pyproject():
    """A changed dependency without `make lock` would be tested and served in its old version."""
    assert missing("requirements.txt", declared()) == []


def test_the_gateways_lock_satisfies_pyproject_but_for_what_its_image_lacks():
    lock = "requirements/gateway.txt"
    assert missing(lock, [one for one in declared() if one.name not in EXCLUDED]) == []
    assert EXCLUDED.isdisjoint(LOCKED[lock])
    assert set(LOCKED["requirements.txt"]) >= EXCLUDED


def test_both_locks_have_the_same_versions():
    whole, part = ({str(pin) for pin in pins.values()} for pins in LOCKED.values())
    assert part <= whole


@pytest.mark.parametrize("lock", LOCKED)
def test_a_lock_is_complete(lock):
    excluded = EXCLUDED if "gateway" in lock else set()
    needed = []
    for name in LOCKED[lock]:
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform or Python
            continue
        needed += [one for one in map(Requirement, texts) if one.marker is None or one.marker.evaluate({"extra": ""})]
    assert missing(lock, [one for one in needed if canonicalize_name(one.name) not in excluded]) == []


@pytest.mark.parametrize("lock", LOCKED)
def test_every_pin_has_hashes(lock):
    entries = re.split(r"^(?=[a-z0-9])", LOCKS[lock], flags=re.MULTILINE)[1:]
    assert len(entries) == len(LOCKED[lock])
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
