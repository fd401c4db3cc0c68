"""`CDiTConfig`: size of the video model, and what it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import ConfigError
from .placement import CAMERAS, Camera

Positions = Literal["reframed", "true", "untimed"]


@dataclass(frozen=True)
class CDiTConfig:
    """Size of the transformer. Papers: S 12/384/6, B 12/768/12, L 24/1024/16, XL 28/1152/16."""

    depth: int = 6
    """Number of blocks."""
    width: int = 160
    """Token width D."""
    heads: int = 5
    """Attention heads; D / heads must be even."""
    patch: int = 1
    """Side of the square of latents that makes one token."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over D."""
    context: tuple[int, ...] = (2, 2, 2, 1)
    """One entry per recent frame the model sees, oldest first: the side of the square of tokens packed into one
    (1, 2, 4 are WorldPack's rates 1, 1/4, 1/16)."""
    retrieved: tuple[int, ...] = ()
    """The same for each frame retrieved from memory, best first."""
    rates: tuple[int, ...] = ()
    """Other pool sizes that have an input projection too, so that a world can be used with them."""
    compressed: int = 0
    """Older frames whose keys and values are kept, pooled (RELIC), beyond the recent ones, which are then all whole: a
    multiple of 18. Instead of retrieved frames."""
    recurrent: int = 0
    """Channels of a recurrent memory (ConvLSTM), which the context then holds too; 0 for none."""
    positions: Positions = "reframed"
    """When retrieved frames are said to be: right before the recent ones, in their order (WorldPlay's temporal
    reframing); when they were; or, ``"untimed"``, all at once, so that none is known to be the newer one."""
    camera: Camera = "none"
    """How cameras enter the cross-attention, see `placement`."""
    memory_attention: Literal["joint", "own"] = "joint"
    """Whether retrieved frames are looked at together with the recent ones, or by a cross-attention of their own, which
    alone is told rays or poses (WorldMem)."""

    def __post_init__(self) -> None:
        if not self.context or any(pool not in (1, 2, 4) for pool in self.pools):
            raise ConfigError(
                "A context is a list of pool sizes 1, 2 or 4, one per frame, of at least one recent frame; got "
                f"{self.context} and {self.retrieved}."
            )
        if self.recurrent < 0:
            raise ConfigError(f"A recurrent memory has at least 0 channels, got {self.recurrent}.")
        if self.positions not in get_args(Positions) or self.camera not in CAMERAS:
            raise ConfigError(
                f"Positions are one of {', '.join(get_args(Positions))} and camera is one of {', '.join(CAMERAS)}; got "
                f"{self.positions!r} and {self.camera!r}."
            )
        if self.compressed and (self.compressed % 18 or self.retrieved or {*self.context} != {1}):
            raise ConfigError(
                "A compressed cache keeps a multiple of 18 older frames beside whole recent ones, and retrieves none; "
                f"got {self.compressed} beside {self.context} and {self.retrieved}."
            )
        if self.memory_attention not in ("joint", "own") or (self.memory_attention == "own" and self.camera == "prope"):
            raise ConfigError(
                "memory_attention is 'joint' or 'own', and an own one is told rays, poses or nothing; got "
                f"{self.memory_attention!r} with camera {self.camera!r}."
            )
        if self.camera == "prope" and (self.width // self.heads) % 4:
            raise ConfigError(f"PRoPE needs a head width divisible by 4, got {self.width} over {self.heads} heads.")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(f"Width {self.width} over {self.heads} heads must be an even whole number.")

    @property
    def pools(self) -> tuple[int, ...]:
        """The pool sizes that have an input projection."""
        return tuple(sorted({1, *self.context, *self.retrieved, *self.rates}))
