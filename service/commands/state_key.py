"""`python -m service state-key FILE`: make the key by which gateways sign and accept each other's state tokens."""

import sys
from pathlib import Path

from service.generation.resume_tokens import StateKeyError, StateKeys, make_key_file


def make(path: Path) -> int:
    """Write a new key unless there is a file, which must hold keys then. Returns the exit code."""
    try:
        made = make_key_file(path)
        keys = StateKeys.read(path)
    except (OSError, StateKeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {'made' if made else 'there already'}, key {', '.join(keys.keys)}")
    return 0
