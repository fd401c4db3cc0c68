"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from .errors import WorldloopError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIGEST = 32


def sealed(data: bytes) -> bytes:
    """``data`` behind its own digest, so that `unsealed` notices every change."""
    return hashlib.sha256(data).digest() + data


def unsealed(data: bytes) -> bytes | None:
    """What `sealed` was given, or None if a bit of it has changed since."""
    body = data[_DIGEST:]
    return body if hashlib.sha256(body).digest() == data[:_DIGEST] else None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; on leaving without an error it is fsynced and takes ``path``'s place.

    After an error, Ctrl-C or a kill, whatever stood at ``path`` before still stands there.

    Raises:
        WorldloopError: the disk is full, or the directory cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _told_where(path):
            yield temporary
            temporary.chmod(0o644)
            _take_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def growing(path: Path, header: bytes) -> Iterator[BinaryIO]:
    """A file to append to, ``path`` with ``.partial`` behind it; on leaving without an error it is fsynced and takes
    ``path``'s place.

    After an error, Ctrl-C or a kill, what has been written stays there, and the next call goes on behind it if it
    begins with the same ``header``. Its end may then be torn.

    Raises:
        WorldloopError: the disk is full, or the directory cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with _told_where(path):
        with partial.open("ab+") as file:
            file.seek(0)
            if file.read(len(header)) != header:
                file.truncate(0)
                file.write(header)
            file.seek(0, os.SEEK_END)
            yield file
        _take_place(partial, path)


@contextmanager
def _told_where(path: Path) -> Iterator[None]:
    """What a full disk means for ``path``."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # Libraries written in other languages report the system's error as text.
        if getattr(error, "errno", None) in _FULL or any(f"(os error {number})" in str(error) for number in _FULL):
            raise WorldloopError(
                f"The disk is full: {path} was not written; what stood there before is untouched. "
                "Free space and run again."
            ) from error
        raise


def _take_place(written: Path, path: Path) -> None:
    with written.open("rb+") as file:
        os.fsync(file.fileno())
    written.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON to ``path``, whole or not at all."""
    write_bytes(path, (json.dumps(data, indent=2, sort_keys=True) + "\n").encode())
