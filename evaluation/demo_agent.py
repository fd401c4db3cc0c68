"""The demonstration's agent: at work in the real rooms beside random actions, and films of its first episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..agents import Agent
from ..envs.doom_rooms.layout import Layout
from ..envs.doom_rooms.map_picture import draw_map
from ..envs.recording import RecordEpisodes
from ..rollouts.episode import Episode
from .media import Frames, panes, upscale, write_video
from .progress import Progress, silent
from .transfer import TransferConfig, TransferReport, TransferTask, doom_rooms_task, evaluate_transfer

AGENT = "agent"
_TASK: TransferTask = "find-near"
_ENVS = 10
_SCALE = 6
_FPS = 8


@dataclass(frozen=True)
class AgentConfig:
    """How often an agent acts, to find what stands in the room where it starts."""

    episodes: int = 20
    """Each on a validation map of its own."""
    films: int = 3
    """How many of them are filmed, the first ones."""
    seed: int = 0
    """Of maps, starts and chance."""


def agent_at_work(
    agent: Agent,
    config: AgentConfig,
    out: Path,
    *,
    make_env: Callable[[], gym.Env[Any, Any]] | None = None,
    progress: Progress = silent,
) -> TransferReport:
    """`evaluate_transfer` of one agent in ``find-near``, and ``film-0.mp4`` … of its first episodes in ``out``.

    Args:
        agent: who acts; in the report it is called `AGENT`.
        config: how often.
        out: directory for report and films; made if missing.
        make_env: makes a real environment whose ``info`` names its ``map_seed``; default DoomRooms.
        progress: told how far it is.

    Raises:
        ConfigError: see `evaluate_transfer`.
    """
    asked = TransferConfig((_TASK,), config.episodes, envs=_ENVS, seed=config.seed)
    lived: dict[int, tuple[Episode, Any]] = {}

    def make(task: TransferTask) -> gym.Env[Any, Any]:
        env = make_env() if make_env else doom_rooms_task(agent.world, task, asked)
        # Every map is played by the agent first, and by chance after it.
        return RecordEpisodes(
            env, lambda episode: lived.setdefault(episode.map_seed, (episode, getattr(env.unwrapped, "layout", None)))
        )

    report = evaluate_transfer(agent.world, {AGENT: agent}, asked, out, make_env=make, progress=progress)
    filmed = report.episodes[_TASK][AGENT][: config.films]
    for number, played in enumerate(filmed):
        write_video(out / f"film-{number}.mp4", film(*lived[played.map_seed]), _FPS)
        progress("filming the agent", number + 1, len(filmed))
    return report


def film(episode: Episode, layout: Any = None) -> Frames:
    """Frames (T + 1 s, H', W', 3): what was seen, and beside it, where there is a layout, the way over the map."""
    seen = upscale(episode.frames, _SCALE)
    columns = {"what it sees": seen}
    if isinstance(layout, Layout):
        paths = [list(episode.poses[: t + 1]) for t in range(len(episode))]
        columns["from above, which it never sees"] = np.stack([draw_map(layout, p, seen.shape[1:3]) for p in paths])
    captions = [f"step {t}" for t in range(len(episode))]
    captions[-1] += ": found" if episode.success[-1] else ": out of steps"
    video = panes(columns, captions, scale=1)
    # The end is held for a second, so that one sees where a loop closes.
    return np.concatenate([video, video[-1:].repeat(_FPS, 0)])
