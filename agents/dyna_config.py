"""`DynaConfig`: everything that a run from nothing to an agent depends on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..envs.collecting import CollectConfig, EnvKwargs
from ..errors import ConfigError
from ..world_models.config import Preset
from ..world_models.training.config import StageConfig, TrainConfig
from .actor_critic import ActorCriticConfig
from .train import TrainAgentConfig
from .training import agent_training


@dataclass(frozen=True)
class DynaCollect:
    """What is recorded of the real world."""

    first_maps: int = 240
    """Training maps that the explorers record in round 0."""
    maps: int = 80
    """New training maps of every later round."""
    steps: int = 250
    """Frames per map."""
    acting: float = 1.0
    """Share of the last round's agent in later rounds; that of all explorers together is 1."""
    epsilon: float = 0.05
    """Probability that an action is replaced by a random one."""
    goal_fraction: float = 1 / 3
    """How often the waypoint explorer walks to the goal object."""
    env_kwargs: EnvKwargs | None = None
    """Arguments of DoomRooms, such as `task=find level=near`. Default: task=find level=far."""


@dataclass(frozen=True)
class FurtherSteps:
    """How a world is trained on, from the last round's, on the data of all rounds."""

    heads: StageConfig = field(
        default_factory=lambda: StageConfig(1000, batch_size=256, learning_rate=5e-4, weight_decay=0.05)
    )
    """Where actions lead, reward and end."""
    dynamics: StageConfig = field(default_factory=lambda: StageConfig(1500, learning_rate=5e-4))
    """The video model."""
    state: StageConfig = field(default_factory=lambda: StageConfig(1000, learning_rate=5e-4))
    """The state space."""


@dataclass(frozen=True)
class FirstSteps:
    """How the world of round 0 is trained."""

    autoencoder: StageConfig = field(default_factory=lambda: StageConfig(3000, learning_rate=2e-3))
    """Frames to latents and back; later rounds keep it."""
    heads: StageConfig = field(default_factory=lambda: StageConfig(3000, batch_size=256, weight_decay=0.05))
    """Where actions lead, reward and end."""
    dynamics: StageConfig = field(default_factory=lambda: StageConfig(6000))
    """The video model."""
    state: StageConfig = field(default_factory=lambda: StageConfig(3000))
    """The state space, which the agent learns in."""


@dataclass(frozen=True)
class DynaConfig:
    """From nothing to an agent: record, train a world, train an agent in it, try it in the real world; record again
    with that agent, and so on."""

    out: Path
    """Directory of the run. The same command again goes on where it was interrupted."""
    rounds: int = 3
    """Rounds in all. A larger number than before goes on with a finished run."""
    preset: Preset = "nano"
    """Size of the world."""
    start_from: tuple[str, ...] = ()
    """Worlds that round 0 goes on from, see `worldloop train`; default: from nothing."""
    collect: DynaCollect = field(default_factory=DynaCollect)
    """What is recorded."""
    first: FirstSteps = field(default_factory=FirstSteps)
    """How the world of round 0 is trained."""
    further: FurtherSteps = field(default_factory=FurtherSteps)
    """How it is trained on in later rounds."""
    agent: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """How agents learn; each round trains a new one."""
    training: StageConfig = field(default_factory=agent_training)
    """Their steps, batch size, learning rate."""
    starts: int = 512
    """Recorded starts that agents imagine from."""
    context: int = 32
    """Frames that the world observes of each."""
    seed: int = 0
    """Seed of everything random but the maps, which are the first of their split."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    workers: int | None = None
    """Engines side by side. Default: one per processor core."""
    checkpoint_every: int = 100
    """Steps between checkpoints: what an interruption costs at most."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"A run has at least one round; got rounds={self.rounds}.")
        # They know what they refuse.
        for number in (0, 1):
            self.recording(number, Path("agent"))
            self.world(number)
            self.learning(number)

    def directory(self, number: int) -> Path:
        """Of a round."""
        return self.out / f"round-{number}"

    @property
    def data(self) -> Path:
        """The data set that grows: the recordings of all rounds so far."""
        return self.out / "data"

    def maps_after(self, number: int) -> int:
        """Maps recorded when a round has ended."""
        return self.collect.first_maps + number * self.collect.maps

    def recording(self, number: int, agent: Path | None) -> CollectConfig:
        """What round ``number`` records, with the agent of the round before."""
        asked = self.collect
        first_map = self.maps_after(number - 1) if number else 0
        return CollectConfig(
            self.directory(number) / "data", maps=self.maps_after(number) - first_map, first_map=first_map,
            steps=asked.steps, agent=agent if number else None, acting=asked.acting, epsilon=asked.epsilon,
            goal_fraction=asked.goal_fraction, env_kwargs=asked.env_kwargs, seed=self.seed, workers=self.workers,
        )  # fmt: skip

    def world(self, number: int) -> TrainConfig:
        """How the world of round ``number`` is trained."""
        how = self.first if number == 0 else self.further
        before = str(self.directory(number - 1).resolve() / "world" / "world")
        return TrainConfig(
            self.data, self.directory(number) / "world", preset=self.preset, seed=self.seed + number,
            device=self.device, autoencoder=self.first.autoencoder, heads=how.heads, dynamics=how.dynamics,
            state=how.state, start_from=(before,) if number else self.start_from,
            checkpoint_every=self.checkpoint_every,
        )  # fmt: skip

    def learning(self, number: int) -> TrainAgentConfig:
        """How the agent of round ``number`` is trained."""
        return TrainAgentConfig(
            self.directory(number) / "agent", world=str(self.directory(number) / "world" / "world"), data=self.data,
            starts=self.starts, context=self.context, agent=self.agent, training=self.training,
            seed=self.seed + number, device=self.device, checkpoint_every=self.checkpoint_every,
        )  # fmt: skip


def smoke(config: DynaConfig) -> DynaConfig:
    """The same run with next to no data and steps: it shows in minutes that all goes through, and nothing else."""

    def few(steps: int, batch_size: int = 8) -> StageConfig:
        return StageConfig(steps, batch_size=batch_size, warmup=2)

    return replace(
        config,
        rounds=min(config.rounds, 2),
        collect=replace(
            config.collect, first_maps=6, maps=4, steps=60, goal_fraction=1.0,
            env_kwargs={"task": "find", "level": "near"},
        ),
        first=FirstSteps(few(40), few(40), few(20), few(20)),
        further=FurtherSteps(few(20), few(10), few(10)),
        agent=replace(config.agent, horizon=5, first_horizon=3),
        training=replace(config.training, steps=20, batch_size=16, warmup=2),
        starts=16,
        context=8,
        checkpoint_every=5,
    )  # fmt: skip
