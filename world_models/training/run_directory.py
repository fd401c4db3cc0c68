"""`claim`: a directory belongs to one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...files import write_json


def claim(out: Path, fingerprint: str, about: dict[str, Any] | None = None) -> None:
    """Make ``out`` the directory of a run, or find that it is: ``run.json`` says which.

    Args:
        out: the directory.
        fingerprint: of all that decides what comes of the run.
        about: what else is worth keeping there.

    Raises:
        ConfigError: it holds another run; nothing in it is touched.
    """
    path = out / "run.json"
    if path.exists():
        try:
            begun = json.loads(path.read_text()).get("fingerprint")
        except (ValueError, AttributeError):
            begun = None
        if begun != fingerprint:
            raise ConfigError(
                f"{out} holds a run of another configuration, world or data; choose another directory (--out), or "
                "repeat the command that it was begun with."
            )
    write_json(path, {"fingerprint": fingerprint, **(about or {})})
