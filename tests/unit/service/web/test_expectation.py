"""What the page of training expects of a text."""

import subprocess

from tests.node import node
from tests.paths import ROOT

PROGRAM = """
import { passes, presetFor } from "%s";
for (const numCharacters of [20e6, 249_999]) {
  const preset = presetFor(20, numCharacters);
  console.log(preset.recipe, preset.maxMinutes, passes(preset, numCharacters));
}
"""


def test_presets_depend_on_the_text_as_recipes_of_the_exporter_do():
    """Of 20 million characters the model reads 19.5 million in a pass, which takes 19.4 minutes."""
    program = PROGRAM % (ROOT / "service/web/static/expectation.js").as_uri()
    command = [node() / "bin/node", "--input-type=module", "-"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        "characters 19.8 Up to 1.0 passes over this text.",
        "characters-3-minutes 19.8 Up to 120 passes over this text.",
    ]
