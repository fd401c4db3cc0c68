"""`TrainConfig`: everything a training run depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..config import Preset


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


@dataclass(frozen=True)
class TrainConfig:
    """Train a world on recorded experience: first the frame autoencoder, then the dynamics over its latents."""

    data: Path
    """Data set of the train split, written by `worldloop collect`."""
    out: Path
    """Directory for checkpoints, logs and the finished world. A run that was interrupted goes on where it was."""
    validation: Path | None = None
    """Data set of the validation split, for PSNR and sample grids during training."""
    preset: Preset = "tiny"
    """Size of the world."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic; auto takes bfloat16 where the processor multiplies it natively."""
    autoencoder: StageConfig = field(default_factory=lambda: StageConfig(steps=4000, learning_rate=2e-3))
    """First stage."""
    dynamics: StageConfig = field(default_factory=lambda: StageConfig(steps=20000))
    """Second stage."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    validate_every: int = 1000
    """Steps between validations, and between sample grids."""
    stop_after: int | None = None
    """End the run after this many steps in total, as an interruption would; the next run goes on from there."""

    def fingerprint(self) -> str:
        """Hash of all that decides the loss curve; a checkpoint of another fingerprint is refused."""
        relevant: dict[str, Any] = asdict(self)
        for name in ("data", "out", "validation", "device", "checkpoint_every", "validate_every", "stop_after"):
            del relevant[name]
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]
