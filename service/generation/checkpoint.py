"""A text put down, to be taken up again anywhere: what the model remembers of it, and what a client has not seen yet.

Pure: knows arrays, ids and bytes. Does not know whose it is, or how it is kept from being altered.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import orjson

from service.scheduling.sequence import ModelVersion

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class Point:
    """A place in a text from which it can be gone on with.

    Attributes:
        state: float32 (S,).
        unread: int32 (tokens,), at least one: tokens of the text that the state has not read. Mostly the last one
            alone, but a text that was cut off by a stop string has those of a whole call, as its state is from before.
        position: Of the next random number: tokens drawn so far.
    """

    state: np.ndarray
    unread: np.ndarray
    position: int

    def after(self, token_ids: list[int], state: np.ndarray | None) -> "Point":
        """Return the place some drawn tokens further.

        Args:
            token_ids: At least one.
            state: After all but the last of them; None: it is not known.
        """
        drawn, position = np.array(token_ids, np.int32), self.position + len(token_ids)
        if state is None:
            return Point(self.state, np.concatenate([self.unread, drawn]), position)
        return Point(state, drawn[-1:], position)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything that the rest of a text depends on, but for what a request says anew.

    Attributes:
        model: The version that wrote it.
        weights_sha256: Of that version: its number may have been given to another.
        seed: Of its random numbers, with `stream`: see `service.scheduling.random_numbers`.
        stream: Which of the seed's streams of numbers they are.
        detokenizer: What `Detokenizer.save` returned.
        held: Text that has come out of the detokenizer and was shown to nobody: it may be the beginning of a stop
            string, or stands behind one. Mirrored if the text is written from its end.
        counted: int32 (ids,) and float32 (ids,): ids that penalties count, and how often each was drawn.
    """

    model: ModelVersion
    weights_sha256: str
    point: Point
    seed: int
    stream: int
    detokenizer: Any
    held: str
    counted: tuple[np.ndarray, np.ndarray]

    @property
    def origin(self) -> bytes:
        """What tells the state from others, by its bits."""
        return hashlib.blake2b(self.point.state.tobytes(), digest_size=16).digest()

    def branch(self, choice: int) -> int:
        """Return the stream of a choice that goes on from here: the first has this text's own, the others new ones."""
        if choice == 0:
            return self.stream
        name = f"{self.seed} {self.stream} {self.point.position} {choice}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")

    def to_bytes(self) -> bytes:
        """Return it in as few bytes as is quick: floats of a state hardly get smaller, ids and words do."""
        ids, counts = self.counted
        head = orjson.dumps(
            {
                "model": self.model.name,
                "version": self.model.version,
                "weights": self.weights_sha256,
                "seed": self.seed,
                "stream": self.stream,
                "position": self.point.position,
                "detokenizer": self.detokenizer,
                "held": self.held,
                "sizes": [len(self.point.state), len(self.point.unread), len(ids)],
            }
        )
        arrays = (
            self.point.state.astype("<f4"),
            self.point.unread.astype("<i4"),
            ids.astype("<i4"),
            counts.astype("<f4"),
        )
        return zlib.compress(b"".join([_LENGTH.pack(len(head)), head, *(array.tobytes() for array in arrays)]))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read what `to_bytes` returned. Bytes that come from anybody else are unpacked to whatever size they say."""
        content = zlib.decompress(content)
        (length,) = _LENGTH.unpack_from(content)
        place = _LENGTH.size + length
        head = orjson.loads(content[_LENGTH.size : place])
        size, num_remaining_prompt_tokens, num_ids = head["sizes"]
        arrays = []
        for count, kind in ((size, "<f4"), (num_remaining_prompt_tokens, "<i4"), (num_ids, "<i4"), (num_ids, "<f4")):
            array = np.frombuffer(content, kind, count, place)
            # In this machine's order, whatever that is.
            arrays.append(array.astype(array.dtype.newbyteorder("=")))
            place += array.nbytes
        state, unread, ids, counts = arrays
        return cls(
            model=ModelVersion(head["model"], head["version"]),
            weights_sha256=head["weights"],
            point=Point(state, unread, head["position"]),
            seed=head["seed"],
            stream=head["stream"],
            detokenizer=head["detokenizer"],
            held=head["held"],
            counted=(ids, counts),
        )
