"""Imagined against real: the same real state, the same actions, frame by frame, on maps never trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.explorers import Explorer, WaypointExplorer
from ..files import write_json
from ..world_models.state import WorldState
from ..world_models.world import World
from .clips import Clips, record_clips
from .comparison import CompareConfig, CompareReport, Imagined, score
from .comparison_pictures import draw
from .progress import Progress, silent
from .real import MakeEnv, held_out


def compare(
    world: World,
    config: CompareConfig,
    out: Path,
    *,
    make_env: MakeEnv | None = None,
    explorer: Explorer | None = None,
    progress: Progress = silent,
) -> CompareReport:
    """Hold ``world`` against the real one; write ``compare.json``, a figure and clips into ``out``.

    On every map a walker gathers ``context`` real frames and walks ``horizon`` steps more. The world observes
    the context, then imagines the same actions; clips are imagined side by side in batches.

    Args:
        world: the learned world.
        config: what to measure.
        out: directory for the report; made if missing.
        make_env: makes the real environment; default DoomRooms, task explore, at the world's frame size.
        explorer: walks the clips; default the waypoint explorer.
        progress: told how far it is.

    Raises:
        ConfigError: an environment that does not fit the world, or whose episodes are too short.
    """
    with held_out([world], config.split, config.maps, config.seed, make_env) as (env, maps):
        clips = record_clips(
            env,
            explorer or WaypointExplorer(),
            maps * config.clips_per_map,
            config.context + config.horizon,
            config.seed,
            progress,
        )
    imagined = imagine_clips(world, clips, config, progress)
    report = score(world, clips, imagined, config)
    report = replace(report, files=draw(world, clips, imagined, report, out))
    write_json(out / "compare.json", report.to_json())
    return report


@torch.inference_mode()
def imagine_clips(world: World, clips: Clips, config: CompareConfig, progress: Progress = silent) -> Imagined:
    """Imagine the last ``horizon`` frames of every clip, from its context and step by step."""
    total = len(clips.maps)
    parts = []
    for begin in range(0, total, config.batch):
        chosen = slice(begin, min(begin + config.batch, total))
        parts.append(_imagine_batch(world, clips, config, chosen, progress))
    return Imagined(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _imagine_batch(
    world: World, clips: Clips, config: CompareConfig, chosen: slice, progress: Progress
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64]]:
    frames, actions, poses = clips.frames[chosen], clips.actions[chosen], clips.poses[chosen]
    # A world's noise depends on its place among all clips, so that the batch size changes no frame.
    seeds = np.arange(len(clips.maps))[chosen] + config.seed * 1_000_003
    k, steps = config.context, config.horizon

    def seen(state: WorldState, times: slice) -> WorldState:
        return world.observe(state, frames[:, times], actions[:, times], poses[:, times])

    real = free = seen(world.start(len(frames), seeds), slice(0, k))
    rolled, nexts, path = [], [], []
    for t in range(k, k + steps):
        pose = poses[:, t] if config.poses == "true" else None
        free, step = world.imagine(free, actions[:, t], pose)
        rolled.append(world.render(step.latents).cpu().numpy())
        path.append(step.pose.cpu().numpy())
        # The first step of a roll-out is already a next frame; its state has seen nothing but real frames.
        if t > k:
            _, step = world.imagine(real, actions[:, t], pose)
            nexts.append(world.render(step.latents).cpu().numpy())
        else:
            nexts.append(rolled[0])
        real = seen(real, slice(t, t + 1))
        progress("imagining", (chosen.start * steps + (t - k + 1) * len(frames)), len(clips.maps) * steps)
    return np.stack(rolled, 1), np.stack(nexts, 1), np.stack(path, 1)
