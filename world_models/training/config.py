"""`TrainConfig`: everything a training run depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import ConfigError
from ..config import Preset
from ..prediction.config import Positions
from ..prediction.placement import Camera


@dataclass(frozen=True)
class StageConfig:
    """One stage of training."""

    steps: int
    """Optimiser steps."""
    batch_size: int = 64
    """Samples per step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW: linear warm-up, then a cosine to nearly zero."""
    warmup: int = 200
    """Steps of warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices and kernels."""
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.999
    """Decay of the moving average of the parameters, which is what is kept."""

    def fingerprint(self) -> str:
        """Hash of all of it."""
        return _hash(asdict(self))


@dataclass(frozen=True)
class MemoryTraining:
    """How a world learns to use its memory. Predicting one step ahead, recent frames suffice nearly always; so, often,
    they are taken away."""

    hide: float = 0.5
    """Share of samples whose recent frames are pure noise, so that the picture must come from memory."""
    dropout: float = 0.1
    """Share of the other samples that remember nothing."""
    palindromes: float = 0.15
    """Share of samples that walk back the way they came, as only a static world allows."""
    pose_noise: float = 0.5
    """Share of samples whose memory lies a little off, as it does once predicted poses have drifted."""
    drift: float = 0.2
    """Deviation of that offset, in steps and turns."""
    first_reach: int = 48
    """Curriculum: how far back memory reaches at the first step of training, in frames."""
    full_reach: float = 0.3
    """Share of the training after which memory reaches back to the beginning."""

    def __post_init__(self) -> None:
        shares = (self.hide, self.dropout, self.palindromes, self.pose_noise, self.full_reach)
        if not all(0 <= share <= 1 for share in shares) or self.drift < 0 or self.first_reach < 1:
            raise ConfigError("Shares of memory training lie in 0 … 1, drift is at least 0, and the reach 1.")


Trained = Literal["everything", "outcomes", "heads"]
_NEVER_DECIDE = ("data", "out", "validation", "device", "error", "checkpoint_every", "validate_every", "stop_after")


@dataclass(frozen=True)
class TrainConfig:
    """Train a world on recorded experience: the frame autoencoder, then the heads and the dynamics over its latents."""

    data: Path
    """Data set of the train split, written by `worldloop collect`."""
    out: Path
    """Directory for checkpoints, logs and the finished world. A run that was interrupted goes on where it was."""
    validation: Path | None = None
    """Data set of the validation split, for PSNR and sample grids during training."""
    preset: Preset = "tiny"
    """Size of the world."""
    packing: tuple[str, ...] = ("tiny",)
    """What the video model sees and at which rates: a name of `PACKINGS`; "recent" has no long-term memory. Of several,
    training steps take turns, and the world can be used with each; it is saved with the first."""
    retrieval: str = "worldpack"
    """How frames are chosen from memory: a name of `STRATEGIES`."""
    camera: Camera = "rays"
    """How cameras enter the cross-attention: none, rays (WorldMem), pose (RELIC) or prope (WorldPlay)."""
    positions: Positions = "reframed"
    """When retrieved frames are said to be: right before the recent ones in their order (WorldPlay), when they were, or
    all at once."""
    memory_attention: Literal["joint", "own"] = "joint"
    """Look at retrieved frames together with the recent ones, or by a cross-attention of their own (WorldMem)."""
    compressed: int = 0
    """Older frames in a compressed key-value cache (RELIC) instead of retrieved ones, a multiple of 18."""
    recurrent: int = 0
    """Channels of a recurrent memory (ConvLSTM), the baseline of memories."""
    memory: MemoryTraining = field(default_factory=MemoryTraining)
    """How it learns to remember."""
    start_from: tuple[str, ...] = ()
    """Bundled worlds or directories of worlds that training goes on from: the autoencoder of the first is kept as it
    is, all other parameters begin as its own where they fit. Others of the same autoencoder give the parts it lacks."""
    only: Trained = "everything"
    """What to train: everything; or, in a world that starts from another one, outcomes alone, what a step pays and
    whether it ends the episode, or all heads, which also say where an action leads. What it sees and remembers stays
    as it is then, and agents that perceive through it go on to."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic; auto takes bfloat16 where the processor multiplies it natively."""
    autoencoder: StageConfig = field(default_factory=lambda: StageConfig(steps=4000, learning_rate=2e-3))
    """First stage."""
    heads: StageConfig = field(default_factory=lambda: StageConfig(steps=4000, batch_size=256, weight_decay=0.05))
    """Second stage: where actions lead, reward and end."""
    dynamics: StageConfig = field(default_factory=lambda: StageConfig(steps=20000))
    """Third stage: the video model."""
    state: StageConfig = field(default_factory=lambda: StageConfig(steps=3000))
    """Fourth stage: the state space, in which planning and learning are cheap; with no steps the world has one only if
    what it starts from has."""
    error: StageConfig = field(default_factory=lambda: StageConfig(steps=0, batch_size=256, weight_decay=0.05))
    """Last stage: how wrong imagined frames turn out to be, for uncertainty="expected_error". 2000 steps are enough;
    with none the world does not learn it. Other stages do not depend on it: it can be asked for later."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    validate_every: int = 1000
    """Steps between validations, and between sample grids."""
    stop_after: int | None = None
    """End the run after this many steps in total, as an interruption would; the next run goes on from there."""

    def __post_init__(self) -> None:
        if self.only != "everything" and not self.start_from:
            raise ConfigError(f"The {self.only} alone are learned in a world that is there: give --start-from.")

    def fingerprint(self) -> str:
        """Hash of all that decides the loss curve; a checkpoint of another fingerprint is refused."""
        relevant: dict[str, Any] = asdict(self)
        for name in _NEVER_DECIDE:
            del relevant[name]
        return _hash(relevant)


def _hash(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
