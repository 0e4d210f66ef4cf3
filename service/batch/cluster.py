"""Which of Ray's machines send the requests. Imports nothing of Ray, which is an optional package."""

import importlib.util
import os
import secrets
from dataclasses import dataclass

from service.batch.errors import UsageError

LOCAL = "local"


@dataclass(frozen=True)
class Cluster:
    """Ray's workers.

    Attributes:
        address: Of a cluster that runs, as `ray.init` takes it; LOCAL: made for this run, and ended with it.
        num_workers: Processes that share the requests at once; None: one for each machine.
    """

    address: str
    num_workers: int | None


def prepare(cluster: Cluster) -> None:
    """Look for the package, and set what Ray reads from the environment while it is imported.

    Raises:
        UsageError: it is not there.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--ray needs Ray: pip install -r requirements/batch-ray.txt")
    # Nothing is reported to anybody, and what its processes log stays in their files.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if cluster.address == LOCAL and "RAY_AUTH_MODE" not in os.environ:
        # Ray would keep a token in the home directory, for every cluster of this user's.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
