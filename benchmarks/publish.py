"""`python -m benchmarks.publish FOLDER [UNITS [LAYERS]]`: publish the model under test, print its folder."""

import sys
from pathlib import Path

from benchmarks.fixture_model import publish_subject

if __name__ == "__main__":
    print(publish_subject(Path(sys.argv[1]), *map(int, sys.argv[2:])))
