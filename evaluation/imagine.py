"""A film of one imagined episode: what the world shows for given actions, with nothing real beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.contexts import Contexts
from ..envs.imagined import ImaginedEnv
from ..errors import ConfigError
from ..files import write_json
from ..world_models.actions import ActionSpec
from ..world_models.world import World
from .media import panes, write_gif, write_video
from .progress import Progress, silent
from .report import jsonable, provenance


@dataclass(frozen=True)
class ImagineConfig:
    """One imagined episode."""

    actions: str = ""
    """What to do, e.g. "forward*6 turn_left*4 forward"; random actions where it says nothing."""
    steps: int = 60
    """Most steps of random actions."""
    context: int | None = None
    """Number of the recorded start; drawn from the seed by default."""
    seed: int = 0
    """Of the start, the random actions and the world's noise."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"An episode needs at least one step, got {self.steps}.")


def imagine_episode(
    world: World, config: ImagineConfig, out: Path, *, contexts: Contexts | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Imagine an episode until its actions are done or the world says that it is over.

    Args:
        world: the learned world.
        config: start, actions, seed.
        out: directory for ``imagined.mp4``, ``imagined.gif`` and ``imagine.json``; made if missing.
        contexts: recorded starts; default those that came with the world.
        progress: told after every step.

    Returns:
        What ``imagine.json`` holds: actions, poses, rewards and uncertainties, step by step.

    Raises:
        ConfigError: an action the world does not know, or no steps.
        DataError, ValueError: no recorded starts, or none of that number.
    """
    env = ImaginedEnv(world, contexts)
    env.action_space.seed(config.seed)
    planned = parse_actions(config.actions, world.actions) if config.actions.strip() else None
    total = config.steps if planned is None else len(planned)
    frame, info = env.reset(seed=config.seed, options=None if config.context is None else {"context": config.context})
    frames, poses, uncertainties = [frame], [info["pose"]], [info["uncertainty"]]
    start, captions = info["context"], ["start, recorded"]
    actions: list[Any] = []
    rewards: list[float] = []
    over = False
    while len(actions) < total and not over:
        action = env.action_space.sample() if planned is None else planned[len(actions)]
        frame, reward, over, _, info = env.step(action)
        actions.append(action)
        frames.append(frame)
        poses.append(info["pose"])
        rewards.append(reward)
        uncertainties.append(info["uncertainty"])
        captions.append(f"{len(actions):3d} {_name(action, world.actions)}, uncertainty {info['uncertainty']:.2f}")
        progress("imagining", len(actions), total)
    progress("imagining", total, total)
    film = panes({"imagined": np.stack(frames)}, captions, scale=6)
    report = {
        "start": start,
        "terminated": over,
        "steps": len(actions),
        "return": float(np.sum(rewards)),
        "actions": jsonable([np.asarray(a).tolist() for a in actions]),
        "rewards": rewards,
        "poses": jsonable([p.tolist() for p in poses]),
        "uncertainties": uncertainties,
        "files": [
            write_video(out / "imagined.mp4", film).name,
            write_gif(out / "imagined.gif", film).name,
        ],
        "provenance": provenance(world),
    }
    write_json(out / "imagine.json", report)
    return report


def parse_actions(text: str, spec: ActionSpec) -> list[int]:
    """Numbers of the actions that ``text`` names, e.g. ``"forward*3 turn_left"``, separated by spaces or commas.

    Raises:
        ConfigError: an action the world does not know, or a world whose actions have no names.
    """
    if spec.kind != "discrete":
        raise ConfigError("Only discrete actions have names; leave them out for random ones.")
    numbers: list[int] = []
    for word in re.split(r"[\s,]+", text.strip()):
        name, _, times = word.partition("*")
        if name not in spec.names or not (times or "1").isdecimal():
            raise ConfigError(f"Unknown action {word!r}: this world knows {', '.join(spec.names)}, or e.g. forward*6.")
        numbers += [spec.names.index(name)] * int(times or 1)
    return numbers


def _name(action: Any, spec: ActionSpec) -> str:
    return spec.names[int(action)] if spec.kind == "discrete" else np.array2string(np.asarray(action), precision=2)
