"""Does what was learned in imagination hold in the real world? Agents at work on maps that no world was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from zlib import crc32

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..agents.trials import Actor, Narrows
from ..envs.imagination import check_fits
from ..errors import ConfigError
from ..files import write_json
from ..rollouts.splits import seed_range
from ..world_models.actions import ActionSpec
from ..world_models.world import World
from .acting_time import Spread, Timed
from .metrics import Interval, bootstrap, wilson
from .progress import Progress, silent
from .report import jsonable, provenance
from .transfer_groups import KeptGroups, Played

TransferTask = Literal["find-near", "find-next", "find-far", "return"]
"""``find``: reach the goal, in the room of the start, one door away, or anywhere; ``return``: leave and come back."""


class RandomActor:
    """Uniformly random actions: chance.

    Args:
        spec: the actions.
        seed: of them all.
    """

    def __init__(self, spec: ActionSpec, seed: int = 0) -> None:
        self._spec, self._seed = spec, seed

    def predict(
        self, observation: Mapping[str, Any], state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, tuple[int, int]]:
        """Actions (B, ...), and a number made of the places it began at with the number of calls so far."""
        spec, b = self._spec, len(observation["frame"])
        begun, calls = (crc32(np.asarray(observation["pose"]).tobytes()), 0) if state is None else state
        rng = np.random.default_rng([self._seed, begun, calls])
        if spec.kind == "discrete":
            return rng.integers(spec.n, size=b), (begun, calls + 1)
        return rng.uniform(-1, 1, (b, *spec.shape)).astype(np.float32), (begun, calls + 1)


@dataclass(frozen=True)
class TransferConfig:
    """Which tasks, on how many maps."""

    tasks: tuple[TransferTask, ...] = ("find-near", "return")
    """What is to be done."""
    episodes: int = 100
    """Of each task, each on a map of its own; the same maps, starts and goals for all who are compared."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    max_steps: int | None = None
    """Steps after which an episode is cut off; default: the environment's own limit."""
    deterministic: bool = False
    """Take the likeliest action instead of a drawn one."""
    envs: int = 8
    """Real environments side by side, one for each episode of a group; an interruption costs one group."""
    seed: int = 0
    """Of maps, starts and chance."""

    def __post_init__(self) -> None:
        if not self.tasks or not set(self.tasks) <= set(get_args(TransferTask)):
            raise ConfigError(f"Tasks are {', '.join(get_args(TransferTask))}; got {', '.join(self.tasks) or 'none'}.")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Transfer is measured on 'validation' or 'test' maps, not on {self.split!r}.")
        if min(self.episodes, self.envs) < 1:
            raise ConfigError("episodes and envs are at least 1.")


@dataclass(frozen=True)
class TransferRow:
    """What one of those compared achieved in one task.

    Attributes:
        task: what was to be done.
        name: of who did it.
        success: share of episodes solved; Wilson interval.
        reward: undiscounted return; interval over maps.
        steps: of the episodes that were solved; interval over maps.
        gain: success minus that of random actions on the same maps; interval over maps.
        seconds: that one action took, worlds side by side sharing the time of their call: median and quartiles.
    """

    task: str
    name: str
    success: Interval
    reward: Interval
    steps: Interval
    gain: Interval
    seconds: Spread


@dataclass(frozen=True)
class TransferReport:
    """What `evaluate_transfer` found.

    Attributes:
        config: what was asked.
        rows: one for each task and each of those compared.
        episodes: everything that was played, by task and name.
        provenance: versions and time.
    """

    config: TransferConfig
    rows: tuple[TransferRow, ...]
    episodes: dict[str, dict[str, list[Played]]]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        return "\n".join(
            f"{row.task:<9} {row.name:<{width}}  success {row.success}  return {row.reward}  "
            f"steps {row.steps if row.steps.n else '–'}  over chance {row.gain}  seconds/action {row.seconds}"
            for row in self.rows
        )

    def compare(
        self, task: str, name: str | Sequence[str], other: str | Sequence[str], measure: Measure = "success"
    ) -> Interval:
        """What ``name`` achieved in ``task`` minus what ``other`` did, map by map; interval over maps.

        Several names, such as those of agents that differ by their seed, count with their mean on each map. Steps are
        those of episodes that were solved, on maps where both sides solved any.

        Raises:
            KeyError: they have not played that.
        """
        mine, theirs = (self._on_maps(task, _names(who), measure) for who in (name, other))
        maps = [episode.map_seed for episode in next(iter(self.episodes[task].values()))]
        return bootstrap(mine - theirs, maps, seed=self.config.seed)

    def beside(self, others: Sequence[str]) -> str:
        """Everyone but chance minus ``others``, task by task and map by map, and all of them together, to read."""
        told = []
        for task, played in self.episodes.items():
            names = [name for name in played if name not in others and name != "random"]
            told += [self.difference(task, name, others) for name in names]
            told += [self.difference(task, names, others)] if len(names) > 1 else []
        return "\n".join(told)

    def difference(self, task: str, name: str | Sequence[str], others: Sequence[str]) -> str:
        """What `compare` says of every measure, to read."""
        found = {measure: self.compare(task, name, others, measure) for measure in get_args(Measure)}
        told = "  ".join(
            f"{m} {i.estimate:+.3f} [{i.low:+.3f}, {i.high:+.3f}]" if i.n else f"{m} –" for m, i in found.items()
        )
        sides = ["(" + ", ".join(side) + ")" if len(side) > 1 else side[0] for side in (_names(name), _names(others))]
        return f"{task:<9} {sides[0]} minus {sides[1]}: {told}"

    def _on_maps(self, task: str, names: Sequence[str], measure: Measure) -> NDArray[np.float64]:
        """Means over ``names`` (maps,), NaN where none of them has a number."""
        everyone = [self.episodes[task][name] for name in names]
        table = np.array([[float(getattr(episode, measure)) for episode in played] for played in everyone])
        if measure == "steps":
            table[~np.array([[episode.success for episode in played] for played in everyone])] = np.nan
        count = (~np.isnan(table)).sum(0)
        return np.where(count, np.nansum(table, 0) / np.maximum(count, 1), np.nan)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; numbers that do not exist are null."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data


def _names(who: str | Sequence[str]) -> Sequence[str]:
    return (who,) if isinstance(who, str) else who


Measure = Literal["success", "reward", "steps"]
"""Of an episode: whether it was solved, its undiscounted return, its steps."""
MakeTask = Callable[[TransferTask], gym.Env[Any, Any]]
"""Makes the real environment of a task."""


def evaluate_transfer(
    world: World,
    actors: Mapping[str, Actor],
    config: TransferConfig,
    out: Path | None = None,
    *,
    identities: Mapping[str, str] | None = None,
    make_env: MakeTask | None = None,
    progress: Progress = silent,
) -> TransferReport:
    """Let agents act in the real world, and random actions with them; write ``transfer.json`` into ``out``.

    Episodes are played in groups of ``config.envs``, each group as if it were the first.

    Args:
        world: whose frames and actions the real environments must have.
        actors: who is compared, by name; ``random`` is added.
        config: tasks and maps.
        out: directory for the report; None for none.
        identities: by name, what tells an actor from others of that name, such as a digest. What these have played is
            kept in ``out``, and the same call goes on with it.
        make_env: makes a real environment, called ``config.envs`` times for each task; default DoomRooms.
        progress: told after every episode.

    Raises:
        ConfigError: an environment that does not fit the world, or an actor called ``random``.
    """
    if "random" in actors:
        raise ConfigError("'random' is the name of chance, which is compared anyway; call your actor otherwise.")
    everyone: dict[str, Actor] = {**actors, "random": RandomActor(world.actions, config.seed)}
    known = {**(identities or {}), "random": ""}
    rng = np.random.default_rng(config.seed)
    rows: list[TransferRow] = []
    played: dict[str, dict[str, list[Played]]] = {}
    for task in config.tasks:
        maps = rng.choice(seed_range(config.split), config.episodes, replace=False).tolist()
        with ExitStack() as stack:
            make = make_env or (lambda name: doom_rooms_task(world, name, config))
            envs = [stack.enter_context(closing(make(task))) for _ in range(min(config.envs, config.episodes))]
            check_fits(world, envs[0])
            seconds: dict[str, list[float]] = {}
            played[task] = {}
            for name, actor in everyone.items():
                path = None if out is None or name not in known else out / "episodes" / _file_name(task, name)
                kept = KeptGroups(path, f"{known.get(name)} {asdict(config)} {_generator(envs[0])}")
                _play_groups(Timed(actor), envs, maps, config, kept, f"{task}, {name}", progress)
                played[task][name] = [episode for group in kept.groups for episode in group.episodes]
                seconds[name] = [second for group in kept.groups for second in group.seconds]
        chance = played[task]["random"]
        rows += [
            _row(task, name, episodes, chance, seconds[name], config.seed) for name, episodes in played[task].items()
        ]
    report = TransferReport(config, tuple(rows), played, provenance(world))
    if out is not None:
        write_json(out / "transfer.json", report.to_json())
    return report


def _play_groups(
    actor: Timed,
    envs: Sequence[gym.Env[Any, Any]],
    maps: Sequence[int],
    config: TransferConfig,
    kept: KeptGroups,
    stage: str,
    progress: Progress,
) -> None:
    """Play what is not kept yet, and keep it."""
    for done in range(sum(len(group.episodes) for group in kept.groups), len(maps), len(envs)):
        actor.seconds.clear()

        def tell(more: int, done: int = done) -> None:
            progress(stage, done + more, len(maps))

        episodes = play(actor, envs, maps[done : done + len(envs)], config.seed, config.deterministic, tell)
        kept.add(episodes, actor.seconds)


def _file_name(task: str, name: str) -> str:
    """One for each task and actor, whatever the name is made of."""
    return f"{task}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"


def _generator(env: gym.Env[Any, Any]) -> str:
    return str(getattr(env.unwrapped, "generator_version", ""))


def play(
    actor: Actor,
    envs: Sequence[gym.Env[Any, Any]],
    maps: Sequence[int],
    seed: int,
    deterministic: bool,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Played]:
    """One episode on each of ``maps``, as many side by side as there are environments; a free one takes the next map.

    Where an episode begins on its map depends on ``seed`` and the map alone.
    """
    envs = envs[: len(maps)]
    results: dict[int, Played] = {}
    waiting = iter(range(len(maps)))
    running: dict[int, int] = {}
    frames: list[Any] = [None] * len(envs)
    poses: list[Any] = [None] * len(envs)
    earned, steps = [0.0] * len(envs), [0] * len(envs)
    begun = np.zeros(len(envs), bool)

    def begin(slot: int) -> None:
        index = next(waiting, None)
        if index is None:
            running.pop(slot, None)
            return
        running[slot], earned[slot], steps[slot], begun[slot] = index, 0.0, 0, True
        start = int(np.random.default_rng([seed, maps[index]]).integers(2**31))
        frames[slot], info = envs[slot].reset(seed=start, options={"map_seed": int(maps[index])})
        poses[slot] = info["pose"]

    for slot in range(len(envs)):
        begin(slot)
    state: Any = None
    slots = list(range(len(envs)))
    while running:
        observation = {"frame": np.stack([frames[i] for i in slots]), "pose": np.stack([poses[i] for i in slots])}
        actions, state = actor.predict(observation, state, begun[slots], deterministic)
        begun[:] = False
        for slot in sorted(running):
            frames[slot], reward, terminated, truncated, info = envs[slot].step(actions[slots.index(slot)])
            poses[slot] = info["pose"]
            earned[slot] += float(reward)
            steps[slot] += 1
            if terminated or truncated:
                index = running[slot]
                results[index] = Played(int(maps[index]), bool(info["success"]), earned[slot], steps[slot])
                tell(len(results))
                begin(slot)
        if running and len(running) < len(slots) and isinstance(actor, Narrows):
            # Who has done is not thought for any more: the last episode of many may be a long one.
            left = [row for row, slot in enumerate(slots) if slot in running]
            state, slots = actor.keep(state, left), [slots[row] for row in left]
    return [results[index] for index in range(len(maps))]


def doom_rooms_task(world: World, task: TransferTask, config: TransferConfig) -> gym.Env[Any, Any]:
    """DoomRooms with a task, on maps of the configuration's split, as ``world`` sees and acts in it."""
    kind, _, level = task.partition("-")
    return gym.make(
        "worldloop/DoomRooms-v0",
        task=kind,
        level=level or "near",
        split=config.split,
        frame_size=tuple(world.frame_size),
        actions="discrete" if world.actions.kind == "discrete" else "continuous",
        max_steps=config.max_steps,
    )


def _row(
    task: str,
    name: str,
    episodes: Sequence[Played],
    chance: Sequence[Played],
    seconds: Sequence[float],
    seed: int,
) -> TransferRow:
    maps = [episode.map_seed for episode in episodes]
    return TransferRow(
        task=task,
        name=name,
        success=wilson(sum(episode.success for episode in episodes), len(episodes)),
        reward=bootstrap([episode.reward for episode in episodes], maps, seed=seed),
        steps=bootstrap([e.steps if e.success else np.nan for e in episodes], maps, seed=seed),
        gain=_gain(episodes, chance, seed),
        seconds=Spread.of(seconds),
    )


def _gain(episodes: Sequence[Played], others: Sequence[Played], seed: int) -> Interval:
    """Success minus that of others on the same maps; interval over maps."""
    maps = [episode.map_seed for episode in episodes]
    return bootstrap([e.success - o.success for e, o in zip(episodes, others, strict=True)], maps, seed=seed)
