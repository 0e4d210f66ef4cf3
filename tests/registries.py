"""A model registry that a test polls, in place of a thread."""

from service.backends.registry import ModelRegistry


class PolledRegistry(ModelRegistry):
    """A model registry without a thread."""

    def refresh(self) -> None:
        """Poll the repository and every backend once, and wait for all probes."""
        self._config.read()
        for replica in self._replicas.discover():
            for thread in self._checks.check(replica):
                thread.join()
        self._merge()
