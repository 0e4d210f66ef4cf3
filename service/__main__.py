"""`python -m service`: the commands of the gateway."""

import sys

from service.cli import main

if __name__ == "__main__":
    sys.exit(main())
