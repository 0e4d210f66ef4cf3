"""A running request, apart from its output."""

from concurrent.futures import Future
from unittest.mock import Mock

import pytest

from service.errors import ClientGone
from service.generation.running_request import RunningRequest


def test_a_cancellation_ends_a_wait_at_once():
    """The awaited future, such as a pattern's compilation, is cancelled; the deadline is not waited for."""
    others = {name: Mock() for name in ("scheduler", "admission", "metrics")}
    request = RunningRequest(Mock(card=Mock(state_size=1)), None, Mock(), 60.0, **others, max_unfinished=1)

    class Compilation(Future):
        def result(self, timeout=None):
            request.cancel()
            assert self.cancelled()
            return super().result(timeout)

    with pytest.raises(ClientGone):
        request.wait(Compilation())
