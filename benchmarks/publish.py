"""`python -m benchmarks.publish DIRECTORY [UNITS [LAYERS]]`: publish the model under test, print its directory."""

import sys
from pathlib import Path

from benchmarks.fixture_model import publish_fixture_model

if __name__ == "__main__":
    print(publish_fixture_model(Path(sys.argv[1]), *map(int, sys.argv[2:])))
