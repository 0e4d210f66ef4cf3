"""Authentication: turns an Authorization header into a request's context with the limits and rate limits of its key."""

from dataclasses import replace
from functools import partial

from service.access.keys import DEFAULT_ROLES, KeyLimits, KeyRing, read_keys
from service.access.ratelimits import RateLimiter, connection_pool
from service.context import ROLES, RequestContext, Role
from service.errors import Unauthorized
from service.http_server.addresses import is_loopback
from service.settings import Settings


class Authenticator:
    """Authenticates API keys; the returned context has the key's limits, and the functions that charge rate limits.

    Without keys, none is required, and the defaults limit all requests together; then only a server that is reachable
    only on loopback (`is_local`) lets clients train and manage models.
    """

    def __init__(
        self, keys: KeyRing | None, limiter: RateLimiter, defaults: KeyLimits, *, is_local: bool = True
    ) -> None:
        self._keys, self._limiter, self._defaults, self._is_local = keys, limiter, defaults, is_local

    def authenticate(self, authorization: str | None) -> RequestContext:
        """Authenticate a request by its Authorization header.

        Where no keys are required, the header is ignored: clients send arbitrary keys, and the evaluation harness an
        empty one. Otherwise raise Unauthorized if the key is missing, invalid or expired.
        """
        if self._keys is None:
            return self._context("", "", self._defaults, ROLES if self._is_local else DEFAULT_ROLES)
        scheme, _, presented = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not presented.strip():
            raise Unauthorized("an API key is required: send the header Authorization: Bearer <key>")
        key = self._keys.find(presented.strip())
        limits = self._defaults.model_copy(update=key.limits.model_dump(exclude_none=True))
        context = self._context(key.id, key.tenant, limits, key.roles)
        return replace(context, models=key.models, watch_key=partial(self._keys.watch, key))

    def refuses(self, authorization: str | None, role: Role | None) -> bool:
        """Return whether a request has no valid key, or its key lacks a role."""
        try:
            context = self.authenticate(authorization)
        except Unauthorized as error:
            error.release()
            return True
        return role is not None and role not in context.roles

    def _context(self, name: str, tenant: str, limits: KeyLimits, roles: tuple[Role, ...]) -> RequestContext:
        charge = partial(self._limiter.charge, name)
        return RequestContext(
            name,
            limits.max_sequences,
            limits.max_queued_tokens,
            tenant,
            roles,
            charge_request=partial(charge, "requests", limits.requests_per_minute, 1),
            charge=partial(charge, "tokens", limits.tokens_per_minute),
        )


def is_local(settings: Settings) -> bool:
    """Return whether the server is reachable only on loopback."""
    return is_loopback(settings.client_host) and not settings.num_proxies


def build_authenticator(settings: Settings) -> Authenticator:
    """Open the key file and the rate limit counters that the settings name."""
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    defaults = KeyLimits(
        max_sequences=settings.max_key_sequences,
        max_queued_tokens=settings.max_key_tokens,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )
    keys = None if settings.keys_file is None else KeyRing(settings.keys_file)
    return Authenticator(keys, RateLimiter(redis_url), defaults, is_local=is_local(settings))


def check_authenticator(settings: Settings) -> None:
    """Validate what `build_authenticator` will open in another process; open nothing that would outlive a fork."""
    if settings.keys_file is not None:
        read_keys(settings.keys_file)
    if settings.redis_url is not None:
        connection_pool(settings.redis_url.get_secret_value())
