"""The context of a request: whose models its key may use, and its lease of the memory budget."""

from contextlib import closing

import pytest

from service.context import FREE_BYTES, MemoryBudget, MemoryLease, RequestContext, owned_name
from service.errors import InvalidRequest, MemoryExhausted

MINE, THEIRS = owned_name("alice", "book"), owned_name("bob", "book")


@pytest.mark.parametrize(
    ("context", "allowed"),
    [
        (RequestContext(tenant="alice", roles=("generate",)), {"demo", "other", MINE}),
        (RequestContext(tenant="bob", roles=("generate",)), {"demo", "other", THEIRS}),
        (RequestContext(tenant="carol", roles=("generate",)), {"demo", "other"}),
        (RequestContext(tenant="carol", roles=("admin",)), {"demo", "other", MINE, THEIRS}),
        (RequestContext(tenant="alice", roles=("generate",), models=("d*",)), {"demo"}),
        (RequestContext(tenant="alice", roles=("generate",), models=("demo", "ft-*")), {"demo", MINE}),
        (RequestContext(), {"demo", "other", MINE, THEIRS}),
    ],
)
def test_a_tenants_models_are_its_own(context, allowed):
    assert {name for name in ("demo", "other", MINE, THEIRS) if context.may_use(name)} == allowed


@pytest.mark.parametrize(
    ("tenant", "roles", "managed"),
    [
        ("alice", ("generate", "read"), set()),
        ("alice", ("train",), {MINE}),
        ("bob", ("train",), {THEIRS}),
        ("carol", ("train",), set()),
        ("carol", ("admin",), {"demo", MINE, THEIRS}),
        ("", ("train",), set()),
    ],
)
def test_a_model_is_managed_by_an_admin_or_by_the_tenant_that_trained_it(tenant, roles, managed):
    context = RequestContext(tenant=tenant, roles=roles)
    assert {name for name in ("demo", MINE, THEIRS) if context.may_manage(name)} == managed


def test_an_owned_name_says_nothing_about_the_tenant_and_is_the_same_each_time():
    assert owned_name("", "book") == "book"
    assert owned_name("alice", "book") == MINE != THEIRS
    assert "alice" not in MINE
    assert len(owned_name("x" * 64, "y" * 40)) <= 64


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
