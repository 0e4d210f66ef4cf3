"""Which of Ray's machines send the requests. Imports nothing of Ray, which is an optional package."""

import importlib.util
from dataclasses import dataclass

from service.batch.errors import Unusable

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


def check_installed() -> None:
    """Look for the package.

    Raises:
        Unusable: it is not there.
    """
    if importlib.util.find_spec("ray") is None:
        raise Unusable("--ray needs Ray: pip install -r requirements/batch-ray.txt")
