"""Is what an agent expects true? Its value of a situation, its imagined lives from there, and real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from ..agents.agent import Agent, AgentState, load_agent
from ..agents.frame_stack import FrameStack
from ..agents.imagined_batch import roll_out
from ..agents.returns import chances
from ..agents.stored import read_agent
from ..envs.doom_rooms.env import DoomRoomsEnv
from ..envs.imagination import check_fits
from ..errors import ConfigError
from ..files import write_json
from ..rollouts.splits import seed_range
from ..world_models.config import Imagination
from ..world_models.noise import hash64
from ..world_models.pretrained import load_world
from ..world_models.state import WorldState
from ..world_models.world import World
from ..world_models.world_model import WorldModel
from .figures import write_figure
from .metrics import FloatArray
from .progress import Progress, silent
from .real import MakeEnv
from .report import provenance
from .transfer import RandomActor
from .values_report import ValuesConfig, ValuesReport, summarise, values_figure

_IMAGINED_AT_ONCE = 64


@dataclass(frozen=True)
class Start:
    """A real situation.

    Attributes:
        moment: the environment's saved state.
        seen: its newest observation, ``"frame"`` (1, H, W, 3) and ``"pose"`` (1, 5).
        known: what an agent knows that has seen all before it.
    """

    moment: Any
    seen: Mapping[str, Any]
    known: AgentState


def agent_in(
    path: Path, imagination: Imagination | None = None, device: str = "cpu", seed: int = 0
) -> tuple[World, Agent]:
    """The world to imagine in, and an agent on disk.

    Args:
        path: the agent's directory.
        imagination: how its world is to imagine; default: as in the agent's training, its sampler and denoising steps
            included, or, where that is not written down, as the world does by itself.
        device: where to compute.
        seed: of the agent's choices.

    Raises:
        ConfigError: an agent that learned from frames alone.
        WorldFormatError: no such agent, or its world is gone.
    """
    agent = load_agent(path, device=device, seed=seed)
    world, trained = agent.world, (read_agent(path).description.get("about") or {}).get("config")
    told = trained if isinstance(trained, dict) else {}
    names = "imagination", "denoising_steps", "sampler", "motions"
    wanted = {name: told[name] for name in names if told.get(name) is not None}
    if imagination is not None:
        wanted["imagination"] = imagination
    if isinstance(world, WorldModel) and world.directory:
        world = load_world(world.directory, device, **wanted)
    _check_imagines(world)
    return world, agent


@torch.no_grad()
def evaluate_values(
    world: World,
    agent: Agent,
    config: ValuesConfig,
    out: Path | None = None,
    *,
    make_env: MakeEnv | None = None,
    progress: Progress = silent,
) -> ValuesReport:
    """Hold an agent's values and imagined lives against real ones; write ``values.json`` and a figure into ``out``.

    The i-th imagined and the i-th real life from a start draw actions by the same random numbers: where the world is
    exact they are the same life. Returns end at the horizon, V looks beyond it; see `ValuesReport`.

    Args:
        world: where lives are imagined; carries on what the agent knows by its own world.
        agent: whose critic and whose drawn actions are tried.
        config: starts and lives.
        out: directory for the report; None for none.
        make_env: makes a real environment with ``save_state`` and ``load_state`` like those of `DoomRoomsEnv`, called
            ``config.envs`` times; default DoomRooms, task find, whose time limit lies behind every life.
        progress: told how far it is.

    Raises:
        ConfigError: a world that imagines nothing, or an environment that does not fit it or saves no state.
    """
    _check_imagines(world)
    maps = np.random.default_rng(config.seed).choice(seed_range(config.split), config.starts, replace=False)
    total = config.starts * config.samples

    def tell(done: int) -> None:
        progress("lives, imagined and real", done, total)

    with ExitStack() as stack:
        make = make_env or (lambda: _find(world, config))
        envs: list[Any] = [stack.enter_context(closing(make())) for _ in range(min(config.envs, total))]
        check_fits(world, envs[0])
        if not hasattr(envs[0], "save_state"):
            raise ConfigError("Several lives from one moment need an environment with save_state and load_state.")
        starts = draw_starts(envs[0], maps.tolist(), agent, config, progress)
        size = max(1, _IMAGINED_AT_ONCE // config.samples)
        parts = [
            _expect(world, agent, envs, starts[first : first + size], first, config, tell)
            for first in range(0, len(starts), size)
        ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    way = world.config.imagination if isinstance(world, WorldModel) else ""
    report = summarise(config, agent.heads.config.discount, maps, columns, way, provenance(world))
    if out is not None:
        write_json(out / "values.json", report.to_json())
        write_figure(out / "values.png", values_figure(report))
    return report


def draw_starts(
    env: Any, maps: Sequence[int], agent: Agent, config: ValuesConfig, progress: Progress = silent
) -> list[Start]:
    """A start on each map: an agent looked on while 0 to context - 1 random actions were done; none ended the episode.

    Args:
        env: the real environment.
        maps: map seeds.
        agent: who looks on.
        config: context and seed.
        progress: told after every start.
    """
    starts: list[Start] = []
    for map_seed in maps:
        walks = (_walk(env, map_seed, agent, config, attempt) for attempt in count())
        starts.append(next(start for start in walks if start is not None))
        progress("finding starts", len(starts), len(maps))
    return starts


def _walk(env: Any, map_seed: int, agent: Agent, config: ValuesConfig, attempt: int) -> Start | None:
    rng = np.random.default_rng([config.seed, map_seed, attempt])
    chance, calls, known = RandomActor(agent.world.actions, int(rng.integers(2**31))), None, agent.begin(1)
    frame, info = env.reset(seed=int(rng.integers(2**31)), options={"map_seed": map_seed})
    seen = {"frame": frame[None], "pose": info["pose"][None]}
    for _ in range(rng.integers(config.context)):
        _, looked = agent.predict(seen, known)
        actions, calls = chance.predict(seen, calls)
        known = replace(looked, acted=torch.as_tensor(actions, device=agent.world.device))
        frame, _, terminated, truncated, info = env.step(actions[0])
        seen = {"frame": frame[None], "pose": info["pose"][None]}
        if terminated or truncated:
            return None
    return Start(env.save_state(), seen, known)


def _expect(
    world: World,
    agent: Agent,
    envs: Sequence[Any],
    starts: Sequence[Start],
    first: int,
    config: ValuesConfig,
    tell: Callable[[int], None],
) -> dict[str, FloatArray]:
    """What was expected from B starts, the first of them the ``first`` of all, and what came: (B,) by name."""
    n, b = config.samples, len(starts)
    seeds = hash64(hash64(torch.arange(first * n, (first + b) * n)) ^ config.seed)
    before = AgentState(WorldState.cat([s.known.world for s in starts]), torch.cat([s.known.acted for s in starts]))
    seen = {name: np.concatenate([s.seen[name] for s in starts]) for name in ("frame", "pose")}
    _, now = agent.predict(seen, before)
    imagined = _imagine(world, agent, world.adopt(now.world).fork(n).with_seeds(seeds), config.horizon)
    known = AgentState(before.world.fork(n).with_seeds(seeds), before.acted.repeat_interleave(n, 0))
    moments = [s.moment for s in starts for _ in range(n)]
    real = _live(agent, envs, moments, known, config.horizon, lambda more: tell(first * n + more))
    value = _numbers(agent.value(agent.world.encode_state(now.world)))
    return {"value": value} | {name: lives.reshape(b, n).mean(1) for name, lives in (imagined | real).items()}


def _imagine(world: World, agent: Agent, state: WorldState, horizon: int) -> dict[str, FloatArray]:
    """What B imagined lives come to, (B,) each: rewards are weighed by the chance of having got that far."""
    batch, discount = roll_out(world, state, agent, horizon), agent.heads.config.discount
    likely = chances(batch.continues)
    rewards, last = _numbers(batch.rewards * likely), _numbers(likely[:, -1] * batch.continues[:, -1])
    imagined = rewards @ discount ** np.arange(horizon)
    beyond = discount**horizon * last * _numbers(agent.value(batch.vectors[:, -1]))
    sums = {"imagined": imagined, "completed": imagined + beyond, "imagined_sum": rewards.sum(1)}
    return {**sums, "imagined_end": 1 - last}


def _live(
    agent: Agent,
    envs: Sequence[Any],
    moments: Sequence[Any],
    known: AgentState,
    horizon: int,
    tell: Callable[[int], None],
) -> dict[str, FloatArray]:
    """What B real lives come to, (B,) each, as many at a time as there are environments."""
    rewards, success = np.zeros((len(moments), horizon)), np.zeros(len(moments))
    for first in range(0, len(moments), len(envs)):
        group = slice(first, min(first + len(envs), len(moments)))
        begun = [env.load_state(moment) for env, moment in zip(envs, moments[group], strict=False)]
        frames, poses = [frame for frame, _ in begun], [info["pose"] for _, info in begun]
        state, running = AgentState(known.world[group], known.acted[group]), set(range(len(begun)))
        for t in range(horizon):
            seen = {"frame": np.stack(frames), "pose": np.stack(poses)}
            actions, state = agent.predict(seen, state, deterministic=False)
            for slot in sorted(running):
                frames[slot], reward, terminated, truncated, info = envs[slot].step(actions[slot])
                poses[slot], rewards[first + slot, t], success[first + slot] = info["pose"], reward, info["success"]
                if terminated or truncated:
                    running.remove(slot)
            if not running:
                break
        tell(group.stop)
    real = rewards @ agent.heads.config.discount ** np.arange(horizon)
    return {"real": real, "real_sum": rewards.sum(1), "success": success}


def _check_imagines(world: World) -> None:
    if isinstance(world, FrameStack):
        raise ConfigError("An agent that learned from frames alone has no world to imagine in: nothing to compare.")


def _find(world: World, config: ValuesConfig) -> gym.Env[Any, Any]:
    return DoomRoomsEnv(
        task="find", level=config.level, split=config.split, frame_size=world.frame_size,
        actions="discrete" if world.actions.kind == "discrete" else "continuous",
        max_steps=config.context + config.horizon,
    )  # fmt: skip


def _numbers(tensor: torch.Tensor) -> FloatArray:
    numbers: FloatArray = tensor.to(torch.float64).cpu().numpy()
    return numbers
