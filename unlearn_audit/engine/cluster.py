"""A Ray cluster: joined, or started on this machine, for work that is independent; Ray only says who does what where.

What work comes to lies in files that all nodes see, so that a node which is lost, or the cluster itself, takes nothing
with it that was finished.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from unlearn_audit.errors import UsageError

RETRIES = 3  # of a task whose node or process is lost


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """Let a cluster be used in the block.

    Args:
        address: of the cluster; None takes that of RAY_ADDRESS, or starts one on this machine.

    Yields:
        The module `ray`, connected.

    Raises:
        UsageError: Ray is not installed, or there is no cluster.
    """
    try:
        ray = import_module("ray")
    except ModuleNotFoundError as missing:
        raise UsageError("--backend ray needs Ray: pip install 'unlearn-audit[ray]'") from missing
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, ValueError) as problem:
        raise UsageError(f"--address {address}: no Ray cluster answers there ({problem})") from problem
    try:
        yield ray
    finally:
        ray.shutdown()


def slots(ray: Any, *, gpus: int) -> int:
    """Return how many tasks a cluster has room for: one a GPU where they need one, else one a CPU core."""
    return max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
