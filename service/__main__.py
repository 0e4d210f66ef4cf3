"""`python -m service`: run the gateway, alone or with the embedded model server; check its health; manage its keys."""

import sys

from service.cli import main

if __name__ == "__main__":
    sys.exit(main())
