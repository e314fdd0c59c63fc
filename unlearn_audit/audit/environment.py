"""What an audit's numbers were computed with and on: versions, device, seed, and the commit of the caller's folder."""

import platform
import subprocess
from typing import Any

import numpy as np
import torch

from unlearn_audit.engine import Device


def environment(compute: Device, seed: int) -> dict[str, Any]:
    """Return what the numbers were computed with and on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": str(compute.device) if compute.device.type != "cuda" else torch.cuda.get_device_name(compute.device),
        "precision": compute.precision,
        "chunk": compute.chunk,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the folder that the command was given in, if it is a git checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
