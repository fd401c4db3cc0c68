"""Learning the policies of `imitation` from recorded walks on training maps."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ..errors import ConfigError, DataError
from ..files import replacing, write_json
from ..rollouts.cache import TrainingCache
from ..rollouts.splits import split_of
from ..world_models.world import World
from .imitation import ActionHead, ImitatingAgent, ImitationConfig
from .progress import Progress, silent

_ENCODED_AT_ONCE = 256


def imitate(
    world: World, cache: TrainingCache, config: ImitationConfig, out: Path, progress: Progress = silent
) -> ImitatingAgent:
    """A policy learned from ``cache``, or the one that lies in ``out`` already, if it was learned from the same.

    Args:
        world: whose latents it sees.
        cache: recorded walks on training maps.
        config: what to learn.
        out: directory for the head, ``NAME.safetensors`` with ``NAME.json`` beside it.
        progress: told after every step.

    Raises:
        ConfigError: the recorded actions or frames are not the world's.
        DataError: held-out maps among the recorded ones, or no episode of two frames.
    """
    _check(world, cache)
    head = _fresh(world, config)
    file = out / f"{config.kind}.safetensors"
    # Latents of one frame tell worlds apart: a head is of no use to another autoencoder.
    mark = world.encode(cache.frames[:1].copy()).double().sum().item()
    recipe = {**asdict(config), "data": cache.fingerprint, "world": f"{mark:.6e}"}
    if file.exists() and _recipe(file) == recipe:
        head.load_state_dict(load_file(file))
    else:
        _fit(head, world, cache, config, progress)
        with replacing(file) as temporary:
            save_file(head.state_dict(), temporary)
        write_json(file.with_suffix(".json"), recipe)
    return ImitatingAgent(world, head.eval().requires_grad_(False).to(world.device), config.kind)


def hindsight_pairs(
    lengths: NDArray[np.int64], horizon: int, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers (n,) of frames now, and of frames 1 to ``horizon`` steps later in the same episode.

    Args:
        lengths: (E,) frames of each episode, which lie one after the other.
        horizon: most steps ahead.
        n: pairs.
        rng: draws them: now uniformly, then the steps ahead among those that the episode has.
    """
    episode = np.repeat(np.arange(len(lengths)), lengths)
    left = (np.cumsum(lengths) - 1)[episode] - np.arange(len(episode))
    possible = np.flatnonzero(left > 0)
    now = possible[rng.integers(len(possible), size=n)]
    ahead = rng.integers(1, np.minimum(left[now], horizon) + 1)
    return now, now + ahead


@torch.enable_grad()
def _fit(head: ActionHead, world: World, cache: TrainingCache, config: ImitationConfig, progress: Progress) -> None:
    ends = np.cumsum(cache.episode_lengths)
    lengths = cache.episode_lengths[: max(1, int((ends <= config.frames).sum()))]
    frames = int(lengths.sum())
    latents = []
    with torch.inference_mode():
        for begin in range(0, frames, _ENCODED_AT_ONCE):
            latents.append(world.encode(cache.frames[begin : min(begin + _ENCODED_AT_ONCE, frames)].copy()).cpu())
            progress("encoding recorded frames", min(begin + _ENCODED_AT_ONCE, frames), frames)
    seen = torch.cat(latents).clone()
    actions = torch.as_tensor(cache.actions[:frames].copy())
    rng = np.random.default_rng([config.seed, 11])
    ahead = 1 if config.kind == "inverse-dynamics" else config.horizon
    optimiser = torch.optim.Adam(head.parameters(), config.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for step in range(config.steps):
        now, later = hindsight_pairs(lengths, ahead, config.batch_size, rng)
        loss = head.loss(seen[now], seen[later], actions[now + 1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress(f"learning {config.kind}", step + 1, config.steps)


def _fresh(world: World, config: ImitationConfig) -> ActionHead:
    frame = np.zeros((1, *world.frame_size, 3), np.uint8)
    size = world.encode(frame)[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ActionHead(world.actions, size, config.width)


def _check(world: World, cache: TrainingCache) -> None:
    if cache.action_spec != world.actions or cache.frame_size != tuple(world.frame_size):
        raise ConfigError(
            f"Walks to learn from need the world's actions and frames of {tuple(world.frame_size)}; "
            f"{cache.path} has {', '.join(cache.action_spec.names)} and {cache.frame_size}."
        )
    held_out = [seed for seed in cache.map_seeds.tolist() if split_of(seed) != "train"]
    if held_out:
        raise DataError(f"Baselines learn on training maps alone; {cache.path} holds map {held_out[0]}.")
    if not (cache.episode_lengths > 1).any():
        raise DataError(f"{cache.path} holds no episode of two frames, so there is nothing to learn from.")


def _recipe(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    return found
