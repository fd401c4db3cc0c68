"""A private directory per engine, and the sweep that removes what killed processes left behind."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_PREFIX = "worldloop-doom-"
_SHARED_MEMORY = Path("/dev/shm")


class EngineHome:
    """Directory with an engine's archive, settings and notes; the engine's working directory.

    ``owner.json`` says which process made it, ``engine.json`` (by `launcher`) which process is its engine and how its
    shared memory is named. `sweep` reads both.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        (self.path / "owner.json").write_text(json.dumps(_identity(os.getpid())))

    def launcher_for(self, engine: Path) -> Path:
        """An executable that starts ``engine`` in this directory; give it to ViZDoom in the engine's place."""
        script = self.path / "engine.sh"
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")), str(self.path)]
        words = " ".join(shlex.quote(word) for word in [*command, str(os.getpid()), str(engine)])
        script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        script.chmod(0o700)
        return script

    @property
    def engine_pid(self) -> int | None:
        """Process id of the engine, once it has started."""
        note = _read(self.path / "engine.json")
        return int(note["pid"]) if note else None

    def hide_shared_memory(self) -> None:
        """Take the names of the shared memory away, which both processes hold by now: it then goes when they do."""
        _unlink_shared_memory(_read(self.path / "engine.json"))

    def remove(self) -> None:
        """End the engine if it still runs, and remove its shared memory and this directory."""
        _remove(self.path)


def sweep() -> int:
    """Remove what dead processes left: engines, their shared memory, their directories. Returns how many.

    Only homes whose owner was of this machine's present boot, process namespace and user, and is gone, are touched.
    """
    here, removed = _identity(os.getpid()), 0
    for home in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        owner = _read(home / "owner.json")
        if owner is None or owner.get("space") != here["space"] or owner == here:
            continue
        if _identity(int(owner["pid"]))["started"] != owner["started"]:
            _log.info("Removing the engine that process %s left behind.", owner["pid"])
            _remove(home)
            removed += 1
    return removed


def _remove(home: Path) -> None:
    note = _read(home / "engine.json")
    if note:
        if _runs_in(int(note["pid"]), home):
            os.kill(int(note["pid"]), signal.SIGKILL)
        _unlink_shared_memory(note)
    shutil.rmtree(home, ignore_errors=True)


def _unlink_shared_memory(note: dict[str, Any] | None) -> None:
    if note and sys.platform == "linux":
        for path in _SHARED_MEMORY.glob(f"ViZDoom*{note['instance']}"):
            path.unlink(missing_ok=True)


def _runs_in(pid: int, home: Path) -> bool:
    """Whether process ``pid`` is the engine of ``home``: the directory's random name is in its command line."""
    try:
        return os.fsencode(home) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _identity(pid: int) -> dict[str, Any]:
    """Who process ``pid`` is: a number is used again, its start time is not. ``started`` is None for a dead process."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = [boot, os.readlink("/proc/self/ns/pid"), os.getuid()]
    except OSError:
        started, space = None, None
    return {"pid": pid, "started": started, "space": space}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None
