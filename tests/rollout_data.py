"""Random episodes and data sets for tests of recorded experience."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from walk_env import SPECS

from worldloop.rollouts.episode import ROW_FIELDS, Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter

FRAME = (12, 16)


def random_episode(length: int, map_seed: int = 0, kind: str = "discrete", seed: int = 0) -> Episode:
    rng = np.random.default_rng([seed, length, map_seed])
    actions: Any = rng.integers(0, 7, length)
    if kind == "continuous":
        actions = rng.uniform(-1, 1, (length, 3)).astype(np.float32)
    last = np.arange(length) == length - 1
    return Episode(
        frames=rng.integers(0, 256, (length, *FRAME, 3), dtype=np.uint8),
        actions=actions,
        poses=rng.normal(size=(length, 5)),
        rewards=rng.normal(size=length).astype(np.float32),
        terminated=last & bool(rng.integers(2)),
        truncated=last & bool(rng.integers(2)),
        collided=rng.random(length) < 0.3,
        success=last & bool(rng.integers(2)),
        map_seed=map_seed,
        policy=f"policy {seed}",
    )


def info(**changes: Any) -> DatasetInfo:
    fields: dict[str, Any] = {
        "env_id": "WalkRooms-v0",
        "env_kwargs": {"task": "find"},
        "frame_size": FRAME,
        "action_spec": SPECS["discrete"],
        "split": "train",
        "generator": "1",
    }
    return DatasetInfo(**fields | changes)


def write_dataset(path: Path, lengths: list[list[int]], first_map: int = 0, **changes: Any) -> list[Episode]:
    """A data set with one file per item of ``lengths``, which are the lengths of its episodes."""
    writer = DatasetWriter.create(path, info(**changes))
    written = []
    for m, inner in enumerate(lengths, start=first_map):
        episodes = [random_episode(n, m, seed=k) for k, n in enumerate(inner)]
        writer.write(f"map-{m:06d}", episodes)
        written += episodes
    return written


def same(a: Any, b: Any) -> bool:
    """Whether two episodes are equal to the last bit, types included."""
    arrays = all(
        getattr(a, name).dtype == getattr(b, name).dtype
        and np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("frames", *ROW_FIELDS)
    )
    return arrays and a.map_seed == b.map_seed and a.policy == b.policy
