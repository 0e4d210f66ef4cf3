"""Authentication: from an Authorization header to a principal with its quota and rate limits.

Knows keys and their limits. Does not know Flask or the contents of a request.
"""

from dataclasses import dataclass, replace
from functools import partial

from service.access.keys import KeyLimits, KeyRing, read_keys
from service.access.ratelimits import RateLimiter, check_redis_url
from service.context import Quota, RequestContext
from service.errors import Unauthorized
from service.settings import Settings


@dataclass(frozen=True)
class Principal:
    """The authenticated sender of a request.

    Attributes:
        key_id: The id of its key; "" where no keys are required.
        context: Its quota and its rate limit charges, as the engine takes them.
    """

    key_id: str
    context: RequestContext


class Authenticator:
    """Authenticates API keys; a principal has its quota, and the functions that charge its rate limits.

    Without keys, none is required, and the defaults limit all requests together.
    """

    def __init__(self, keys: KeyRing | None, limiter: RateLimiter, defaults: KeyLimits) -> None:
        self._keys, self._limiter, self._defaults = keys, limiter, defaults

    def authenticate(self, authorization: str | None) -> Principal:
        """Authenticate a request by its Authorization header.

        Where no keys are required, the header is ignored: clients send whatever they have, and the evaluation harness
        sends an empty one.

        Raises:
            Unauthorized: the key is missing, invalid or expired; the message does not say which part of it is wrong.
        """
        if self._keys is None:
            return self._principal("", "", self._defaults, RequestContext())
        scheme, _, presented = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not presented.strip():
            raise Unauthorized("an API key is required: send the header Authorization: Bearer <key>")
        key = self._keys.find(presented.strip())
        context = RequestContext(watch_key=partial(self._keys.watch, key))
        return self._principal(key.id, key.tenant, _with_defaults(key.limits, self._defaults), context)

    def _principal(self, name: str, tenant: str, limits: KeyLimits, context: RequestContext) -> Principal:
        quota = Quota(name, limits.max_sequences, limits.max_queued_tokens, tenant)
        charge = partial(self._limiter.charge, name)
        return Principal(
            name,
            replace(
                context,
                quota=quota,
                charge_request=partial(charge, "requests", limits.requests_per_minute, 1),
                charge=partial(charge, "tokens", limits.tokens_per_minute),
            ),
        )


def _with_defaults(limits: KeyLimits, defaults: KeyLimits) -> KeyLimits:
    return KeyLimits(**{**defaults.model_dump(), **limits.model_dump(exclude_none=True)})


def build_authenticator(settings: Settings) -> Authenticator:
    """Open the key file and the rate limit counters that the settings name.

    Raises:
        KeyFileError: the key file cannot be read.
        RedisUrlError: the Redis URL is invalid.
    """
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    defaults = KeyLimits(
        max_sequences=settings.max_key_sequences,
        max_queued_tokens=settings.max_key_tokens,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )
    keys = None if settings.keys_file is None else KeyRing(settings.keys_file)
    return Authenticator(keys, RateLimiter(redis_url), defaults)


def check_authenticator(settings: Settings) -> None:
    """Validate what `build_authenticator` will open in another process; open nothing that would outlive a fork."""
    if settings.keys_file is not None:
        read_keys(settings.keys_file)
    if settings.redis_url is not None:
        check_redis_url(settings.redis_url.get_secret_value())
