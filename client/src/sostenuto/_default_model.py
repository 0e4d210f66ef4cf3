"""The model of requests that name none: the first that the server lists, looked up once for all threads."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Callable, TypeVar

from sostenuto._errors import NotFound

T = TypeVar("T")


class DefaultModel:
    """The name of the default model, cached until a request gets NotFound. Thread-safe: threads share one lookup."""

    def __init__(self, look_up: Callable[[], str]) -> None:
        self._look_up = look_up
        self._lock = threading.Lock()
        self._lookup: Future[str] | None = None

    def name(self) -> str:
        """Return the name.

        Raises:
            SostenutoError: the lookup failed; the next call repeats it.
        """
        with self._lock:
            lookup, is_first = self._lookup, self._lookup is None
            if lookup is None:
                lookup = self._lookup = Future()
        if is_first:
            try:
                lookup.set_result(self._look_up())
            except BaseException as error:
                self._lookup = None
                lookup.set_exception(error)
                raise
        return lookup.result()

    def resetting(self, send: Callable[[], T]) -> T:
        """Call `send`; on NotFound drop the name, as the server may serve other models by now."""
        try:
            return send()
        except NotFound:
            self._lookup = None
            raise
