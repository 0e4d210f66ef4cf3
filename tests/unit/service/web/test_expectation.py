"""What the page of training expects of a text."""

import subprocess

from tests.node import node
from tests.paths import ROOT

PROGRAM = """
import { PRESETS, passes } from "%s";
console.log(passes(PRESETS[20], 20e6));
"""


def test_no_more_than_the_maximum_of_a_long_text_is_held_out():
    """Of 20 million characters the model reads 19.5 million in a pass, which takes 19.4 minutes."""
    program = PROGRAM % (ROOT / "service/web/static/expectation.js").as_uri()
    command = [node() / "bin/node", "--input-type=module", "-"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "Up to 1.0 passes over this text.\n"
