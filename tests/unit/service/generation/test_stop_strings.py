"""The stop string that is complete first is found, however the text is chunked."""

from hypothesis import given
from hypothesis import strategies as st

from service.generation.choice import StopFinder, StopMatch, Stops

TEXT = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4)


@given(text=TEXT, stops=STOPS, data=st.data())
def test_a_match_is_what_searching_the_whole_text_finds(text, stops, data):
    """The longest stop string at the first end of any; without one, the longest that may still be completed."""
    finder, place = StopFinder(Stops(stops)), 0
    found = None
    while place < len(text) and found is None:
        size = data.draw(st.integers(1, 7))
        found = finder.feed(text[place : place + size])
        place += size if found is None else 0
    ends = [i for i in range(1, len(text) + 1) if any(text[:i].endswith(stop) for stop in stops)]
    if ends:
        length = max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
        assert found == StopMatch(ends[0] - place, length)
    else:
        assert found is None
        pending = [n for stop in stops for n in range(len(stop)) if n and text.endswith(stop[:n])]
        assert finder.num_pending == max(pending, default=0)


def test_a_repetitive_stop_string_is_found_without_rescanning():
    """Its borders say where to continue after a mismatch, so no character of the text is compared from the start."""
    stops = Stops(["a" * 999 + "b"])
    (pattern,) = stops.stops
    assert pattern.borders[998] == 998
    finder = StopFinder(stops)
    assert finder.feed("a" * 5000) is None
    assert finder.num_pending == 999
    assert finder.feed("b") == StopMatch(1, 1000)
