"""Resume tokens: checkpoints of sequences that clients keep, signed together with tenant and time of issue.

A checkpoint has the model's state, the tokens that it does not include yet, and the text held back: any gateway with
the key can resume generation from it. A token is `ost1.<key>.<content>.<signature>`: the name of the key that signed
it, then in base64 (RFC 4648, section 5, unpadded) the content, and HMAC-SHA256 over all before it. Anyone who has a
token can read it, like the text itself, but not forge or alter one.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson

from contract.files import create_atomically, read_file
from service.errors import ConfigurationError, StateRefused
from service.reloading_file import ReloadingFile
from service.scheduling.sequence import ModelVersion
from service.structured_outputs.patterns import Constraint, Pattern

KIND = "ost1"
MIN_KEY_CHARACTERS = 32
_TOKEN = re.compile(rf"{KIND}\.([0-9a-f]{{8}})\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{{43}})")
# Time of signing in seconds since 1970, and the hash of the tenant, so that tokens do not reveal its name.
_HEAD = struct.Struct("<q32s")
_LENGTH = struct.Struct("<I")
# Types of a checkpoint's arrays: state, unread ids, counted ids, counts.
_DTYPES = ("<f4", "<i4", "<i4", "<f4")
# By name; the first one signs, all of them verify.
StateKeys = Mapping[str, bytes]


@dataclass
class SavedMatch:
    """How far a text matches a constraint."""

    constraint: Constraint
    row: int  # the automaton's row; `FINAL_ROW` where no longer match exists
    digest: str  # the automaton's digest: another release may number its rows otherwise


@dataclass(eq=False)
class Checkpoint:
    """Everything that the rest of a sequence depends on, except the fields of the resuming request.

    A choice's checkpoint follows its returned text; see `advance`.
    """

    model: ModelVersion  # the version that generated it
    weights_sha256: str  # hash of that version's weights, as its number may be reused
    state: np.ndarray  # float32 (S,)
    # int32 (tokens,), at least one: tokens that the state does not include yet. Usually only the last one; after a stop
    # string those of a whole call, as the state is from before it.
    unread_ids: np.ndarray
    num_sampled: int  # tokens sampled so far, which is the index of the next random number
    seed: int  # key of its random numbers, together with `random_stream`: see `service.scheduling.sampling_inputs`
    random_stream: int  # index of the seed's random stream
    detokenizer: Any = None  # what `Detokenizer.save` returned
    # Detokenized text that was not returned: it may begin a stop string, or follows one. Mirrored for a backward model.
    held_back: str = ""
    # How often each token that penalties count was sampled; None: no penalty counts tokens.
    token_counts: Counter[int] | None = None
    match: SavedMatch | None = None  # how far the text matches the constraint of its request; None: there is none
    label_ids: tuple[int, ...] = ()  # of the label of each column: the text's, and that of the next one after its end

    def input_ids(self, end_id: int | None) -> np.ndarray:
        """Return the tokens to read first, int32 (tokens,), with the labels of the next text after the end of one."""
        label_ids = self.label_ids if self.unread_ids[-1] == end_id else ()
        return np.concatenate([self.unread_ids, np.array(label_ids, np.int32)])

    @property
    def origin(self) -> bytes:
        """Hash of the state, 16 bytes: distinguishes prefixes that start from it from all others."""
        return hashlib.blake2b(self.state.tobytes(), digest_size=16).digest()

    def branch(self, choice: int) -> int:
        """Return the random stream of a choice that resumes here: choice 0 keeps this one, the others get new ones."""
        if choice == 0:
            return self.random_stream
        name = f"{self.seed} {self.random_stream} {self.num_sampled} {choice}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")

    def advance(self, sampled_ids: list[int], state: np.ndarray | None) -> None:
        """Move past sampled tokens, at least one.

        `state` is the state after all but the last of them, float32 (S,), or None if unknown.
        """
        sampled, self.num_sampled = np.array(sampled_ids, np.int32), self.num_sampled + len(sampled_ids)
        if state is None:
            self.unread_ids = np.concatenate([self.unread_ids, sampled])
        else:
            self.state, self.unread_ids = state, sampled[-1:]
        if self.token_counts is not None:
            self.token_counts.update(sampled_ids)

    def to_bytes(self) -> bytes:
        """Serialize and compress it; this hardly shrinks the floats of the state."""
        token_counts = self.token_counts or Counter()
        ids, counts = np.array([*token_counts], np.int32), np.array([*token_counts.values()], np.float32)
        match = self.match
        patterns = [(pattern.kind, pattern.source) for pattern in match.constraint] if match else []
        head = orjson.dumps(
            {
                "model": self.model.name,
                "version": self.model.number,
                "weights": self.weights_sha256,
                "seed": self.seed,
                "stream": self.random_stream,
                "position": self.num_sampled,
                "detokenizer": self.detokenizer,
                "held": self.held_back,
                "match": [patterns, match.row, match.digest] if match else None,
                "labels": self.label_ids,
                "sizes": [len(self.state), len(self.unread_ids), len(ids)],
            }
        )
        arrays = zip((self.state, self.unread_ids, ids, counts), _DTYPES, strict=True)
        parts = [array.astype(dtype).tobytes() for array, dtype in arrays]
        return zlib.compress(b"".join([_LENGTH.pack(len(head)), head, *parts]))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Parse what `to_bytes` returned; trusted bytes only, as their decompressed size has no limit."""
        content = zlib.decompress(content)
        (length,) = _LENGTH.unpack_from(content)
        offset = _LENGTH.size + length
        head = orjson.loads(content[_LENGTH.size : offset])
        state_size, num_unread, num_ids = head["sizes"]
        arrays = []
        for count, dtype in zip((state_size, num_unread, num_ids, num_ids), _DTYPES, strict=True):
            array = np.frombuffer(content, dtype, count, offset)
            # To this machine's byte order.
            arrays.append(array.astype(array.dtype.newbyteorder("=")))
            offset += array.nbytes
        state, unread_ids, ids, counts = arrays
        match = None
        if head["match"] is not None:
            patterns, row, digest = head["match"]
            match = SavedMatch(tuple(Pattern(*pattern) for pattern in patterns), row, digest)
        return cls(
            model=ModelVersion(head["model"], head["version"]),
            weights_sha256=head["weights"],
            state=state,
            unread_ids=unread_ids,
            num_sampled=head["position"],
            seed=head["seed"],
            random_stream=head["stream"],
            detokenizer=head["detokenizer"],
            held_back=head["held"],
            token_counts=Counter(dict(zip(ids.tolist(), counts.astype(int).tolist(), strict=True))),
            match=match,
            # Resume tokens of earlier revisions have none.
            label_ids=tuple(head.get("labels", ())),
        )


def read_state_keys(path: Path) -> StateKeys:
    """Read one secret per line, without # comments; raise ConfigurationError if there is none or a short one."""
    try:
        lines = [line.strip() for line in read_file(path).decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: the file of state keys cannot be read ({error})") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigurationError(f"{path}: has no key; create one: openssl rand -hex 32 > {path}")
    short = min(map(len, keys))
    if short < MIN_KEY_CHARACTERS:
        raise ConfigurationError(f"{path}: a key must have at least {MIN_KEY_CHARACTERS} characters, got {short}")
    return state_keys(*[line.encode() for line in keys])


def state_keys(*keys: bytes) -> StateKeys:
    """Return keys, each named by its hash; without any, a random one for this process."""
    keys = keys or (secrets.token_bytes(32),)
    return {hashlib.sha256(b"name of " + key).hexdigest()[:8]: key for key in keys}


def make_key_file(path: Path) -> bool:
    """Create a file with a new key, for its owner alone, unless it exists; return whether it was created."""
    content = f"# Signs resume tokens; see docs/settings.md.\n{secrets.token_hex(32)}\n"
    return create_atomically(path, content, mode=0o600)


def key_file(path: Path) -> ReloadingFile[StateKeys]:
    """Read a key file, which is reloaded when it changes; raise as `read_state_keys` does."""
    return ReloadingFile(path, read_state_keys, lambda keys: f"keys {', '.join(keys)}")


class ResumeTokens:
    """Signs resume tokens with the current keys, and verifies those that are not older than `max_age_s`."""

    def __init__(self, keys: Callable[[], StateKeys], max_age_s: float, clock: Callable[[], float] = time.time) -> None:
        self._keys, self._max_age_s, self._clock = keys, max_age_s, clock

    def seal(self, checkpoint: Checkpoint, tenant: str) -> str:
        name, key = next(iter(self._keys().items()))
        content = _HEAD.pack(int(self._clock()), _hashed(tenant)) + checkpoint.to_bytes()
        signed = f"{KIND}.{name}.{_to_base64(content)}"
        return f"{signed}.{_to_base64(_sign(key, signed))}"

    def open(self, token: str, tenant: str) -> Checkpoint:
        """Verify a resume token and return its checkpoint.

        A token from the future is accepted: its signature is ours, so the clock was set back.

        Raises:
            StateRefused: it is not a complete resume token, was signed by another server or with a retired key, was
                altered, was issued to another tenant, or is too old.
        """
        match = _TOKEN.fullmatch(token)
        if match is None:
            got = token if len(token) <= 24 else token[:24] + "…"
            raise StateRefused(
                f"state must be a complete resume token, unchanged, {KIND}.….….…, got {got!r} of "
                f"{len(token)} characters",
                "state_malformed",
            )
        name, content, signature = match.groups()
        key = self._keys().get(name)
        if key is None:
            raise StateRefused(
                f"state was signed with key {name}, which this server does not have: it is from another server, or the "
                "key was retired",
                "state_key_unknown",
            )
        signed = token[: match.end(2)]
        if not hmac.compare_digest(_to_base64(_sign(key, signed)), signature):
            raise StateRefused("state was changed: its signature does not match", "state_altered")
        try:
            payload = base64.urlsafe_b64decode(content + "=" * (-len(content) % 4))
        except binascii.Error as error:
            raise StateRefused("state must be a complete resume token, unchanged", "state_malformed") from error
        issued_at, owner = _HEAD.unpack_from(payload)
        if not hmac.compare_digest(owner, _hashed(tenant)):
            raise StateRefused("state was issued to another tenant", "state_foreign")
        age_s = self._clock() - issued_at
        if age_s > self._max_age_s:
            raise StateRefused(
                f"state must be at most {self._max_age_s:g} seconds old, got one of {age_s:.0f}", "state_expired"
            )
        return Checkpoint.from_bytes(payload[_HEAD.size :])


def _hashed(tenant: str) -> bytes:
    return hashlib.sha256(tenant.encode()).digest()


def _sign(key: bytes, signed: str) -> bytes:
    return hmac.digest(key, signed.encode(), "sha256")


def _to_base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
