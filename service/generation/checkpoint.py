"""A checkpoint of a sequence: the model's state, the tokens that it does not include yet, and the text held back.

Any gateway can resume generation from it. Pure: knows arrays, ids and bytes. Does not know tenants or signatures.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import orjson

from service.params import ModelVersion
from service.structured_outputs.patterns import Constraint, Pattern

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class ResumePoint:
    """A point in a sequence from which generation can resume.

    Attributes:
        state: float32 (S,).
        unread_ids: int32 (tokens,), at least one: tokens of the sequence that the state does not include yet.
            Usually the last one alone; after a stop string those of a whole call, as the state is from before it.
        num_sampled: Tokens sampled so far, which is the index of the next random number.
    """

    state: np.ndarray
    unread_ids: np.ndarray
    num_sampled: int

    def after(self, token_ids: list[int], state: np.ndarray | None) -> "ResumePoint":
        """Return the point after some more sampled tokens, at least one.

        `state` is that after all but the last of them, float32 (S,); None: unknown.
        """
        sampled, num_sampled = np.array(token_ids, np.int32), self.num_sampled + len(token_ids)
        if state is None:
            return ResumePoint(self.state, np.concatenate([self.unread_ids, sampled]), num_sampled)
        return ResumePoint(state, sampled[-1:], num_sampled)


@dataclass(frozen=True)
class SavedMatch:
    """How far a text matches a constraint.

    Attributes:
        row: The automaton's row; `FINAL_ROW` where no longer match exists.
        digest: The automaton's digest: another release may number its rows otherwise.
    """

    constraint: Constraint
    row: int
    digest: str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything that the rest of a sequence depends on, except the fields of the request that resumes it.

    Attributes:
        model: The version that generated it.
        weights_sha256: Hash of that version's weights: another version may have its number by now.
        seed: Key of its random numbers, together with `random_stream`: see `service.scheduling.random_numbers`.
        random_stream: Index of the seed's random stream.
        detokenizer: What `Detokenizer.save` returned.
        held_back: Detokenized text that was not returned: it may begin a stop string, or follows one. Mirrored for a
            backward model.
        token_counts: int32 (ids,) and float32 (ids,): ids that penalties count, and how often each was sampled.
        match: How far the text matches the constraint of its request; None: there is none.
    """

    model: ModelVersion
    weights_sha256: str
    point: ResumePoint
    seed: int
    random_stream: int
    detokenizer: Any
    held_back: str
    token_counts: tuple[np.ndarray, np.ndarray]
    match: SavedMatch | None = None

    @property
    def origin(self) -> bytes:
        """Hash of the state, 16 bytes: distinguishes prefixes that start from it from all others."""
        return hashlib.blake2b(self.point.state.tobytes(), digest_size=16).digest()

    def branch(self, choice: int) -> int:
        """Return the random stream of a choice that resumes here: choice 0 keeps this one, the others get new ones."""
        if choice == 0:
            return self.random_stream
        name = f"{self.seed} {self.random_stream} {self.point.num_sampled} {choice}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")

    def to_bytes(self) -> bytes:
        """Serialize and compress it: ids and words get smaller, the floats of the state hardly do."""
        ids, counts = self.token_counts
        match = self.match
        patterns = [(pattern.kind, pattern.source) for pattern in match.constraint] if match else []
        head = orjson.dumps(
            {
                "model": self.model.name,
                "version": self.model.version,
                "weights": self.weights_sha256,
                "seed": self.seed,
                "stream": self.random_stream,
                "position": self.point.num_sampled,
                "detokenizer": self.detokenizer,
                "held": self.held_back,
                "match": [patterns, match.row, match.digest] if match else None,
                "sizes": [len(self.point.state), len(self.point.unread_ids), len(ids)],
            }
        )
        arrays = (
            self.point.state.astype("<f4"),
            self.point.unread_ids.astype("<i4"),
            ids.astype("<i4"),
            counts.astype("<f4"),
        )
        return zlib.compress(b"".join([_LENGTH.pack(len(head)), head, *(array.tobytes() for array in arrays)]))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Parse what `to_bytes` returned; trusted bytes only, as their decompressed size has no limit."""
        content = zlib.decompress(content)
        (length,) = _LENGTH.unpack_from(content)
        offset = _LENGTH.size + length
        head = orjson.loads(content[_LENGTH.size : offset])
        state_size, num_unread, num_ids = head["sizes"]
        arrays = []
        for count, dtype in ((state_size, "<f4"), (num_unread, "<i4"), (num_ids, "<i4"), (num_ids, "<f4")):
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
            point=ResumePoint(state, unread_ids, head["position"]),
            seed=head["seed"],
            random_stream=head["stream"],
            detokenizer=head["detokenizer"],
            held_back=head["held"],
            token_counts=(ids, counts),
            match=match,
        )
