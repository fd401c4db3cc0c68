"""What a world model is made of: one typed configuration, and the presets that fill it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from ..errors import ConfigError
from .actions import ActionSpec
from .memory.bank import WhenFull
from .memory.packing import packing_named
from .memory.retrieval import Strategy, strategy_named
from .perception.autoencoder import AutoencoderConfig, latent_grid
from .perception.state_encoder import StateConfig
from .prediction.config import CDiTConfig
from .prediction.flow import Sampler

Preset = Literal["nano", "tiny", "small", "base", "large", "xl"]
Imagination = Literal["video", "state"]
Motions = Literal["likeliest", "drawn"]
"""Where an action leads that walls may stop: where it most likely does, or, now and then, elsewhere."""


@dataclass(frozen=True)
class WorldConfig:
    """Everything that shapes a world model's parameters and its behaviour."""

    frame_size: tuple[int, int]
    """Height and width of frames in pixels, multiples of 8."""
    actions: ActionSpec
    """The action space of the real world it was recorded in."""
    fov: float = math.pi / 2
    """Horizontal field of view in radians."""
    denoising_steps: int = 2
    """Calls of the video model per imagined frame; more is sharper and slower, one gives the mean of what could be.
    With few, what is possible and not likely is never seen."""
    sampler: Sampler = "euler"
    """How frames are drawn in these steps: Euler's way, or with a memory of the step before, which shows in six steps
    as much of what is possible as Euler does in forty."""
    retrieval: str = "worldpack"
    """How frames are chosen from memory, where the context has room for any: a name of `STRATEGIES`."""
    capacity: int | None = None
    """Most frames a world remembers; None for no limit."""
    when_full: WhenFull = "oldest"
    """What a full memory does: forget its oldest frames but the first ones, or refuse another with an error."""
    imagination: Imagination = "video"
    """Draw every frame (``"video"``), or predict the next state alone (``"state"``): many times faster, with pictures
    only as good as a state holds them; memory is read, but what is imagined is not written to it."""
    motions: Motions = "likeliest"
    """Where actions lead: to the likeliest place, where no wall stops a walker unless it is more likely than not to be
    there; or one of two ways that a step may go, drawn by how likely they are."""
    ways: int = 1
    """Ways that steps may go, of which imagination in video knows where they lead: the likeliest alone, or two."""
    stopped_again: float = 0.0
    """How likely a step that has just moved nothing is to move nothing once more, as often as in the recordings,
    whatever the picture says. 0 leaves it to the picture, and an imagined one may look like free ground."""
    outcome_members: int = 1
    """Heads that predict reward and end; of several the mean counts, and their spread is an uncertainty."""
    error_head: bool = False
    """Whether the world has learned how wrong its frames are."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    cdit: CDiTConfig = field(default_factory=CDiTConfig)
    state: StateConfig | None = None
    """The state space; None for none."""

    def __post_init__(self) -> None:
        latent_grid(self.frame_size)
        if self.denoising_steps < 1:
            raise ConfigError(f"A world needs at least one denoising step, got {self.denoising_steps}.")
        if self.sampler not in get_args(Sampler):
            raise ConfigError(f"A sampler is one of {', '.join(get_args(Sampler))}; got {self.sampler!r}.")
        if self.outcome_members < 1:
            raise ConfigError(f"A world needs at least one outcome head, got {self.outcome_members}.")
        if not 0 < self.fov < math.pi:
            raise ConfigError(f"The field of view must lie between 0 and pi radians, got {self.fov}.")
        if self.imagination not in ("video", "state"):
            raise ConfigError(f"imagination is 'video' or 'state'; got {self.imagination!r}.")
        if self.imagination == "state" and self.state is None:
            raise ConfigError("This world has no state space to imagine in: imagination is 'video'.")
        if self.motions not in get_args(Motions):
            raise ConfigError(f"motions is one of {', '.join(get_args(Motions))}; got {self.motions!r}.")
        if self.ways not in (1, 2):
            raise ConfigError(f"A world knows 1 or 2 ways that a step may go; got {self.ways}.")
        if not 0 <= self.stopped_again <= 1:
            raise ConfigError(f"stopped_again is a probability, between 0 and 1; got {self.stopped_again}.")
        if self.motions == "drawn" and self.imagination == "video" and self.ways == 1:
            raise ConfigError("This world knows the likeliest way of a step alone: motions is 'likeliest' in video.")
        strategy_named(self.retrieval)

    @property
    def remembers(self) -> bool:
        """Whether the video model sees frames from long-term memory."""
        return bool(self.cdit.retrieved) and self.retrieval != "none"

    @property
    def strategy(self) -> Strategy:
        """How frames are chosen from memory."""
        return strategy_named(self.retrieval)

    @property
    def context(self) -> int:
        """K, the number of recent frames the video model sees."""
        return len(self.cdit.context)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return (self.autoencoder.channels, *latent_grid(self.frame_size))

    def with_overrides(self, **overrides: Any) -> WorldConfig:
        """The same parameters used differently.

        Raises:
            ConfigError: the field is unknown, or changing it would not fit the trained parameters.
        """
        unknown = sorted(set(overrides) - _OVERRIDES)
        if unknown:
            raise ConfigError(f"A loaded world lets you override {sorted(_OVERRIDES)}, not {unknown}.")
        cdit = self.cdit
        if "packing" in overrides:
            packing = packing_named(overrides.pop("packing"))
            cdit = replace(cdit, context=packing.recent, retrieved=packing.retrieved)
        if "context" in overrides:
            cdit = replace(cdit, context=tuple(overrides.pop("context")))
        if "retrieved" in overrides:
            cdit = replace(cdit, retrieved=tuple(overrides.pop("retrieved")))
        if "positions" in overrides:
            cdit = replace(cdit, positions=overrides.pop("positions"))
        if overrides.get("retrieval") == "none":
            cdit = replace(cdit, retrieved=())
        if untrained := sorted({*cdit.pools} - {*self.cdit.pools}):
            raise ConfigError(f"This world has no trained packing rate for pool sizes {untrained}.")
        return replace(self, cdit=replace(cdit, rates=self.cdit.pools), **overrides)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> WorldConfig:
        """The inverse of `to_json`.

        Raises:
            ConfigError: fields are missing, unknown or of the wrong kind.
        """
        try:
            height, width = data["frame_size"]
            parts = dict(data)
            parts["frame_size"] = (int(height), int(width))
            parts["actions"] = ActionSpec.from_json(data["actions"])
            autoencoder = dict(data["autoencoder"])
            autoencoder["widths"] = tuple(autoencoder["widths"])
            for name in ("encoder_blocks", "decoder_blocks"):
                autoencoder[name] = tuple(autoencoder[name])
            parts["autoencoder"] = AutoencoderConfig(**autoencoder)
            cdit = dict(data["cdit"])
            for name in ("context", "retrieved", "rates"):
                cdit[name] = tuple(cdit.get(name, ()))
            parts["cdit"] = CDiTConfig(**cdit)
            parts["state"] = StateConfig(**data["state"]) if data.get("state") else None
            return cls(**parts)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"This is not the configuration of a world of this version: {error!r}.") from error


_OVERRIDES = {
    "context", "retrieved", "packing", "retrieval", "positions", "capacity", "when_full", "denoising_steps",
    "sampler", "imagination", "motions", "stopped_again",
}  # fmt: skip


@dataclass(frozen=True)
class _Size:
    frame_size: tuple[int, int]
    autoencoder: AutoencoderConfig
    cdit: CDiTConfig
    denoising_steps: int
    state: StateConfig


_WIDE = AutoencoderConfig(channels=16, widths=(128, 256, 512), encoder_blocks=(2, 2, 2), decoder_blocks=(3, 3, 3))
_LARGE_STATE = StateConfig(512, heads=8, rounds=4, hidden=1024, members=5)
_SIZES: dict[Preset, _Size] = {
    "nano": _Size((48, 64), AutoencoderConfig(), CDiTConfig(4, 128, 2, patch=2), 2, StateConfig()),
    "tiny": _Size((48, 64), AutoencoderConfig(), CDiTConfig(5, 160, 5), 2, StateConfig()),
    "small": _Size(
        (96, 128), AutoencoderConfig(widths=(64, 128, 256)), CDiTConfig(12, 384, 6), 4,
        StateConfig(128, heads=4, rounds=3, hidden=256),
    ),
    "base": _Size((256, 256), _WIDE, CDiTConfig(12, 768, 12, patch=2), 8, _LARGE_STATE),
    "large": _Size((256, 256), _WIDE, CDiTConfig(24, 1024, 16, patch=2), 8, _LARGE_STATE),
    "xl": _Size((352, 640), _WIDE, CDiTConfig(28, 1152, 16, patch=2), 8, _LARGE_STATE),
}


def preset(name: Preset, actions: ActionSpec, frame_size: tuple[int, int] | None = None) -> WorldConfig:
    """The configuration of a preset for an action space.

    ``tiny`` trains on two processor cores in about an hour at 48x64, and ``nano`` imagines two to four times as fast
    with tokens of 2x2 latents; ``small`` is CDiT-S at 96x128; ``base``, ``large``
    and ``xl`` are CDiT-B, -L and -XL at 256x256 and 352x640 (a grid of 22x40 tokens, WorldPack's).

    Args:
        name: preset.
        actions: the real world's action space.
        frame_size: height and width in pixels, where they differ from the preset's own.

    Raises:
        ConfigError: unknown preset, or a frame size that does not fit it.
    """
    if name not in _SIZES:
        raise ConfigError(f"Unknown preset {name!r}; choose one of {', '.join(_SIZES)}.")
    size = _SIZES[name]
    return WorldConfig(
        frame_size=frame_size or size.frame_size,
        actions=actions,
        denoising_steps=size.denoising_steps,
        ways=2,
        outcome_members=4,
        autoencoder=size.autoencoder,
        cdit=size.cdit,
        state=size.state,
    )
