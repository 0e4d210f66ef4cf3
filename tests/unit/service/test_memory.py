"""The memory budget: requests share it by leases, and small ones do not count."""

from contextlib import closing

import pytest

from service.errors import InvalidRequest, MemoryExhausted
from service.memory import FREE_BYTES, MemoryBudget, MemoryLease

MAX = 10 * FREE_BYTES


def test_leases_share_the_budget_and_return_it():
    budget = MemoryBudget(MAX)
    first, second = MemoryLease(budget), MemoryLease(budget)
    first.hold(6 * FREE_BYTES, "the body")
    told = f"{6 * FREE_BYTES} of {MAX} bytes are in use .* needs {5 * FREE_BYTES}"
    with pytest.raises(MemoryExhausted, match=told) as e:
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
    budget = MemoryBudget(MAX)
    with closing(MemoryLease(budget)) as lease:
        lease.hold(8 * FREE_BYTES, "the body")
        lease.hold(9 * FREE_BYTES, "prompt")
        # A retry cannot help, so it is not `MemoryExhausted`.
        with pytest.raises(InvalidRequest, match=f"prompt must need at most {MAX} bytes of memory, got {MAX + 1}") as e:
            lease.hold(MAX + 1, "prompt", param="prompt")
        assert e.value.param == "prompt"
        assert budget.num_bytes == 9 * FREE_BYTES
        lease.shrink(2 * FREE_BYTES)
        lease.shrink(5 * FREE_BYTES)
        assert budget.num_bytes == 2 * FREE_BYTES
    assert budget.num_bytes == 0


def test_small_requests_pass_while_the_budget_is_exhausted():
    budget = MemoryBudget(MAX)
    MemoryLease(budget).hold(MAX, "the body")
    MemoryLease(budget).hold(FREE_BYTES, "the body")
    with pytest.raises(MemoryExhausted):
        MemoryLease(budget).hold(FREE_BYTES + 1, "the body")
