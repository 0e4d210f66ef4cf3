"""`sostenuto-server`: puts its packages `contract`, `export`, `jobs`, `model_server` and `service` on the path.

In a wheel they lie in this directory, so that no top-level package with a name like `service` is in anybody's
site-packages; in a checkout they lie beside it.
"""

import sys
from pathlib import Path

_BUNDLED = Path(__file__).resolve().parent
if (_BUNDLED / "service").is_dir() and str(_BUNDLED) not in sys.path:
    # Before the current directory, which may have a `service.py` of the user's.
    sys.path.insert(0, str(_BUNDLED))
