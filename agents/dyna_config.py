"""`DynaConfig`: everything that a run from nothing to an agent depends on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..envs.collecting import CollectConfig, EnvKwargs
from ..errors import ConfigError
from ..world_models.config import Imagination, Motions, Preset
from ..world_models.prediction.flow import Sampler
from ..world_models.training.config import StageConfig, TrainConfig
from .actor_critic import ActorCriticConfig
from .cloning import cloning_training
from .sb3_config import Sb3Config, imagined_sb3
from .train import TrainAgentConfig, imagined_actor_critic, imagined_training

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class DynaCollect:
    """What is recorded of the real world."""

    first_maps: int = 480
    """Training maps that the explorers record in round 0."""
    maps: int = 240
    """New training maps of every later round."""
    steps: int = 250
    """Frames per map."""
    acting: float = 2.0
    """Share of the last round's agent in later rounds; that of all explorers but the searching one together is 1."""
    search: float = 2.0
    """Share of the searching explorer, which knows the goal only when it sees it, beside 1 of all other explorers."""
    epsilon: float = 0.08
    """Probability that an action is replaced by a random one."""
    goal_fraction: float = 0.8
    """How often the waypoint explorer walks to the goal object."""
    env_kwargs: EnvKwargs = field(default_factory=lambda: {"task": "find", "level": "near"})
    """Arguments of DoomRooms: what is to be learned. How it is tried is told by the transfer options."""


@dataclass(frozen=True)
class FurtherSteps:
    """How a world is trained on, from the last round's, on the data of all rounds."""

    heads: StageConfig = field(
        default_factory=lambda: StageConfig(1000, batch_size=256, learning_rate=5e-4, weight_decay=0.05)
    )
    """Where actions lead, reward and end."""
    dynamics: StageConfig = field(default_factory=lambda: StageConfig(2500, learning_rate=5e-4))
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
    """What agents perceive by, and the state space."""


@dataclass(frozen=True)
class DynaAgent:
    """How the agent of every round is trained; each round trains a new one."""

    method: Literal["sb3", "imagination"] = "sb3"
    """By PPO of Stable-Baselines3, or by our actor-critic."""
    imagination: Imagination = TrainAgentConfig.imagination
    """Imagine in video, or without drawing."""
    denoising_steps: int | None = TrainAgentConfig.denoising_steps
    """In video: calls of the video model for each frame; None for as many as the world takes by itself."""
    sampler: Sampler | None = TrainAgentConfig.sampler
    """In video: how frames are drawn in these steps."""
    motions: Motions | None = TrainAgentConfig.motions
    """Where actions lead: to the likeliest place, or drawn; default: drawn, if the world knows more than that."""
    curiosity: float = TrainAgentConfig.curiosity
    """In video: reward of an imagined step that shows what memory has not."""
    imagined_steps: int = TrainAgentConfig.imagined_steps
    """With sb3: steps in all imagined environments together."""
    time_limit: int = TrainAgentConfig.time_limit
    """With sb3: imagined steps after which an episode is cut off."""
    sb3: Sb3Config = field(default_factory=imagined_sb3)
    """How PPO learns."""
    actor_critic: ActorCriticConfig = field(default_factory=imagined_actor_critic)
    """How our actor-critic learns, and how large it is."""
    training: StageConfig = field(default_factory=imagined_training)
    """Steps, batch size, learning rate of our actor-critic."""
    imitate: bool = TrainAgentConfig.imitate
    """Begin with what was done in the data, and what came of it; see `worldloop train-agent`."""
    rewarded: bool = TrainAgentConfig.rewarded
    """Imitate only episodes in which more was earned than lost."""
    samples: int = TrainAgentConfig.samples
    """Recorded choices that are imitated."""
    cloning: StageConfig = field(default_factory=cloning_training)
    """Steps, batch size, learning rate of imitating."""
    starts: int = TrainAgentConfig.starts
    """Recorded starts that agents imagine from."""
    beginnings: float = TrainAgentConfig.beginnings
    """Share of them that are beginnings of episodes; the others may be anywhere in one."""
    stopped: float = TrainAgentConfig.stopped
    """Share of them at which a walker has just been stopped dead; above 0 the recordings must have such moments."""
    context: int = TrainAgentConfig.context
    """Frames that the world observes of each."""
    shortest: int | None = TrainAgentConfig.shortest
    """Frames of the starts with least to remember, see `worldloop train-agent`; None: all have --agent.context."""

    def __post_init__(self) -> None:
        # What it refuses is refused before anything is recorded.
        self.of(Path("agent"), "doom-rooms-nano", Path("data"), 0, "auto", 1)

    def of(
        self, out: Path, world: str, data: Path, seed: int, device: Device, checkpoint_every: int
    ) -> TrainAgentConfig:
        """The training of one agent."""
        shared: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        return TrainAgentConfig(
            out, world=world, data=data, agent=shared.pop("actor_critic"), seed=seed, device=device,
            checkpoint_every=checkpoint_every, **shared,
        )  # fmt: skip

    @property
    def steps(self) -> int:
        """Of training: imagined ones, or updates of our actor-critic."""
        return self.sb3.whole("PPO", self.imagined_steps) if self.method == "sb3" else self.training.steps

    def imagined(self, begin: int, end: int) -> int:
        """Steps imagined from one step of training to another."""
        if self.method == "sb3":
            return end - begin
        horizons = (self.actor_critic.horizon_at(step, self.training.steps) for step in range(begin, end))
        return self.training.batch_size * sum(horizons)


@dataclass(frozen=True)
class DynaConfig:
    """From nothing to an agent: record, train a world, train an agent in it, try it in the real world; record again
    with that agent, and so on."""

    out: Path
    """Directory of the run. The same command again goes on where it was interrupted."""
    rounds: int = 1
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
    agent: DynaAgent = field(default_factory=DynaAgent)
    """How agents learn; each round trains a new one."""
    seed: int = 0
    """Seed of everything random but the maps, which are the first of their split."""
    device: Device = "auto"
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
            steps=asked.steps, agent=agent if number else None, acting=asked.acting, search=asked.search,
            epsilon=asked.epsilon, goal_fraction=asked.goal_fraction, env_kwargs=asked.env_kwargs, seed=self.seed,
            workers=self.workers,
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
        return self.agent.of(
            self.directory(number) / "agent", str(self.directory(number) / "world" / "world"), self.data,
            self.seed + number, self.device, self.checkpoint_every,
        )  # fmt: skip


def smoke(config: DynaConfig) -> DynaConfig:
    """The same run with next to no data and steps: it shows in minutes that all goes through, and nothing else."""

    def few(steps: int, batch_size: int = 8) -> StageConfig:
        return StageConfig(steps, batch_size=batch_size, warmup=2)

    return replace(
        config,
        rounds=2,
        collect=replace(
            config.collect, first_maps=6, maps=4, steps=60, goal_fraction=1.0,
            env_kwargs={"task": "find", "level": "near"},
        ),
        first=FirstSteps(few(40), few(40), few(20), few(20)),
        further=FurtherSteps(few(20), few(10), few(10)),
        agent=replace(
            config.agent, imagined_steps=200, time_limit=10,
            sb3=replace(config.agent.sb3, envs=4, rollout=10, batch_size=20),
            actor_critic=replace(config.agent.actor_critic, horizon=5, first_horizon=3),
            training=replace(config.agent.training, steps=20, batch_size=16, warmup=2), starts=16,
            samples=64, cloning=replace(config.agent.cloning, steps=20, batch_size=16, warmup=2), rewarded=False,
        ),
        checkpoint_every=5,
    )  # fmt: skip
