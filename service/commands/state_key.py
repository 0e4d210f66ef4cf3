"""`python -m service state-key FILE`: create the key by which gateways sign and accept each other's resume tokens."""

import sys
from pathlib import Path

from service.generation.resume_tokens import StateKeyError, StateKeys, make_key_file


def make(path: Path) -> int:
    """Create a key file; an existing one is kept and must contain keys. Return the exit code."""
    try:
        is_new = make_key_file(path)
        keys = StateKeys.read(path)
    except (OSError, StateKeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {'created' if is_new else 'exists'}, key {', '.join(keys.keys)}")
    return 0
