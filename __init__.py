"""worldloop: a learned video world that remembers, behind the Gymnasium interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .envs.registration import register_all

if TYPE_CHECKING:
    from .world_models.pretrained import load_world

__all__ = ["load_world"]
__version__ = "0.1.0"

register_all()


def __getattr__(name: str) -> Any:
    if name == "load_world":
        from .world_models.pretrained import load_world

        return load_world
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
