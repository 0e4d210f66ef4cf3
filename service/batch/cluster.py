"""The Ray cluster that sends the requests. Does not import Ray, which is an optional package."""

import importlib.util
import os
import secrets
from dataclasses import dataclass

from service.batch.errors import UsageError

LOCAL = "local"


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster and the number of workers on it.

    Attributes:
        address: Of a running cluster, as `ray.init` takes it; LOCAL: started for this run and stopped after it.
        num_workers: Processes that share the concurrent requests; None: one per machine.
    """

    address: str
    num_workers: int | None


def prepare(cluster: Cluster) -> None:
    """Check that Ray is installed, and set the environment variables that it reads on import.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--ray needs Ray: pip install -r requirements/batch-ray.txt")
    # No usage statistics, and the logs of its processes stay in their files.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if cluster.address == LOCAL and "RAY_AUTH_MODE" not in os.environ:
        # Otherwise Ray stores a token in the home directory, for all clusters of this user.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
