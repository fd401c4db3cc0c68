"""Agents that come with worldloop, and how any agent on disk is named."""

from __future__ import annotations

from pathlib import Path

from ...errors import WorldFormatError

_HERE = Path(__file__).parent


def bundled_agents() -> list[str]:
    """Names of the agents that come with worldloop."""
    return sorted(path.parent.name for path in _HERE.glob("*/agent.json"))


def agent_directory(name: str | Path) -> Path:
    """The directory of an agent: one that training wrote, or, where there is none of that name, a bundled one.

    Raises:
        WorldFormatError: neither exists.
    """
    if Path(name).is_dir():
        return Path(name)
    if str(name) in bundled_agents():
        return _HERE / str(name)
    raise WorldFormatError(
        f"There is no agent {str(name)!r}: it is neither a bundled one ({', '.join(bundled_agents()) or 'none'}) "
        "nor a directory with an agent in it."
    )
