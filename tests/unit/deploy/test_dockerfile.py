"""The Dockerfile of all images, and what of the repository it gets."""

import re

from tests.paths import ROOT


def test_everything_that_is_copied_is_in_the_build_context():
    """.dockerignore leaves out all but what it names; a build without network would notice a missing file last."""
    named = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    copied = {source.rstrip("/") for line in lines for source in line.split()}
    assert {"requirements.txt", "requirements/demo.txt", "service"} <= copied
    # A file or a directory below a named one, or one that has named ones.
    given = [it for it in copied if any(f"{it}/".startswith(f"{name}/") or name.startswith(f"{it}/") for name in named)]
    assert sorted(copied.difference(given)) == []
    assert [it for it in copied if not (ROOT / it).exists()] == []
