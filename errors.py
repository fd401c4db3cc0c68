"""The errors worldloop raises for reasons a user can mend."""

from __future__ import annotations


class WorldloopError(Exception):
    """Base of every error caused by input, files or the machine rather than by a bug.

    The message is one sentence that says what was expected, what came, and what to do. The command line prints
    it alone, without a traceback, and exits with status 1.
    """


class DataError(WorldloopError):
    """Recorded experience is missing, damaged, or not what was asked for."""


class ConfigError(WorldloopError):
    """A configuration contradicts itself, or does not fit the checkpoint or world it is used with."""


class WorldFormatError(WorldloopError):
    """A saved world or checkpoint is unknown, damaged, or of another format version."""


class EngineError(WorldloopError):
    """A game engine could not start, refused a map, or died."""
