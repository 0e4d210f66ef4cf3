"""`python -m benchmarks.publish FOLDER [UNITS]`: publish the model under test and print its version's folder."""

import sys
from pathlib import Path

from benchmarks.subject import publish_subject

if __name__ == "__main__":
    print(publish_subject(Path(sys.argv[1]), *map(int, sys.argv[2:])))
