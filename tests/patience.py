"""How long tests wait for other processes: far longer than any of them takes, since machines may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from subprocess import Popen

PATIENCE = 300.0
"""Seconds after which what has not happened never will."""


def wait_until(happened: Callable[[], object], process: Popen[str] | None = None) -> None:
    """Return as soon as ``happened()`` holds.

    Args:
        happened: what to wait for.
        process: what should bring it about; if it ends before, what it wrote to stderr is the failure.
    """
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s in vain"
        time.sleep(0.02)
