"""Directories of data sets: making them, syncing them, and clearing what killed writers left in them."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from ..errors import DataError

_FILE_AGE = 60.0
_DIRECTORY_AGE = 3600.0


def make_directory(path: Path) -> None:
    """Create ``path`` and its parents.

    Raises:
        DataError: that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"Cannot create the directory {path}: {error.strerror}.") from error


def sync_directory(path: Path) -> None:
    """Make the names in ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files and directories in ``directory`` that nobody can still be writing.

    They are told by their age (a minute for a file, an hour for a directory) and not by their writer's
    process, which may run on another machine.
    """
    now = time.time()
    for path in directory.glob(".*"):
        try:
            age = now - path.stat().st_mtime
        except FileNotFoundError:
            continue
        if path.is_dir() and age > _DIRECTORY_AGE:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path.suffix in (".h5", ".json") and age > _FILE_AGE:
            path.unlink(missing_ok=True)
