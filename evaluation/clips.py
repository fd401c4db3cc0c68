"""Real clips from maps no world was trained on: the truth that imagination is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..envs.explorers import Explorer
from ..errors import ConfigError
from .progress import Progress, silent


@dataclass(frozen=True)
class Clips:
    """N real clips of T frames.

    Attributes:
        frames: (N, T, H, W, 3) uint8.
        actions: (N, T, ...) the action that led to each frame; the first of a clip led nowhere and is zero.
        poses: (N, T, 5) float64 canonical.
        maps: (N,) int64 map seed of each clip: the clusters of every interval.
        seeds: (N,) int64 ``reset`` seed that, with the map and the actions, repeats each clip.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    poses: NDArray[np.float64]
    maps: NDArray[np.int64]
    seeds: NDArray[np.int64]


def record_clips(
    env: gym.Env[Any, Any],
    explorer: Explorer,
    maps: Sequence[int],
    length: int,
    seed: int = 0,
    progress: Progress = silent,
) -> Clips:
    """One clip of ``length`` frames on each of ``maps``.

    Args:
        env: a real environment with uint8 frames and ``info["pose"]``; takes ``options={"map_seed": …}``.
        explorer: chooses the actions; reset for every clip.
        maps: map seeds; a seed that occurs twice gives two clips of that map from different starts.
        length: frames a clip.
        seed: of starts and walkers.
        progress: told after every clip.

    Raises:
        ConfigError: an episode ended before ``length`` frames.
    """
    frames, actions, poses, seeds = [], [], [], []
    for i, map_seed in enumerate(maps):
        clip_seed = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
        observation, info = env.reset(seed=clip_seed, options={"map_seed": int(map_seed)})
        explorer.reset(env, np.random.default_rng(clip_seed))
        none = np.zeros(env.action_space.shape or (), env.action_space.dtype)
        clip, led, path = [observation], [none], [info["pose"]]
        while len(clip) < length:
            action = explorer.act(observation, info)
            observation, _, terminated, truncated, info = env.step(action)
            clip.append(observation)
            led.append(np.asarray(action, env.action_space.dtype))
            path.append(info["pose"])
            if (terminated or truncated) and len(clip) < length:
                raise ConfigError(
                    f"The real episode on map {map_seed} ended after {len(clip)} frames, but {length} are "
                    "needed; use a task without an end, or a shorter context and horizon."
                )
        frames.append(np.stack(clip))
        actions.append(np.stack(led))
        poses.append(np.stack(path))
        seeds.append(clip_seed)
        progress("recording real clips", i + 1, len(maps))
    return Clips(
        np.stack(frames),
        np.stack(actions),
        np.stack(poses),
        np.asarray(maps, np.int64),
        np.asarray(seeds, np.int64),
    )
