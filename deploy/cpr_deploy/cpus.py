"""How many CPUs there are to work with."""

from __future__ import annotations

import os
from pathlib import Path


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its container if there is one.

    A container may see all CPUs of its host; more threads than its quota slow each other down.
    """
    # Affinity is not known on macOS and Windows.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cpus
