"""The context of a request: which models its key may use and manage."""

import pytest

from service.context import RequestContext, owned_name

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
