"""A checkpoint survives serialization bit by bit, and its branches have random numbers of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.generation.resume_tokens import Checkpoint, ResumePoint
from service.params import ModelVersion

FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=20)
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=20)


def saved(
    state=(0.5, -1.0),
    unread_ids=(7,),
    num_sampled=3,
    seed=5,
    random_stream=0,
    detokenizer=None,
    held_back="",
    counts=(),
):
    """Return a checkpoint; fields that are passed replace the defaults."""
    ids = np.array([token_id for token_id, _ in counts], np.int32)
    numbers = np.array([number for _, number in counts], np.float32)
    point = ResumePoint(np.array(state, np.float32), np.array(unread_ids, np.int32), num_sampled)
    return Checkpoint(
        ModelVersion("demo", 3), "ab" * 32, point, seed, random_stream, detokenizer, held_back, (ids, numbers)
    )


@given(
    FLOATS,
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20),
    st.integers(0, 2**40),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from([None, True, "e282", [3, " a"]]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 1000)), max_size=5),
)
def test_a_checkpoint_is_unchanged_after_a_round_trip(
    state, unread_ids, position, seed, stream, detokenizer, held_back, counts
):
    """Every bit of the state, NaN and -0.0 included, and every other field."""
    text = saved(state, unread_ids, position, seed, stream, detokenizer, held_back, counts)
    back = Checkpoint.from_bytes(text.to_bytes())
    assert back.point.state.tobytes() == text.point.state.tobytes()
    assert back.point.unread_ids.tolist() == list(unread_ids)
    assert [array.tolist() for array in back.token_counts] == [array.tolist() for array in text.token_counts]
    assert [array.dtype for array in (back.point.state, back.point.unread_ids, *back.token_counts)] == [
        np.float32,
        np.int32,
        np.int32,
        np.float32,
    ]
    for name in ("model", "weights_sha256", "seed", "random_stream", "detokenizer", "held_back"):
        assert getattr(back, name) == getattr(text, name)
    assert back.point.num_sampled == position
    assert back.point.state.flags.writeable


def test_a_serialized_checkpoint_is_hardly_larger_than_its_state():
    """Four bytes per float, and less than 300 bytes for everything else."""
    state = np.random.default_rng(0).normal(size=2048).astype(np.float32)
    assert len(saved(state).to_bytes()) < 4 * 2048 + 300


@pytest.mark.parametrize("stream", [0, 3, 2**64 - 1])
def test_branch_0_keeps_the_random_stream_and_the_others_are_new(stream):
    """Streams of branches, of their branches and of later positions differ, and each is reproducible."""
    text = saved(random_stream=stream)
    assert text.branch(0) == stream
    streams = [
        saved(random_stream=stream, num_sampled=position).branch(choice)
        for position in (3, 4)
        for choice in range(1, 50)
    ]
    deeper = [saved(random_stream=branch).branch(1) for branch in streams]
    assert len({stream, *streams, *deeper}) == 1 + 2 * 98
    assert [text.branch(choice) for choice in range(1, 50)] == streams[:49]
    assert all(0 <= branch < 2**64 for branch in streams)


def test_a_resume_point_advances_with_or_without_a_new_state():
    """With a new state only the last token is unread; without one, all tokens since the old state are."""
    point = ResumePoint(np.zeros(2, np.float32), np.array([4, 5], np.int32), 10)
    kept = point.after([6, 7], None)
    assert (kept.unread_ids.tolist(), kept.num_sampled, kept.state is point.state) == ([4, 5, 6, 7], 12, True)
    moved = kept.after([8, 9, 1], np.ones(2, np.float32))
    assert (moved.unread_ids.tolist(), moved.num_sampled, moved.state.tolist()) == ([1], 15, [1, 1])
