"""Which part of a memory does what: worlds that differ in it alone, trained alike and tested on the same paths.

Every row goes on from the same world with the same steps, batch, data and seed::

    python -m worldloop.benchmarks.memory_ablation --data data/doom-rooms-train --start-from runs/base/world

Rows that are trained already are not trained again, an interrupted one goes on where it was, and one of other settings
is refused. The rows share the encoded data (150 MB for 100 000 frames), since all keep the first world's autoencoder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..errors import ConfigError
from ..evaluation import RetentionConfig, ReturnConfig, retention, return_test
from ..world_models.pretrained import load_world
from ..world_models.training.config import StageConfig, TrainConfig
from ..world_models.training.train import train

ROWS: dict[str, dict[str, Any]] = {
    "both": {"packing": ("tiny",)},
    "base": {"packing": ("raw",)},
    "packing-only": {"packing": ("packing-only",)},
    "retrieval-only": {"packing": ("retrieval-only",)},
    "one-recent": {"packing": ("one-recent",)},
    "whole-retrieved": {"packing": ("whole-retrieved",)},
    "raw-long": {"packing": ("raw-long",)},
    "convlstm": {"packing": ("raw",), "recurrent": 32},
    "absolute": {"packing": ("tiny",), "positions": "true"},
    "relic": {"packing": ("raw",), "compressed": 36},
}
"""By name: WorldPack's packing with retrieval; its base of four whole frames; its two halves by themselves; ``both``
with the recent frames, or with the retrieved ones, of retrieval alone; a window of as many frames as ``both``, all
whole; a recurrent memory; ``both`` with retrieved frames placed when they were; and RELIC's compressed cache of 36
older frames."""


@dataclass(frozen=True)
class MemoryAblation:
    """Train worlds that differ in their memory alone, and send them along the same paths."""

    data: Path
    """Data set of the train split."""
    start_from: str
    """A bundled world or the directory of one without a memory, that every row goes on from."""
    out: Path = Path("runs/ablation")
    """Directory for the rows' training runs and the two reports."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Which of them, see `ROWS`; differences are to the first."""
    steps: int = 600
    """Training steps of the video model, for every row."""
    batch_size: int = 64
    """Samples a step."""
    seed: int = 0
    """Of every training; the tests have their own."""
    returning: Annotated[ReturnConfig, tyro.conf.arg(name="return")] = field(
        default_factory=lambda: ReturnConfig(poses="true", pictures=0)
    )
    """The return test."""
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    """The retention test."""


def run(config: MemoryAblation, report: Callable[[str], None] = print) -> None:
    """Train what is missing, then test all rows; the reports are in ``config.out``."""
    if unknown := sorted(set(config.rows) - set(ROWS)):
        raise ConfigError(f"Unknown row {unknown[0]!r}; choose of {', '.join(ROWS)}.")
    worlds = {}
    for name in config.rows:
        directory = config.out / name
        encoded, own = config.out / config.rows[0] / "latents.npy", directory / "latents.npy"
        if encoded.exists() and not own.exists():
            directory.mkdir(parents=True, exist_ok=True)
            os.link(encoded, own)
        row = TrainConfig(
            data=config.data,
            out=directory,
            start_from=(config.start_from,),
            seed=config.seed,
            # Poses are given in the tests: the heads need no training.
            heads=StageConfig(steps=1, batch_size=2),
            dynamics=StageConfig(steps=config.steps, batch_size=config.batch_size),
            state=StageConfig(steps=0),
            **ROWS[name],
        )

        def watch(progress: Any, scores: Any, name: str = name) -> None:
            if progress.stage == "dynamics" and (progress.step % 100 == 0 or progress.step == progress.steps):
                report(f"{name}: step {progress.step} of {progress.steps}, flow {progress.losses['flow']:.4f}")

        train(row, f"python -m worldloop.benchmarks.memory_ablation, row {name}", watch)
        worlds[name] = load_world(directory / "world")
    report(str(return_test(worlds, config.returning, config.out / "return")))
    report(str(retention(worlds, config.retention, config.out / "retention")))


if __name__ == "__main__":
    run(tyro.cli(MemoryAblation))
