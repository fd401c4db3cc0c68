"""`collect`: record a data set from a real environment, with several engines side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from tyro.constructors import PrimitiveConstructorSpec

from ..errors import ConfigError
from ..rollouts.episode import Episode
from ..rollouts.metadata import DatasetInfo
from ..rollouts.splits import Split, seed_range
from ..rollouts.store import DatasetWriter, RolloutDataset, open_dataset
from .event_explorer import EventExplorer
from .explorers import (
    AGENT,
    Explorer,
    LoopWalker,
    RandomPolicy,
    SB3Policy,
    WaypointExplorer,
    WithRandomActions,
    action_spec,
    digest_of,
    layout_of,
    load_explorer,
)
from .recording import RecordEpisodes
from .roaming import RoamingExplorer
from .searching import SearchingExplorer
from .worker_pool import Stopped, run_tasks

DOOM_ROOMS = "worldloop/DoomRooms-v0"
_DEFAULT_KWARGS: dict[str, dict[str, Any]] = {DOOM_ROOMS: {"task": "find", "level": "far"}}


def _parse_kwargs(words: list[str]) -> dict[str, Any]:
    kwargs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"expected KEY=VALUE, got {word!r}")
        try:
            kwargs[key] = json.loads(value)
        except json.JSONDecodeError:
            kwargs[key] = value
    return kwargs


EnvKwargs = Annotated[
    dict[str, Any],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY=VALUE …",
        instance_from_str=_parse_kwargs,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{key}={json.dumps(item)}" for key, item in value.items()],
    ),
]
"""Arguments of an environment; on the command line ``KEY=VALUE`` words, each value JSON or a plain string."""


@dataclass(frozen=True)
class CollectConfig:
    """What to record, and how."""

    out: Path
    """Directory of the data set. The same command again completes a recording that was interrupted."""

    env: str = DOOM_ROOMS
    """Gymnasium id of the real environment, or module:id of your own."""

    env_kwargs: EnvKwargs | None = None
    """Arguments of the environment, such as `rows=3 frame_size=[96,128]`.
    Default for DoomRooms: task=find level=far."""

    split: Split = "train"
    """Which maps: train, validation, or test (for reports only)."""

    maps: int = 320
    """Number of maps. A larger number than before extends a data set."""

    steps: int = 250
    """Frames per map. When an episode ends before, another one starts in the same map."""

    first_map: int | None = None
    """Seed of the first map; the others follow. Default: the first of the split."""

    policy: str = "mix"
    """Who acts: mix (of those that follow, episode by episode), waypoint (walks from place to
    place), loop (walks away and comes back), roam (walks into walls), search (looks for the goal, then goes
    there), event (changes things and comes back), random, agent (the one given by --agent), an SB3 model's .zip
    (which is unpickled: only load files that you trust), or module:name of your own. Waypoint, loop, search and
    event walk by the environment's layout, which DoomRooms has; elsewhere say roam, random or your own."""

    agent: Path | None = None
    """Directory of a trained agent, for the policies agent and mix; on the command line also a bundled one's name.
    Loading one executes no code."""

    acting: float = 1.0
    """Share of the agent in the mix, where there is one."""

    waypoint: float = 0.4
    """Share of the waypoint explorer in the mix."""

    loop: float = 0.1
    """Share of the loop walker in the mix."""

    roam: float = 0.4
    """Share of the roaming explorer in the mix, which walks into walls."""

    random: float = 0.1
    """Share of the random policy in the mix."""

    search: float = 0.0
    """Share of the searching explorer in the mix, which knows the goal only when it sees it."""

    events: bool = False
    """A world in which things change (DoomRooms): items are taken, doors are opened."""

    event: float = 2.0
    """Share of the event explorer in the mix, where there are events."""

    goal_fraction: float = 1 / 3
    """How often the waypoint explorer walks to the goal object."""

    epsilon: float = 0.05
    """Probability that an action is replaced by a random one."""

    algorithm: str = "PPO"
    """SB3 class of a policy that is a .zip."""

    seed: int = 0
    """Seed of everything random but the maps themselves."""

    workers: int | None = None
    """Engines side by side; what is recorded does not depend on it. Default: one per processor core; one
    for a game that runs already, at a port (`port=` among the environment's arguments)."""

    def __post_init__(self) -> None:
        if self.maps < 1:
            raise ConfigError(f"A data set needs at least one map; got maps={self.maps}.")
        if self.steps < 2:
            raise ConfigError(f"An episode needs at least two frames; got steps={self.steps}.")
        if self.seed < 0:
            raise ConfigError(f"A seed is a whole number >= 0; got {self.seed}.")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"Recording needs at least one worker; got workers={self.workers}.")
        if not (0 <= self.epsilon <= 1 and 0 <= self.goal_fraction <= 1):
            raise ConfigError("epsilon and goal_fraction are probabilities in 0 … 1.")
        if (self.policy == "agent" and self.agent is None) or (
            self.policy not in ("mix", "agent") and self.agent is not None
        ):
            raise ConfigError(
                "The policies agent and mix take an agent's directory; "
                f"got policy={self.policy} and agent={self.agent}."
            )
        shares = tuple(self.mix.values())
        if min(shares) < 0 or sum(shares) <= 0:
            raise ConfigError(f"The shares of a mix are >= 0 and not all zero; got {shares}.")
        if self.map_seeds[0] not in seed_range(self.split) or self.map_seeds[-1] not in seed_range(
            self.split
        ):
            allowed = seed_range(self.split)
            raise ConfigError(
                f"Map seeds {self.map_seeds[0]} … {self.map_seeds[-1]} are not all of the {self.split} split "
                f"({allowed[0]} … {allowed[-1]})."
            )

    @property
    def map_seeds(self) -> range:
        """The maps to record."""
        first = seed_range(self.split)[0] if self.first_map is None else self.first_map
        return range(first, first + self.maps)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments that the environment is made with."""
        kwargs = dict(_DEFAULT_KWARGS.get(self.env, {}) if self.env_kwargs is None else self.env_kwargs)
        return kwargs | {"events": True} if self.events else kwargs

    @property
    def engines(self) -> int:
        """How many record side by side: the workers asked for; by default one where a port names the only game."""
        return self.workers or (1 if "port" in self.kwargs else _cores())

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides what is recorded in a map, beside the environment."""
        keys = ["steps", "policy", "epsilon", "seed"]
        if self.policy in ("mix", "waypoint"):
            keys.append("goal_fraction")
        if self.policy.endswith(".zip"):
            keys.append("algorithm")
        recipe = {"first_map": self.map_seeds[0]} | {key: getattr(self, key) for key in keys}
        if self.policy == "mix":
            recipe |= {name if name != "agent" else "acting": share for name, share in self.mix.items()}
        return recipe if self.agent is None else recipe | {"agent": digest_of(self.agent)}

    @property
    def walks_by_layout(self) -> bool:
        """Whether who acts needs an environment that knows its layout."""
        walkers = {name: share for name, share in self.mix.items() if name not in ("random", "roam", "agent")}
        walks_in_mix = self.policy == "mix" and any(share > 0 for share in walkers.values())
        return walks_in_mix or self.policy in ("waypoint", "loop", "search", "event")

    @property
    def mix(self) -> dict[str, float]:
        """Name to share of every policy in the mix."""
        mix = {"waypoint": self.waypoint, "loop": self.loop, "roam": self.roam, "random": self.random}
        if self.search:
            mix["search"] = self.search
        if self.events:
            mix["event"] = self.event
        return mix if self.agent is None else mix | {"agent": self.acting}


@dataclass(frozen=True)
class CollectProgress:
    """How far a recording is.

    Attributes:
        maps_done: finished maps, those of earlier runs included.
        maps: all maps.
        frames: frames in the finished maps.
        maps_kept: how many of the finished maps an earlier run had recorded.
    """

    maps_done: int
    maps: int
    frames: int
    maps_kept: int


def collect(
    config: CollectConfig, progress: Callable[[CollectProgress], None] | None = None
) -> RolloutDataset:
    """Record a data set, or complete one whose recording was interrupted.

    What is recorded in a map depends on the configuration and the map seed alone, not on the number of
    workers, nor on interruptions. Each map is written whole or not at all; a damaged file is recorded
    again. Worker processes are spawned, so a script that calls this needs ``if __name__ == "__main__":``.

    Args:
        config: what to record.
        progress: called after each map.

    Raises:
        ConfigError: the environment cannot be made, or the policy does not fit it.
        DataError: ``config.out`` holds another data set.
        EngineError: a worker or its engine died.
        WorldloopError: the disk is full.
    """
    writer = DatasetWriter.create(config.out, _describe(config))
    done = frames = kept = 0
    # Closed explicitly, so that the workers are gone before an exception leaves this function.
    with closing(run_tasks(partial(_Recorder, config, writer), config.map_seeds, config.engines)) as results:
        for _, result in results:
            done, frames, kept = done + 1, frames + result.frames, kept + result.kept
            if progress is not None:
                progress(CollectProgress(done, config.maps, frames, kept))
    return open_dataset(config.out, purpose="report")


def record_map(
    env: gym.Env[Any, Any], config: CollectConfig, map_seed: int, stopping: Callable[[], bool] = lambda: False
) -> list[Episode]:
    """``config.steps`` frames of one map: a function of ``config`` and ``map_seed`` alone.

    Raises:
        Stopped: ``stopping()`` turned true.
    """
    rng = np.random.default_rng([config.seed, map_seed])
    explorers = _Explorers(config)
    episodes: list[Episode] = []
    recorder = RecordEpisodes(env, episodes.append, map_seed=map_seed, keep_partial=True)
    left = config.steps
    while left >= 2:
        explorer = explorers.choose(rng)
        recorder.policy = explorer.name
        observation, info = recorder.reset(seed=int(rng.integers(2**31)), options={"map_seed": map_seed})
        explorer.reset(env, rng)
        over, left = False, left - 1
        while left and not over:
            if stopping():
                raise Stopped
            action = explorer.act(observation, info)
            observation, _, terminated, truncated, info = recorder.step(action)
            over, left = terminated or truncated, left - 1
        recorder.finish()
    return episodes


class _Explorers:
    """The explorers of a configuration, made when first used."""

    def __init__(self, config: CollectConfig) -> None:
        self._config = config
        self._made: dict[str, Explorer] = {}

    def choose(self, rng: np.random.Generator) -> Explorer:
        name = self._config.policy
        if name == "mix":
            shares = np.array(list(self._config.mix.values()))
            name = str(rng.choice(list(self._config.mix), p=shares / shares.sum()))
        if name not in self._made:
            self._made[name] = WithRandomActions(self._make(name), self._config.epsilon)
        return self._made[name]

    def _make(self, name: str) -> Explorer:
        if name == "waypoint":
            return WaypointExplorer(goal_fraction=self._config.goal_fraction)
        if name == "loop":
            return LoopWalker()
        if name == "random":
            return RandomPolicy()
        if name == "roam":
            return RoamingExplorer()
        if name == "search":
            return SearchingExplorer()
        if name == "event":
            return EventExplorer()
        if name == "agent":
            return load_explorer(AGENT, self._config.agent)
        if name.endswith(".zip"):
            return SB3Policy(name, self._config.algorithm)
        if ":" in name:
            return load_explorer(name)
        raise ConfigError(
            "A policy is mix, waypoint, loop, roam, search, event, random, agent, an SB3 model's .zip, or module:name; "
            f"got {name!r}."
        )


@dataclass(frozen=True)
class _MapResult:
    frames: int
    kept: bool


class _Recorder:
    """A `Worker` that records maps in an environment of its own."""

    def __init__(self, config: CollectConfig, writer: DatasetWriter) -> None:
        self._config, self._writer = config, writer
        self._env: gym.Env[Any, Any] | None = None
        if config.agent is not None:
            # One thread each, or the workers stand in each other's way.
            torch.set_num_threads(1)

    def run(self, task: int, stopping: Callable[[], bool]) -> _MapResult:
        name = f"map-{task:06d}"
        if frames := self._writer.frames_in(name):
            return _MapResult(frames, kept=True)
        if self._env is None:
            self._env = _make_env(self._config)
        episodes = record_map(self._env, self._config, task, stopping)
        self._writer.write(name, episodes)
        return _MapResult(_count(episodes), kept=False)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(episodes: Sequence[Episode]) -> int:
    return sum(len(episode) for episode in episodes)


def _make_env(config: CollectConfig) -> gym.Env[Any, Any]:
    try:
        return gym.make(config.env, disable_env_checker=True, **config.kwargs)
    except (gym.error.Error, TypeError, ImportError) as error:
        raise ConfigError(f"Cannot make {config.env} with {config.kwargs}: {error}") from error


def _describe(config: CollectConfig) -> DatasetInfo:
    _Explorers(config).choose(np.random.default_rng(0))
    env = _make_env(config)
    try:
        shape = env.observation_space.shape
        if shape is None or len(shape) != 3:
            raise ConfigError(
                f"Recording needs (H, W, 3) frames; {config.env} observes {env.observation_space}."
            )
        if config.agent is not None:
            # It refuses an environment that does not fit it.
            load_explorer(AGENT, config.agent).reset(env, np.random.default_rng(0))
        if config.walks_by_layout and not env.has_wrapper_attr("layout"):
            # Some environments know their layout only once they show a map.
            env.reset(options={"map_seed": config.map_seeds[0]})
            layout_of(env)
        return DatasetInfo(
            env_id=config.env,
            env_kwargs=config.kwargs,
            frame_size=(shape[0], shape[1]),
            action_spec=action_spec(env),
            split=config.split,
            generator=str(getattr(env.unwrapped, "generator_version", "")),
            recipe=config.recipe,
            maps=config.maps,
        )
    finally:
        env.close()
