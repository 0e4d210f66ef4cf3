"""The budget for the memory of requests: what is held, what is refused, and what small requests get."""

import pytest

from service.errors import InvalidRequest, MemoryExhausted
from service.memory import FREE_BYTES, MemoryBudget

MAX = 10 * FREE_BYTES


def test_leases_share_the_budget_and_give_it_back():
    """What one request holds another cannot have, until the first is over."""
    budget = MemoryBudget(MAX)
    first, second = budget.lease(), budget.lease()
    first.hold(6 * FREE_BYTES, "the body")
    with pytest.raises(
        MemoryExhausted, match=f"{6 * FREE_BYTES} of {MAX} bytes are taken .* needs {5 * FREE_BYTES}"
    ) as e:
        second.hold(5 * FREE_BYTES, "the body")
    assert (e.value.status, e.value.code, e.value.retry_after_s) == (429, "memory_full", 1)
    second.hold(4 * FREE_BYTES, "the body")
    first.close()
    first.close()
    second.hold(MAX, "the body")
    assert budget.num_bytes == MAX
    second.close()
    assert budget.num_bytes == 0


def test_a_lease_grows_and_shrinks():
    """A request holds what its present step needs, not the sum of all steps; a refused step leaves it as it was."""
    budget = MemoryBudget(MAX)
    with budget.lease() as lease:
        lease.hold(8 * FREE_BYTES, "the body")
        lease.hold(9 * FREE_BYTES, "prompt")
        with pytest.raises(InvalidRequest):
            lease.hold(MAX + 1, "prompt", param="prompt")
        assert budget.num_bytes == 9 * FREE_BYTES
        lease.shrink(2 * FREE_BYTES)
        lease.shrink(5 * FREE_BYTES)
        assert budget.num_bytes == 2 * FREE_BYTES
    assert budget.num_bytes == 0


def test_what_no_empty_server_would_admit_is_a_bad_request():
    """Trying again would not help, so it is 400 with the limit and the value."""
    with pytest.raises(
        InvalidRequest, match=f"prompt must need at most {MAX} bytes of memory, got {MAX + 1}"
    ) as caught:
        MemoryBudget(MAX).lease().hold(MAX + 1, "prompt", param="prompt")
    assert caught.value.param == "prompt"


def test_small_requests_pass_while_the_budget_is_taken():
    """Up to the allowance of each request nothing is counted."""
    budget = MemoryBudget(MAX)
    budget.lease().hold(MAX, "the body")
    budget.lease().hold(FREE_BYTES, "the body")
    with pytest.raises(MemoryExhausted):
        budget.lease().hold(FREE_BYTES + 1, "the body")
